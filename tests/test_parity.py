"""The golden cases, and what the script that runs them promises about output and exit status."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
# everything ever recorded, where it lies beside the checkout; golden/ holds one or two cases of each kind
ALL = TESTS.parents[1] / "shared" / "golden"


@pytest.fixture(scope="module")
def parity():
    sys.path.insert(0, str(TESTS))
    try:
        spec = importlib.util.spec_from_file_location("parity", TESTS / "parity.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TESTS))
    return module


def changed(tmp_path, folder, name, change):
    """A copy of one golden folder with one case's arrays changed."""
    copy = Path(shutil.copytree(GOLDEN / folder, tmp_path / folder))
    with np.load(copy / f"{name}.npz") as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez(copy / f"{name}.npz", **arrays)
    return copy


def first_case(folder, loss):
    return next(c["case"] for c in json.loads((GOLDEN / folder / "cases.json").read_text()) if c["loss"] == loss)


def test_golden_cases(parity, capsys):
    assert parity.main([str(GOLDEN)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(" passed, 0 failed") and not last.startswith("0 ")


@pytest.mark.skipif(not ALL.is_dir(), reason="the full recordings are not beside this checkout")
def test_every_recorded_case(parity):
    # whole networks at their published sizes take minutes: parity.py runs them by hand
    cases = [found for found in parity.find_cases(ALL, None) if found[1]["loss"] != "network"]
    wrong = {f"{folder.name}/{case['case']}": parity.run_case(folder, case) for folder, case in cases}
    assert {name: faults for name, faults in wrong.items() if faults} == {}


def test_small_selection_covers_every_runner(parity):
    recorded = {case["loss"] for _, case in parity.find_cases(GOLDEN, None)}
    assert set(parity.RUNNERS) <= recorded
    assert set(parity.TOLERANCE) == set(parity.RUNNERS)
    assert "network" in recorded


def test_a_wrong_number_fails_with_one_line(parity, capsys, tmp_path):
    name = first_case("cirkd", "kd")

    def double(arrays):
        arrays["expected:loss"] = 2 * arrays["expected:loss"]

    assert parity.main([str(changed(tmp_path, "cirkd", name, double)), "--case", f"cirkd/{name}"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"cirkd/{name} (kd): loss: relative error 0.5, tolerance 1e-09", "0 passed, 1 failed"]


def test_an_unknown_expected_array_fails(parity, capsys, tmp_path):
    name = first_case("cirkd", "kd")

    def add(arrays):
        arrays["expected:entropy"] = np.zeros(3)

    assert parity.main([str(changed(tmp_path, "cirkd", name, add)), "--case", "kd"]) == 1
    assert "entropy: not computed" in capsys.readouterr().out


@pytest.mark.parametrize("folder, loss", [("aicsd", "seg_ce"), ("trikd", "sup_ohem"), ("tsic", "seg_ce_ohem")])
def test_nan_of_an_ignored_batch_is_met_by_zero(parity, capsys, tmp_path, folder, loss):
    name = first_case(folder, loss)

    def ignore_all(arrays):
        label = "input:target" if "input:target" in arrays else "input:labels"
        arrays[label] = np.full_like(arrays[label], 255)
        for key in list(arrays):
            if key.startswith("expected:"):
                blank = np.zeros_like(arrays[key])
                arrays[key] = blank + np.nan if key == "expected:loss" else blank

    assert parity.main([str(changed(tmp_path, folder, name, ignore_all)), "--case", f"{folder}/{name}"]) == 0
    assert capsys.readouterr().out == "1 passed, 0 failed\n"


def test_uncovered_losses_and_broken_cases_are_told(parity, capsys, tmp_path):
    case = {"case": "one", "loss": "unheard_of", "params": {}}
    broken = {"case": "two", "loss": "kd", "params": {}}
    (tmp_path / "cases.json").write_text(json.dumps([case, case, broken]))
    assert parity.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path.name}/two (kd): FileNotFoundError: ")
    assert lines[1:] == ["not covered: unheard_of (2 cases)", "0 passed, 1 failed"]


def test_a_folder_without_cases_is_an_error(parity, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        parity.main([str(tmp_path)])
    assert stopped.value.code == 2
    assert f"{tmp_path}: neither it nor a folder in it holds a cases.json or a parity.json" in capsys.readouterr().err
