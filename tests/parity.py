"""Runs golden cases, numbers recorded from the methods' original codes, against this project's parts.

    python tests/parity.py DIR [--case PATTERN]

DIR is a folder with a cases.json (losses, transforms, metrics) or parity*.json (networks, see parity_networks.py), or a
folder of such folders. PATTERN selects cases by `<folder>/<case>` or by loss
name, as a wildcard pattern or a part of either. One line per failing case, one per loss name that no runner covers,
a closing line `N passed, M failed`; exit status 1 when a case failed.

A parity_*.py module maps loss names to runners and tolerances. A runner takes (case, arrays without the expected ones)
and returns {expected name: computed array}; every expected array must be among them, as None where the runner says why
an original's number means nothing. A tolerance is a number (largest
absolute difference), {"relative": number} (the same divided by the largest expected magnitude), or one of these per
expected name with "*" for the others. Expected integers must be met exactly.
"""

import argparse
import fnmatch
import json
import sys
from pathlib import Path

import numpy as np
import parity_baselines
import parity_cirkd
import parity_data
import parity_interactive
import parity_losses
import parity_networks
import parity_objectives
import parity_rmrkd
import parity_scores
import parity_similarity
import parity_step
import parity_trikd

MODULES = (
    parity_losses,
    parity_scores,
    parity_data,
    parity_similarity,
    parity_objectives,
    parity_cirkd,
    parity_rmrkd,
    parity_baselines,
    parity_trikd,
    parity_interactive,
    parity_step,
)
RUNNERS = {loss: runner for module in MODULES for loss, runner in module.RUNNERS.items()}
TOLERANCE = {loss: tolerance for module in MODULES for loss, tolerance in module.TOLERANCE.items()}

# expected arrays that record a fault of an original on purpose and that nothing here imitates
NOT_REPRODUCED = {
    "pixel_acc_original",  # CIRKD: argmax of logits truncated to integers; pixel_acc_true stands beside it
}


def find_cases(folder: Path, pattern: str | None) -> list[tuple[Path, dict]]:
    """The cases of a folder, or of its sub-folders, that match the pattern, each with its folder."""
    folders = [place for place in (folder, *sorted(folder.glob("*/"))) if _holds_cases(place)]
    if not folders:
        raise FileNotFoundError(f"{folder}: neither it nor a folder in it holds a cases.json or a parity.json")
    found = []
    for place in folders[:1] if folders[0] == folder else folders:
        losses = json.loads((place / "cases.json").read_text()) if (place / "cases.json").is_file() else []
        networks = [{**case, "loss": "network"} for case in parity_networks.find_cases(place)]
        for case in losses + networks:
            if pattern is None or _matches(pattern, f"{place.resolve().name}/{case['case']}", case["loss"]):
                found.append((place, case))
    return found


def _holds_cases(folder: Path) -> bool:
    return (folder / "cases.json").is_file() or any(folder.glob("parity*.json"))


def _matches(pattern: str, *names: str) -> bool:
    return any(pattern in name or fnmatch.fnmatchcase(name, pattern) for name in names)


def run_case(folder: Path, case: dict) -> list[str]:
    """Faults of one case, each as text; an empty list is a pass."""
    if case["loss"] == "network":
        return parity_networks.run_case(folder, case)
    with np.load(folder / f"{case['case']}.npz") as stored:
        arrays = dict(stored)
    expected = {key.removeprefix("expected:"): arrays.pop(key) for key in list(arrays) if key.startswith("expected:")}
    computed = RUNNERS[case["loss"]](case, arrays)
    faults = []
    for name, wanted in expected.items():
        if name in NOT_REPRODUCED:
            continue
        if name not in computed:
            faults.append(f"{name}: not computed")
            continue
        if computed[name] is None:
            continue
        fault = compare(name, np.asarray(computed[name]), wanted, TOLERANCE[case["loss"]])
        if fault:
            faults.append(f"{name}: {fault}")
    return faults


def compare(name: str, ours: np.ndarray, wanted: np.ndarray, tolerance: float | dict) -> str | None:
    """What is wrong with one array, or None."""
    if ours.shape != wanted.shape:
        return f"shape {ours.shape} instead of {wanted.shape}"
    if isinstance(tolerance, dict) and "relative" not in tolerance:
        tolerance = tolerance[name] if name in tolerance else tolerance["*"]
    exact = wanted.dtype.kind in "iub"
    ours, wanted = ours.astype(np.float64), wanted.astype(np.float64)
    undefined = np.isnan(wanted)
    # with every pixel ignored the originals' losses are NaN and this project's 0, with a zero gradient
    zero_will_do = name == "loss" or name.startswith(("grad:", "term:"))
    wrong = undefined & ~np.isnan(ours) & ~(zero_will_do & (ours == 0)) | ~undefined & np.isnan(ours)
    if wrong.any():
        return f"{int(wrong.sum())} values are NaN on one side only"
    error = np.abs(ours - wanted)[~undefined].max(initial=0.0)
    if exact:
        allowed, kind = 0.0, "exact"
    elif isinstance(tolerance, dict):
        allowed, kind = tolerance["relative"], "relative"
        error /= np.abs(wanted[~undefined]).max(initial=0.0) or 1.0
    else:
        allowed, kind = tolerance, "absolute"
    return None if error <= allowed else f"{kind} error {error:.3g}, tolerance {allowed:.3g}"


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
    passed, failed, uncovered = 0, 0, {}
    for folder, case in cases:
        if case["loss"] not in RUNNERS and case["loss"] != "network":
            uncovered[case["loss"]] = uncovered.get(case["loss"], 0) + 1
            continue
        try:
            faults = run_case(folder, case)
        except Exception as error:  # a case that cannot run is a failed case and must not hide the others
            faults = [f"{type(error).__name__}: {error}"]
        passed, failed = passed + (not faults), failed + bool(faults)
        if faults:
            print(f"{folder.resolve().name}/{case['case']} ({case['loss']}): " + "; ".join(faults))
    for loss, count in sorted(uncovered.items()):
        print(f"not covered: {loss} ({count} cases)")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
