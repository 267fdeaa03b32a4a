"""Opening a run folder: new, again, with another recipe."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from segkd.runner.recipe.read import read
from segkd.runner.run_folder import checkpoint, opening
from segkd.runner.run_folder.claim import claim, look
from segkd.runner.run_folder.folder import RunFolder, refuse_inside_a_run
from segkd.runner.run_folder.opening import (
    check_same_recipe,
    environment,
    git_version,
    is_finished,
    open_run_folder,
    processor,
)

RECIPE = """\
name: opened
data: {dataset: synthetic, crop_size: [32, 32], batch_size: 4}
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035}}
  teacher: {model: pspnet, train: false, weights: {recipe: teacher.yaml}}
losses:
  - {loss: cross_entropy}
  - {loss: kl}
schedule: {iterations: 10}
baseline: {recipe: plain.yaml}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Reads the recipe with overrides; its runs lie in the test's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda *assignments: read("recipe.yaml", assignments)


def opened(*given, **settings):
    """The checkpoint to go on from in a run folder that is opened and left again."""
    claim, last = open_run_folder(*given, **settings)
    claim.release()
    return last


def saved(recipe):
    """The folder of this recipe's run, with a checkpoint in it."""
    run = RunFolder(recipe.folder)
    checkpoint.save(run, 2, {}, {}, keep_last=2, best=2)
    return run


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_run(recipe, accelerator, resume):
    assert opened(recipe(), accelerator, resume=resume) is None
    folder = recipe().folder
    assert read(folder / "recipe.yaml") == recipe()
    assert sorted(path.name for path in folder.iterdir()) == ["claim", "environment.json", "recipe.yaml"]
    found = json.loads((folder / "environment.json").read_text())
    assert found["packages"]["torch"] and found["device"].startswith("cpu")
    assert (found["processes"], found["precision"]) == (1, "no")


def test_a_run_is_not_started_twice(recipe, accelerator):
    opened(recipe(), accelerator, resume=False)
    saved(recipe())
    with pytest.raises(ValueError) as caught:
        opened(recipe(), accelerator, resume=False)
    assert str(caught.value) == (
        "runs/opened holds this run already; go on with it with --resume, start over with --overwrite, "
        "or give this one another name (name=...)"
    )


def test_torchrun_s_restart_is_told_to_add_resume(recipe, accelerator, monkeypatch):
    opened(recipe(), accelerator, resume=False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    opened(recipe(), accelerator, resume=False)  # nothing was saved that a start could lose
    saved(recipe())
    with pytest.raises(ValueError, match=r"torchrun started them again \(restart 2\); add --resume to the command"):
        opened(recipe(), accelerator, resume=False)
    opened(recipe(), accelerator, resume=True)


def test_a_run_inside_of_another_run_or_around_one_is_refused(recipe, accelerator, tmp_path):
    opened(recipe(), accelerator, resume=False)
    run = RunFolder(recipe().folder)
    checkpoint.save(run, 2, {}, {}, keep_last=2, best=2)
    (tmp_path / "link").symlink_to(run.checkpoints)
    before = sorted(tmp_path.rglob("*"))
    for folder, name in (
        ("runs/opened/checkpoints", "step-00000002"), ("runs/opened", "student"), ("runs/opened", "mine"),
        ("runs/opened/a/b", "c"), ("link", "step-00000002"), (".", "link"), ("runs/new/../opened", "mine"),
    ):  # fmt: skip
        inner = recipe(f"tracking.folder={folder}", f"name={name}")
        for settings in ({"resume": False}, {"resume": True}, {"resume": False, "overwrite": True}):
            with pytest.raises(ValueError, match="lies inside of the run .*/runs/opened, whose files"):
                opened(inner, accelerator, **settings)
    with pytest.raises(ValueError, match="runs holds other runs, such as runs/opened; give this run another name"):
        opened(recipe("tracking.folder=.", "name=runs"), accelerator, resume=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert recipe().folder.parent / "recipe.yaml" not in before and (tmp_path / "recipe.yaml") in before


def test_nothing_is_written_among_a_run_s_own_files(recipe, accelerator, tmp_path):
    opened(recipe(), accelerator, resume=False)
    (tmp_path / "link").symlink_to(recipe().folder)
    for path in ("runs/opened/checkpoints", "runs/opened/student/model.onnx", "link/panels/new/labels", "link/wandb",
                 "runs/opened/report.html", "link/recipe.yaml", "runs/opened/metrics.jsonl"):  # fmt: skip
        with pytest.raises(ValueError, match="belongs to the run .*/runs/opened, which keeps its own files there"):
            refuse_inside_a_run(Path(path))
    for path in ("runs/opened/export/student", "runs/opened/labels", "runs/comparison", "elsewhere/checkpoints"):
        refuse_inside_a_run(Path(path))


def test_a_run_tells_all_versions_of_the_code_that_have_trained_it(recipe, accelerator, monkeypatch):
    run = RunFolder(recipe().folder)
    starts = [("a", "a"), ("b", "b"), ("c", "b and c"), (None, "b and c"), ("b", "b and c")]
    for number, (version, told) in enumerate(starts):
        monkeypatch.setattr("segkd.runner.run_folder.opening.git_version", lambda version=version: version)
        opened(recipe(), accelerator, resume=number > 0)
        assert run.read_code() == told
        if number:  # the first one came to no checkpoint
            checkpoint.save(run, number, {}, {}, keep_last=2, best=1)


def test_a_run_tells_all_the_devices_that_have_trained_it(recipe, accelerator):
    opened(recipe(), accelerator, resume=False)
    run = RunFolder(recipe().folder)
    here = run.read_device()
    assert here.startswith("cpu, ") and here.endswith(f", {processor()}")
    assert processor().endswith(f" ({torch.backends.cpu.get_cpu_capability()})"), "one name is of several generations"
    told = json.loads(run.environment_file.read_text())
    run.environment_file.write_text(json.dumps(told | {"device": "a GPU"}))
    opened(recipe(), accelerator, resume=True)
    assert run.read_device() == here, "nothing of the first start was kept"
    run.environment_file.write_text(json.dumps(told | {"device": "a GPU"}))
    checkpoint.save(run, 2, {}, {}, keep_last=2, best=2)
    for _ in range(2):
        opened(recipe(), accelerator, resume=True)
        assert run.read_device() == f"a GPU and {here}"
    run.environment_file.write_text("cut o")
    opened(recipe(), accelerator, resume=True)
    assert run.read_device() == here


def test_checkpoints_on_a_disk_that_is_missing_are_waited_for(recipe, accelerator):
    opened(recipe(), accelerator, resume=False)
    link = recipe().folder / "checkpoints"
    link.symlink_to("not/mounted")
    with pytest.raises(ValueError, match="opened/checkpoints leads to not/mounted, which is not there"):
        opened(recipe(), accelerator, resume=True)


def test_resume_finds_the_last_checkpoint_and_mends_what_a_kill_left(recipe, accelerator):
    opened(recipe(), accelerator, resume=False)
    folder = recipe().folder
    for iteration in (1, 2):
        checkpoint.save(RunFolder(folder), iteration, {}, {"iteration": iteration}, keep_last=2, best=1)
    (folder / "checkpoints/.step-00000003.partial").mkdir()
    found = opened(recipe(), accelerator, resume=True)
    assert found.path == folder / "checkpoints/step-00000002" and checkpoint.load(found) == {"iteration": 2}
    assert not (folder / "checkpoints/.step-00000003.partial").exists()
    # nobody may lose these by forgetting --resume
    with pytest.raises(ValueError, match="--resume"):
        opened(recipe(), accelerator, resume=False)
    assert len(RunFolder(folder).complete_checkpoints()) == 2


def test_another_recipe_is_refused_whatever_is_asked(recipe, accelerator):
    opened(recipe(), accelerator, resume=False)
    saved(recipe())
    for resume in (False, True):
        with pytest.raises(ValueError) as caught:
            opened(recipe("optimizer.lr=0.5", "losses.1.args.temperature=3"), accelerator, resume=resume)
        assert str(caught.value) == (
            "runs/opened holds the run of another recipe; they differ in losses.1.args.temperature: 1.0 there, "
            "3.0 here; optimizer.lr: 0.01 there, 0.5 here. Give this one another name (name=...), delete that run, "
            "or start over with --overwrite"
        )


def test_overwrite_starts_over(recipe, accelerator):
    opened(recipe(), accelerator, resume=False)
    checkpoint.save(RunFolder(recipe().folder), 1, {}, {}, keep_last=2, best=1)
    other = recipe("optimizer.lr=0.5")
    (recipe().folder / "notes.txt").write_text("mine")
    assert opened(other, accelerator, resume=False, overwrite=True) is None
    assert read(other.folder / "recipe.yaml") == other and (other.folder / "notes.txt").exists()
    assert not RunFolder(other.folder).complete_checkpoints()
    assert opened(recipe("name=fresh"), accelerator, resume=False, overwrite=True) is None


@pytest.mark.parametrize("assignment", [
    "tracking.wandb=offline", "tracking.images=1", "evaluate.every=3", "evaluate.metrics=[boundary]", "data.root=elsewhere",
    "data.workers=0",
    "loop.save_every=1", "loop.keep_last=9", "loop.timeout=60", "baseline={recipe: other.yaml}",
])  # fmt: skip
def test_what_does_not_touch_the_weights_may_change(recipe, accelerator, assignment):
    opened(recipe(), accelerator, resume=False)
    check_same_recipe(recipe(assignment))
    assert recipe(assignment) != recipe()


def test_a_run_that_is_older_than_a_field_has_its_default(recipe, accelerator):
    opened(recipe(), accelerator, resume=False)
    file = recipe().folder / "recipe.yaml"
    file.write_text(file.read_text().replace("  fit_corners: false\n", "").replace("  metrics: {}\n", ""))
    check_same_recipe(recipe())
    with pytest.raises(ValueError, match="evaluate.fit_corners: false there, true here"):
        check_same_recipe(recipe("evaluate.fit_corners=true", "evaluate.fit=[8, 8]"))


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_came_to_nothing_does_not_keep_its_folder_from_another_recipe(recipe, accelerator, resume):
    failed, now = recipe(), recipe("data.batch_size=2", "evaluate.every=3")
    opened(failed, accelerator, resume=False)
    run = RunFolder(failed.folder)
    (run.path / "notes.txt").write_text("mine")
    run.wandb_id_file.write_text("of the failed one")
    for file in (run.metrics_file, run.panels(1) / "a.png"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    assert opened(now, accelerator, resume=resume) is None
    assert run.read_recipe() == read(run.recipe_file) == now
    left = sorted(path.name for path in run.path.iterdir())
    assert left == ["claim", "environment.json", "notes.txt", "recipe.yaml"]
    # what is no recipe any more, too
    run.recipe_file.write_text("cut o")
    assert opened(failed, accelerator, resume=resume) is None and run.read_recipe() == failed
    # a resume of the same recipe takes up its wandb run, and what may change is taken over
    run.wandb_id_file.write_text("abc")
    later = recipe("evaluate.metrics=[boundary]")
    opened(later, accelerator, resume=resume)
    assert run.wandb_id_file.is_file() == resume and run.read_recipe() == later


def test_a_run_that_is_trained_keeps_its_folder_before_its_first_checkpoint(recipe, accelerator):
    held, _ = open_run_folder(recipe(), accelerator, resume=False)
    with pytest.raises(ValueError, match="holds this run already"):
        opened(recipe(), accelerator, resume=False)
    for resume in (False, True):
        with pytest.raises(ValueError, match="holds the run of another recipe"):
            opened(recipe("seed=1"), accelerator, resume=resume)
    held.release()
    opened(recipe("seed=1"), accelerator, resume=False)


def test_what_another_process_saves_while_this_one_waits_for_its_claim_is_not_removed(recipe, accelerator, monkeypatch):
    opened(recipe(), accelerator, resume=False)

    def claimed_late(folder):
        saved(recipe())
        return claim(folder)

    monkeypatch.setattr(opening, "claim", claimed_late)
    for given, told in ((recipe(), "holds this run already"), (recipe("seed=1"), "holds the run of another recipe")):
        shutil.rmtree(RunFolder(recipe().folder).checkpoints, ignore_errors=True)
        with pytest.raises(ValueError, match=told):
            opened(given, accelerator, resume=False)
        assert look(RunFolder(recipe().folder).claims).released
    assert RunFolder(recipe().folder).complete_checkpoints() and RunFolder(recipe().folder).read_recipe() == recipe()


@pytest.mark.parametrize("assignment, told", [
    ("evaluate.mode=slide", "evaluate.mode: whole there, slide here"),  # its best score would be of two kinds
    ("seed=1", "seed: 0 there, 1 here"), ("data.batch_size=2", "data.batch_size: 4 there, 2 here"),
    ("loop.precision=bf16", "loop.precision"),
    ("data.crop_size=[32, 64]", "data.crop_size.1: 32 there, 64 here"),
    ("losses.1.weight=0", "losses.1.weight: 1.0 there, 0.0 here"),
    ("losses=[{loss: cross_entropy}]", "losses.1: {loss: kl, of: student, from: teacher"),
    ("networks.student.args.width=8", "networks.student.args.width: null there, 8 here"),
    ("networks.teacher.weights=a.pth",
     "networks.teacher.weights: {recipe: teacher.yaml} there, a.pth here"),
    ("losses.1.weight={start: 0, end: 1, over: [0, 9]}", "losses.1.weight: 1.0 there, {"),
    ("schedule.iterations=20", "schedule.iterations: 10 there"),
])  # fmt: skip
def test_what_touches_the_weights_may_not(recipe, accelerator, assignment, told):
    opened(recipe(), accelerator, resume=False)
    with pytest.raises(ValueError) as caught:
        check_same_recipe(recipe(assignment))
    assert told in str(caught.value)


def test_finished_runs(recipe, accelerator):
    assert not is_finished(recipe())
    opened(recipe(), accelerator, resume=False)
    assert not is_finished(recipe())
    run = RunFolder(recipe().folder)
    checkpoint.export_student(run, checkpoint.save(run, 1, {}, {}, keep_last=2, best=1), {})
    assert is_finished(recipe())
    with pytest.raises(ValueError, match="holds the run of another recipe; they differ in seed"):
        is_finished(recipe("seed=1"))


def test_a_folder_that_cannot_be_made(recipe, accelerator, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        opened(recipe(f"tracking.folder={tmp_path}/file"), accelerator, resume=False)


def test_the_environment_without_git(accelerator, monkeypatch, tmp_path):
    version = git_version()
    assert version is None or len(version.removesuffix("-dirty")) == 40
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_version() is None and environment(accelerator)["git"] is None
    assert os.environ["PATH"] == str(tmp_path)


def test_a_run_that_has_delivered_is_not_begun_anew_where_its_checkpoints_are_gone(recipe, accelerator):
    """Its log would be emptied, which comparisons still read; one that has not may have been killed before the first."""
    opened(recipe(), accelerator, resume=False)
    assert opened(recipe(), accelerator, resume=True) is None
    run = RunFolder(recipe().folder)
    run.student.path.mkdir()
    run.student.config_file.write_text("{}")
    run.summary_file.write_text("{}")
    with pytest.raises(ValueError, match="has delivered and its checkpoints were deleted: it can be compared, and not"):
        opened(recipe(), accelerator, resume=True)
    assert opened(recipe(), accelerator, resume=False, overwrite=True) is None
