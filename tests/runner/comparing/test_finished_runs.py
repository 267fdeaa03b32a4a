"""Which folders are runs, and what is said about those that cannot be read."""

from pathlib import Path

import numpy as np
import pytest

from segkd.runner.comparing.finished_runs import common_folder, find_runs

COUNTS = np.array([[[3, 5, 6], [2, 4, 2]], [[1, 1, 1], [0, 2, 0]]])  # two images, two classes


def test_runs_are_found_by_folder_from_above_and_by_pattern(fabricate):
    for name in ("a-s0", "a-s1", "b-s0"):
        phases = {"student": 0.2, "scoring": 1.5}
        fabricate(name, COUNTS, "tracking.folder=runs/deep", teachers={"teacher": 0.5}, phases=phases)
    found = [[str(run.folder) for run in find_runs(paths)] for paths in (
        ["runs"], ["runs/deep/a-*", "runs/deep/b-s0"], ["runs/deep/b-s0", "runs", "runs/deep"],
    )]  # fmt: skip
    assert found[0] == found[1] == ["runs/deep/a-s0", "runs/deep/a-s1", "runs/deep/b-s0"]
    assert found[2] == ["runs/deep/b-s0", "runs/deep/a-s0", "runs/deep/a-s1"]
    with open("runs/deep/a-s0.log", "w"):  # what a sweep leaves beside its runs, and patterns and shells hand on
        (Path("runs/deep/comparison")).mkdir()
    for paths in (["runs/deep/*"], sorted(str(path) for path in Path("runs/deep").iterdir())):
        assert [str(run.folder) for run in find_runs(paths)] == found[0]
    run = find_runs(["runs"])[0]
    assert str(common_folder(find_runs(["runs"]))) == str(common_folder([run])) == "runs/deep"
    assert (
        run.names == ["0.png", "1.png"] and (run.counts == COUNTS).all() and run.class_names == ["class 0", "class 1"]
    )
    assert run.curve == [(2, 45.0, 0.1), (4, 90.0, 0.2)] and run.teachers == {"teacher": 0.5}
    assert run.phases == phases


def test_unfinished_runs_are_refused_or_left_out(fabricate):
    fabricate("done", COUNTS)
    (fabricate("begun", COUNTS) / "summary.json").unlink()
    with pytest.raises(ValueError, match="not finished: runs/begun; go on with .*--resume.*--skip-unfinished"):
        find_runs(["runs"])
    assert [run.folder.name for run in find_runs(["runs"], skip_unfinished=True)] == ["done"]
    with pytest.raises(ValueError, match="not finished: runs/begun"):
        find_runs(["runs/begun"], skip_unfinished=True)


@pytest.mark.parametrize("path", ["runs", "nowhere/x-*", "tiny.yaml"])
def test_a_path_without_runs_is_named(path):
    with pytest.raises(FileNotFoundError, match=f"{path.replace('*', '.')} holds no run"):
        find_runs([path])
    with pytest.raises(FileNotFoundError, match="nowhere holds no run"):
        find_runs(["tiny.yaml", "nowhere"])


@pytest.mark.parametrize("file, text, told", [
    ("images.npz", None, "runs/x/images.npz is missing, so runs/x cannot be compared; train it again"),
    ("images.npz", "PK\x03\x04 cut off", "a file of runs/x cannot be read"),
    ("summary.json", '{"miou": null}', "a file of runs/x cannot be read"),
    ("summary.json", '{"miou": 0.25, "protocol": ""}', "runs/x/images.npz gives 0.3889 mIoU, summary.json says 0.2500; train it again"),
])  # fmt: skip
def test_what_is_damaged_is_named(fabricate, file, text, told):
    run = fabricate("x", COUNTS)
    (run / file).unlink()
    if text is not None:
        (run / file).write_text(text)
    with pytest.raises(ValueError, match=told):
        find_runs(["runs/x"])
