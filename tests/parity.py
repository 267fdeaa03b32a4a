"""Runs golden cases, numbers recorded from the methods' original codes, against this project's parts.

    python tests/parity.py DIR [--case PATTERN]

DIR is a folder with a cases.json (losses, transforms, metrics) or parity*.json (networks, see recorded/networks.py), or
a folder of such folders. PATTERN selects cases by `<folder>/<case>` or by loss name, as a wildcard pattern or a part of
either. One line per failing case, one per loss or network that segkd does not have, a closing line `N passed, M
failed`; exit status 1 when a case failed.

A module of recorded/ maps loss names to runners, and to tolerances where these are not 1e-9 relative. A runner takes
(params of the case and its `state`, inputs as tensors that collect gradients, all arrays but the expected ones) and
returns {expected name: computed array}; every expected array must be among them, as None where the runner says why an
original's number means nothing. A tolerance is a number (largest absolute difference), {"relative": number} (the same
divided by the largest expected magnitude), or {expected name: such a one}. Expected integers must be met exactly; what
is recorded below 1e-12 of the inputs' scale is rounding noise of a zero.
"""

import argparse
import collections
import fnmatch
import json
import sys
from pathlib import Path

import numpy as np
from recorded import (
    baselines,
    cirkd,
    data,
    features,
    interactive,
    losses,
    networks,
    objectives,
    realtime,
    rmrkd,
    scores,
    similarity,
    steps,
    trikd,
)
from recorded.arrays import tensors
from recorded.compare import NEAR, compare, noise_of

MODULES = (losses, scores, data, similarity, objectives, cirkd, rmrkd, baselines, trikd, interactive, steps, features,
           realtime)  # fmt: skip
RUNNERS = {loss: runner for module in MODULES for loss, runner in module.RUNNERS.items()}
TOLERANCE = {loss: value for module in MODULES for loss, value in getattr(module, "TOLERANCE", {}).items()}

# expected arrays that record a fault of an original on purpose and that nothing here imitates
NOT_REPRODUCED = {
    "pixel_acc_original",  # CIRKD: argmax of logits truncated to integers; pixel_acc_true is the right one
}


def find_cases(folder: Path, pattern: str | None) -> list[tuple[Path, dict]]:
    """The cases of a folder, or of its sub-folders, that match the pattern, each with its folder."""
    folders = [place for place in (folder, *sorted(folder.glob("*/"))) if _holds_cases(place)]
    if not folders:
        raise FileNotFoundError(f"{folder}: neither it nor a folder in it holds a cases.json or a parity.json")
    found = []
    for place in folders[:1] if folders[0] == folder else folders:
        cases = json.loads((place / "cases.json").read_text()) if (place / "cases.json").is_file() else []
        for case in cases + networks.find_cases(place):
            if pattern is None or _matches(pattern, f"{place.resolve().name}/{case['case']}", case["loss"]):
                found.append((place, case))
    return found


def _holds_cases(folder: Path) -> bool:
    return (folder / "cases.json").is_file() or any(folder.glob("parity*.json"))


def _matches(pattern: str, *names: str) -> bool:
    return any(pattern in name or fnmatch.fnmatchcase(name, pattern) for name in names)


def run_case(folder: Path, case: dict) -> list[str] | None:
    """Faults of one case, each as text; an empty list is a pass, None: segkd has no such loss or network."""
    is_network = case["loss"] == "network"
    if not is_network and case["loss"] not in RUNNERS:
        return None
    with np.load(folder / case.get("npz", f"{case['case']}.npz")) as stored:
        arrays = dict(stored)
    expected = {key.removeprefix("expected:"): arrays.pop(key) for key in list(arrays) if key.startswith("expected:")}
    noise = noise_of(value for key, value in arrays.items() if key.startswith("input:"))
    if is_network:
        computed = networks.compute(case, arrays, expected)
    else:
        computed = RUNNERS[case["loss"]](case["params"] | {"state": case.get("state")}, tensors(arrays), arrays)
    if computed is None:
        return None
    faults = []
    for name, wanted in expected.items():
        if name in NOT_REPRODUCED:
            continue
        if name not in computed:
            fault = "not computed"
        elif is_network:
            fault = networks.fault(case, name, computed[name], wanted, noise)
        elif computed[name] is None:
            continue
        else:
            fault = compare(name, np.asarray(computed[name]), wanted, TOLERANCE.get(case["loss"], NEAR), noise)
        faults += [f"{name}: {fault}"] if fault else []
    return faults


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare this project's parts with recorded numbers.")
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="folder with cases.json, parity*.json, or of such folders"
    )
    parser.add_argument("--case", metavar="PATTERN", help="only these: <folder>/<case>, a loss name, or part of one")
    options = parser.parse_args(arguments)
    try:
        cases = find_cases(options.folder, options.case)
    except FileNotFoundError as error:
        parser.error(str(error))
    passed, failed, uncovered = 0, 0, collections.Counter()
    for folder, case in cases:
        try:
            faults = run_case(folder, case)
        except Exception as error:  # a case that cannot run is a failed case and must not hide the others
            faults = [f"{type(error).__name__}: {error}"]
        if faults is None:
            uncovered[networks.name_of(case) if case["loss"] == "network" else case["loss"]] += 1
            continue
        passed, failed = passed + (not faults), failed + bool(faults)
        if faults:
            print(f"{folder.resolve().name}/{case['case']} ({case['loss']}): " + "; ".join(faults))
    for name, count in sorted(uncovered.items()):
        print(f"not covered: {name} ({count} cases)")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
