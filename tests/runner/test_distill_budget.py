"""Trainings that are given their time, that end when nothing is gained any more, or that are delivered as they stand."""

import json
import shutil

import pytest
import yaml

from segkd.runner import export
from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import find_runs
from segkd.runner.comparing.tables import report
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.training.budget import fitting


def test_steps_of_another_price_behind_a_gate_are_counted_at_it():
    assert fitting(10.0, {0: 0.5}) == 20 and fitting(0.1, {0: 0.5}) == 1
    assert fitting(10.0, {0: 0.5, 8: 1.0}) == 8 + 6  # 8 x 0.5 s, then 6 x 1 s
    assert fitting(10.0, {0: 0.5, 8: 1.0, 10: 0.25}) == 10 + 16
    assert fitting(3.0, {0: 0.5, 8: 1.0}) == 6


def test_a_training_fits_its_time_and_is_that_of_the_number_it_has_measured(trained, distill, folder):
    run = trained("timed", "schedule.seconds=0.6", "schedule.iterations=4000", "evaluate.every=1000")
    schedule = yaml.safe_load((run.path / "recipe.yaml").read_text())["schedule"]
    count = schedule["iterations"]
    assert schedule["measured"] and schedule["seconds"] == 0.6 and len(run.rows()) == count
    assert "timed: a step was measured to take" in run.out and f"{count} iterations fit into 0:01" in run.out
    # machines that do other things at the same time are slower
    assert 0.1 < json.loads((run.path / "summary.json").read_text())["seconds"] < 6
    given = trained("given", f"schedule.iterations={count}", "evaluate.every=1000")
    assert given.ends() == run.ends() and given.rows() == run.rows()
    # a resume takes the number from the run; another time is another training
    again = trained("timed", "schedule.seconds=0.6", "evaluate.every=1000", "--resume")
    assert "was measured" not in again.out and again.ends() == run.ends()
    refused = distill("tiny.yaml", "name=timed", "schedule.hours=1", "evaluate.every=1000", "--resume")
    assert refused.code == 2 and "schedule.seconds: 0.6 there, null here" in refused.err


def test_patience_ends_a_training_and_a_stopped_one_is_delivered_as_it_stands(
    trained, distill, folder, run_here, monkeypatch
):
    # nothing is gained at a rate of almost 0
    still = ["optimizer.lr=1e-12", "optimizer.momentum=0", "schedule.iterations=9", "evaluate.every=1"]
    run = trained("patient", *still, "evaluate.patience=2")
    summary = json.loads((run.path / "summary.json").read_text())
    done = len(run.rows())
    assert done == summary["trained"] == summary["iteration"] + 2 < 9
    words = f"ended after iteration {done} of 9: 2 evaluations in a row brought no gain"
    assert summary["stalled"] == words and f"The training {words}." in (run.path / "report.md").read_text()
    assert "patient is done" in run.out and RunFolder(run.path).is_finished
    again = trained("patient", *still, "evaluate.patience=2", "--resume")
    assert again.ends() == run.ends() and len(again.rows()) == done

    whole = trained("whole", "schedule.iterations=6")
    cut = folder / "runs/cut"
    shutil.copytree(whole.path, cut, symlinks=True)
    shutil.rmtree(cut / "student")
    shutil.rmtree(cut / "checkpoints/step-00000006")
    (cut / "summary.json").unlink()
    (cut / "recipe.yaml").write_text((cut / "recipe.yaml").read_text().replace("name: whole", "name: cut"))
    with pytest.raises(ValueError, match="not finished: runs/cut.*--deliver"):
        monkeypatch.chdir(folder)
        find_runs(["runs"])
    delivered = distill("runs/cut/checkpoints/..", "--deliver")  # as from inside: `.` has no name and no parent either
    words = "is unfinished, delivered as it stood after iteration 4 of 6"
    assert delivered.code == 0 and f"cut {words}: mIoU " in delivered.out, delivered.err
    assert f"The training {words}." in (cut / "report.md").read_text() and not RunFolder(cut).is_finished
    assert "Delivered after 4 of 6 iterations. Shown" in (cut / "report.html").read_text()
    text = report(compare(find_runs(["runs/cut", "runs/whole"]), baseline="runs/whole"))
    assert f"Not finished: none (cut), seed 0 {words}." in text and "4 iterations of 4 crops" in text
    assert [one.folder.name for one in find_runs(["runs"], skip_unfinished=True)] == ["patient", "whole"]
    run_here(export, "runs/cut", "--to", "segkd")
    resumed = trained("cut", "schedule.iterations=6", "--resume")
    assert resumed.ends() == whole.ends() and RunFolder(cut).is_finished and "cut is done" in resumed.out


def test_what_has_no_checkpoint_is_not_delivered(distill, folder):
    refused = distill("tiny.yaml", "--deliver")
    assert refused.code == 2 and "runs/tiny holds no run with a checkpoint" in refused.err
    both = distill("tiny.yaml", "schedule.hours=1", "schedule.seconds=2")
    assert both.code == 2 and "schedule.seconds: is given in hours, too" in both.err


def test_another_time_on_a_run_s_own_recipe_is_measured_anew(folder):
    run = read(folder / "tiny.yaml", ["schedule.seconds=0.6"]).with_iterations(37)
    (folder / "run.yaml").write_text(run.dump())
    assert read(folder / "run.yaml").schedule == run.schedule and not run.schedule.is_open
    for words in (["schedule.seconds=600"], ["schedule.seconds=null", "schedule.hours=2"]):
        assert read(folder / "run.yaml", words).schedule.is_open
    # as runs wrote it at first
    (folder / "run.yaml").write_text(run.dump().replace("measured: 0.6", "measured: true"))
    assert read(folder / "run.yaml").schedule == run.schedule


def test_a_run_folder_under_another_name_is_not_delivered(trained, distill, folder):
    trained("first")
    shutil.copytree(folder / "runs/first", folder / "runs/copy", symlinks=True)
    before = sorted((folder / "runs/first").rglob("*"))
    refused = distill("runs/copy", "--deliver")
    assert refused.code == 2 and "runs/copy holds the run first; give the folder that name again" in refused.err
    assert sorted((folder / "runs/first").rglob("*")) == before
