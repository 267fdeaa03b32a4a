"""The golden cases, and what the script that runs them promises about output and exit status."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from recorded.fill import fill_state, fill_tensor

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"


def changed(tmp_path, folder, loss, change):
    """What the script is given to run a loss' first case, in a copy of its golden folder with some arrays replaced."""
    copy = Path(shutil.copytree(GOLDEN / folder, tmp_path / folder))
    name = next(case["case"] for case in json.loads((copy / "cases.json").read_text()) if case["loss"] == loss)
    with np.load(copy / f"{name}.npz") as stored:
        arrays = dict(stored)
    np.savez(copy / f"{name}.npz", **arrays | change(arrays))
    return [str(copy), "--case", f"{folder}/{name}"]


def test_golden_cases(parity, capsys):
    assert parity.main([str(GOLDEN)]) == 0
    (last,) = capsys.readouterr().out.splitlines()
    assert last.endswith(" passed, 0 failed") and not last.startswith("0 ")


def test_the_script_runs_from_anywhere(tmp_path):
    command = [sys.executable, str(TESTS / "parity.py"), str(GOLDEN / "cirkd"), "--case", "kd"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith(" passed, 0 failed\n"), done.stderr


def test_small_selection_covers_every_runner(parity):
    recorded = {case["loss"] for _, case in parity.find_cases(GOLDEN, None)}
    assert set(parity.RUNNERS) <= recorded
    assert set(parity.TOLERANCE) <= set(parity.RUNNERS)
    assert "network" in recorded


@pytest.mark.parametrize("change, told", [
    (lambda arrays: {"expected:loss": 2 * arrays["expected:loss"]}, "loss: relative error 0.5, tolerance 1e-09"),
    (lambda arrays: {"expected:entropy": np.zeros(3)}, "entropy: not computed"),
])  # fmt: skip
def test_a_wrong_number_or_an_unknown_array_fails_with_one_line(parity, capsys, tmp_path, change, told):
    selected = changed(tmp_path, "cirkd", "kd", change)
    assert parity.main(selected) == 1
    assert capsys.readouterr().out.splitlines() == [f"{selected[-1]} (kd): {told}", "0 passed, 1 failed"]


@pytest.mark.parametrize("folder, loss", [("aicsd", "seg_ce"), ("trikd", "sup_ohem"), ("tsic", "seg_ce_ohem")])
def test_nan_of_an_ignored_batch_is_met_by_zero(parity, capsys, tmp_path, folder, loss):
    def ignore_all(arrays):
        labels = {key: np.full_like(x, 255) for key, x in arrays.items() if key in ("input:target", "input:labels")}
        expected = {key: np.zeros_like(x) for key, x in arrays.items() if key.startswith("expected:")}
        return labels | expected | {"expected:loss": expected["expected:loss"] + np.nan}

    assert parity.main(changed(tmp_path, folder, loss, ignore_all)) == 0
    assert capsys.readouterr().out == "1 passed, 0 failed\n"


def test_uncovered_losses_and_broken_cases_are_told(parity, capsys, tmp_path):
    case = {"case": "one", "loss": "unheard_of", "params": {}}
    broken = {"case": "two", "loss": "kd", "params": {}}
    (tmp_path / "cases.json").write_text(json.dumps([case, case, broken]))
    assert parity.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{tmp_path.name}/two (kd): FileNotFoundError: ")
    assert lines[1:] == ["not covered: unheard_of (2 cases)", "0 passed, 1 failed"]


@pytest.mark.parametrize("shift, code", [(0.0, 0), (1e-6, 1)])
def test_rounding_noise_is_compared_with_zero(parity, capsys, tmp_path, shift, code):
    def record_noise(arrays):
        # equal scores have no gradient; what rounding made of it in the original has nothing to do with ours
        student = arrays["input:student_logits"]
        teacher = student + shift * np.arange(student.size).reshape(student.shape)
        expected = {key: x for key, x in arrays.items() if key.startswith("expected:")}
        noise = {key: np.random.default_rng(0).uniform(-1e-16, 1e-16, x.shape) for key, x in expected.items()}
        return noise | {"input:teacher_logits": teacher}

    assert parity.main(changed(tmp_path, "cirkd", "kd", record_noise)) == code
    assert ("grad:student_logits: absolute error" in capsys.readouterr().out) == bool(code)


def network_case(tmp_path, change):
    """A recorded network, its entry in parity.json changed."""
    case = json.loads((GOLDEN / "dist" / "parity.json").read_text())[0]
    shutil.copy(GOLDEN / "dist" / f"{case['case']}.npz", tmp_path)
    (tmp_path / "parity.json").write_text(json.dumps(change(case)))
    return [str(tmp_path)]


@pytest.mark.parametrize("change", [
    lambda case: case,  # one alone
    lambda case: {case.pop("case"): case},
    lambda case: [case | {"entries": dict(case["entries"]), "own_entries": {}, "lora_entries": None}],
    lambda case: [case | {"entries": case["entries"][:100], "own_entries": case["entries"][100:]}],
    lambda case: [case | {"fill_scale": 1, "overrides": {case["entries"][0][0]: 1.0}}],
    lambda case: [case | {"fill_scale": {"no such entry": 3.0}, "aliases": {}}],
])  # fmt: skip
def test_forms_of_network_cases(parity, capsys, tmp_path, change):
    assert parity.main(network_case(tmp_path, change)) == 0
    assert capsys.readouterr().out == "1 passed, 0 failed\n"


def test_a_scaled_entry_is_a_fault(parity, capsys, tmp_path):
    assert parity.main(network_case(tmp_path, lambda case: [case | {"fill_scale": {"classifier.weight": 3.0}}])) == 1
    assert "logits: error" in capsys.readouterr().out


@pytest.mark.parametrize("scale, factors", [
    (0.5, {"a.weight": 0.5, "a.bias": 0.5, "b.weight": 0.5}),
    ({"weight": 0.5}, {"a.weight": 0.5, "b.weight": 0.5}),
    ({"a.weight": 2.0, "bias": 3}, {"a.weight": 2.0, "a.bias": 3.0}),
    ({"prefix": "a", "suffix": "bias", "factor": 4.0}, {"a.bias": 4.0}),
    ([{"suffix": "weight", "factor": 2.0}, {"prefix": "b.", "factor": 0.5}], {"a.weight": 2.0}),
])  # fmt: skip
def test_fill_scale(scale, factors):
    shapes = {"a.weight": [3, 2], "a.bias": [3], "b.weight": [4]}
    state = fill_state({"entries": shapes | {"n.num_batches_tracked": []}, "fill_scale": scale})
    assert state.pop("n.num_batches_tracked") == 0
    for key, value in state.items():
        np.testing.assert_array_equal(value, fill_tensor(key, shapes[key]) * np.float32(factors.get(key, 1)))


def test_an_alias_has_the_value_of_its_key():
    case = {"entries": [["a.weight", [3, 2]], ["copy.weight", [3, 2]]], "aliases": {"copy.weight": "a.weight"}}
    state = fill_state(case | {"overrides": {"a.weight": {"multiply": 7.0}}, "fill_scale": {"a.weight": 2.0}})
    np.testing.assert_array_equal(state["copy.weight"], state["a.weight"])
    np.testing.assert_array_equal(state["a.weight"], fill_tensor("a.weight", [3, 2]) * np.float32(2) * np.float32(7))


@pytest.mark.parametrize("entries", [
    [["conv1.0.weight", [32, 3, 3, 3]], ["seghead_p.conv1.weight", [8, 32, 3, 3]]],  # nobody's keys
    [["backbone.a.weight", [8, 3]], ["decode_head.hamburger.weight", [8, 8]], ["decode_head.conv_seg.weight", [5, 8]]],
    [["backbone.input_stem.weight", [8, 3, 3, 3]], ["head.output.weight", [5, 8, 1, 1]]],
])  # fmt: skip
def test_networks_that_segkd_does_not_have(parity, capsys, tmp_path, entries):
    case = {"case": "one", "model": "SegWhat-S (tiny), 5 classes", "entries": entries, "input_shape": [1, 3, 8, 8]}
    np.savez(tmp_path / "one.npz", **{"expected:logits": np.zeros((1, 5, 1, 1))})
    (tmp_path / "parity.json").write_text(json.dumps([case, case]))
    assert parity.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "not covered: network SegWhat-S (2 cases)\n0 passed, 0 failed\n"


def test_a_folder_without_cases_is_an_error(parity, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        parity.main([str(tmp_path)])
    assert stopped.value.code == 2
    assert f"{tmp_path}: neither it nor a folder in it holds a cases.json or a parity.json" in capsys.readouterr().err
