"""wandb, with a stand-in for the package: what it is asked for, and that its failures cost no training."""

import json
import os
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from segkd.runner.recipe.read import read
from segkd.runner.recipe.student_folder import StudentFolder
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.training import wandb_run as dashboard
from segkd.runner.training.wandb_run import Dashboard, has_account

ROOT = Path(__file__).parents[3]


class Recorder:
    """Takes every call; those of the names in `broken` raise."""

    id, dir, summary = "abc", "", {}

    def __init__(self, broken):
        self.broken = broken

    def __getattr__(self, method):
        def call(*given, **options):
            if method in self.broken:
                raise ConnectionError(f"{method} failed\nand here is a page of details")

        return call


@pytest.fixture
def fake(monkeypatch, folder):
    """A `wandb` module: `started` holds what init was asked for, `broken` the methods that fail."""
    module = types.ModuleType("wandb")
    module.started, module.broken = [], set()
    run = Recorder(module.broken)
    run.dir = str(folder)

    def init(**options):
        run.init()
        if f"{options['mode']} init" in module.broken:
            raise ConnectionError("context deadline exceeded\nConsider increasing the init_timeout setting")
        module.started.append(options)
        return run

    module.init, module.Settings = init, dict
    module.Image = module.Table = module.Artifact = lambda *given, **options: Recorder(module.broken)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    return module


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(dashboard, "say", lines.append)
    return lines


def recipe(folder, *assignments):
    """The recipe of a run that was begun."""
    found = read(folder / "tiny.yaml", [f"tracking={{folder: {folder}, project: streets, group: seeds}}", *assignments])
    found.folder.mkdir(exist_ok=True)
    return found


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_in_the_same_wandb_run(fake, folder):
    asked = recipe(folder)
    for known in (None, None, "checkpoint's"):
        Dashboard(asked, known)
    assert [options["id"] for options in fake.started] == [None, "abc", "checkpoint's"]
    RunFolder(asked.folder).remove_run()
    Dashboard(asked, None)
    assert fake.started[-1]["id"] is None


@pytest.mark.parametrize("asked, account, environment, mode", [
    ("auto", False, None, "offline"), ("auto", True, None, "online"), ("online", True, None, "online"),
    ("online", False, None, "offline"),
    ("offline", True, None, "offline"), ("auto", True, "offline", "offline"), ("auto", False, "online", "offline"),
    ("auto", True, "disabled", None), ("disabled", True, None, None),
])  # fmt: skip
def test_mode(fake, said, monkeypatch, folder, asked, account, environment, mode):
    if account:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    Dashboard(recipe(folder, f"tracking.wandb={asked}"), None)
    assert [options["mode"] for options in fake.started] == ([mode] if mode else [])
    # an account that was asked for and is not there is said, never asked for
    told = mode == "offline" and not account and "online" in (asked, environment)
    assert len(said) == told and all("no account is configured" in line for line in said)


def test_an_account_is_a_key_or_a_login(monkeypatch, folder):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    assert not has_account()
    (folder / ".netrc").write_text("machine example.org login a password b\n")
    (folder / ".netrc").chmod(0o600)
    assert not has_account()
    (folder / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    assert has_account()
    (folder / ".netrc").write_text("this is not a netrc file")
    assert not has_account()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_account()


def test_a_resume_goes_on_with_the_run_of_the_checkpoint(fake, said, folder):
    board = Dashboard(recipe(folder), "abc")
    (options,) = fake.started
    assert (options["project"], options["id"], options["resume"]) == ("streets", "abc", "allow")
    assert board.run_id == "abc" and not said
    # of several processes one has the run
    assert Dashboard(recipe(folder), "abc", is_main_process=False).run_id is None and len(fake.started) == 1


@pytest.mark.parametrize("name, assignments, group", [
    ("camvid-kl-s2", [], "camvid-kl"), ("camvid-kl-s12", [], "camvid-kl"), ("camvid-kl", [], "camvid-kl"),
    ("dv3-s", [], "dv3-s"), ("a-s1", ["tracking.group=mine"], "mine"),
])  # fmt: skip
def test_runs_of_one_experiment_are_a_group(fake, folder, name, assignments, group):
    Dashboard(recipe(folder, "tracking.group=null", f"name={name}", *assignments), None)
    assert fake.started[0]["group"] == group


def test_tags_of_a_distillation(fake, folder):
    networks = "networks.teacher={model: deeplabv3, args: {backbone: resnet101}, train: false, weights: random}"
    losses = "losses=[{loss: cross_entropy}, {loss: kl}, {loss: cwd}]"
    Dashboard(recipe(folder, networks, losses, f"method={'x' * 70}"), None)
    (options,) = fake.started
    assert options["job_type"] == "distillation"
    assert options["tags"] == ["synthetic", "x" * 64, "student: pspnet mobilenetv2_035", "teacher: deeplabv3 resnet101"]


@pytest.mark.parametrize("broken", ["init", "log", "log_artifact", "finish"])
def test_a_failure_is_said_once_and_costs_nothing(fake, said, folder, broken):
    fake.broken.add(broken)
    student = StudentFolder(folder)
    student.config_file.write_text('{"model": "pspnet", "args": {}, "num_classes": 2}')
    board = Dashboard(recipe(folder), None)
    board.log({"iteration": 1})
    board.log_evaluation(3, [], [], [])
    board.summarize({})
    board.log_student(student, "tracked")
    board.close()
    board.close()
    told = f"wandb is left out from here on: {broken} failed; metrics.jsonl has everything"
    sync = f"wandb: finish failed; what its server has not got is uploaded by: wandb sync {folder.parent}"
    assert said == [sync if broken == "finish" else told]
    assert board.run_id is None


def test_a_server_that_cannot_be_reached_means_files_to_be_uploaded_later(fake, said, monkeypatch, folder):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    fake.broken.add("online init")
    board = Dashboard(recipe(folder, "tracking.wandb=online"), "known")
    (options,) = fake.started
    assert (options["mode"], options["id"], options["settings"]["init_timeout"]) == ("offline", "known", 20.0)
    words = "context deadline exceeded; this run is kept here, and uploaded later by"
    assert said == [f"wandb: {words}: wandb sync {folder.parent}"] and board.run_id == "abc"
    fake.broken.add("offline init")
    assert Dashboard(recipe(folder, "tracking.wandb=online"), None).run_id is None
    assert "wandb is left out from here on" in said[-1]


@pytest.mark.parametrize("asked, told", [("offline", 1), ("disabled", 0)])
def test_a_package_that_cannot_be_imported_is_said_where_it_is_wanted(said, monkeypatch, folder, asked, told):
    monkeypatch.setitem(sys.modules, "wandb", None)
    board = Dashboard(recipe(folder, f"tracking.wandb={asked}"), "abc")
    board.log({"iteration": 1})
    board.log_evaluation(1, [], [], [])
    board.close()
    assert len(said) == told and all("wandb is left out from here on" in line for line in said)
    assert board.run_id is None


def records(file):
    """What an offline run has written, by kind; the file is blocks of 32768 bytes of records in a LevelDB log."""
    from wandb.proto import wandb_internal_pb2

    data, at, text, found = file.read_bytes(), 7, b"", {}
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little is left of the block for a record's head
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        text, at = text + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # whole, or the last part of one
            record = wandb_internal_pb2.Record.FromString(text)
            word, text = record.WhichOneof("record_type"), b""
            found.setdefault(word, []).append(getattr(record, word))
    return found


def test_an_offline_run_holds_all_of_it(folder):
    home = {"HOME": str(folder), "WANDB_DATA_DIR": str(folder / "staging"), "WANDB_MODE": "offline"}
    # a process of its own: wandb makes a folder as it is imported, which the end of any fork of that process deletes
    ended = subprocess.run(
        [sys.executable, str(ROOT / "runner/distill.py"), "tiny.yaml", "tracking.wandb=offline", "name=tiny-s1"]
        + ["method=plain"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **home},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 0 and "wandb" not in ended.stdout + ended.stderr, ended.stdout + ended.stderr
    state = torch.load(folder / "runs/tiny-s1/checkpoints/last/training_state/state.pt", weights_only=True)
    assert state["progress"]["wandb_id"], "a resume goes on with the same wandb run"
    (file,) = (folder / "runs/tiny-s1/wandb").glob("offline-run-*/*.wandb")
    found = records(file)
    (run,) = found["run"]
    assert (run.run_group, run.job_type, run.display_name) == ("tiny", "training", "tiny-s1")
    assert list(run.tags) == ["synthetic", "plain", "student: pspnet mobilenetv2_035"]
    config = {update.key: json.loads(update.value_json) for update in run.config.update}
    resolved = read(folder / "runs/tiny-s1/recipe.yaml").model_dump(mode="json", by_alias=True)
    assert {key: config[key] for key in resolved} == resolved
    assert (file.parent / "files/recipe.yaml").read_bytes() == (folder / "runs/tiny-s1/recipe.yaml").read_bytes()
    summary = {}
    for record in found["summary"]:
        summary |= {update.key: json.loads(update.value_json) for update in record.update if update.key}
    delivered = json.loads((folder / "runs/tiny-s1/student/config.json").read_text())
    assert (summary["best_miou"], summary["best_iteration"]) == (delivered["miou"], delivered["iteration"])
    best = [summary[f"best_iou/{name}"] for name in delivered["class_names"]]
    seen = [iou for iou in best if iou is not None]
    assert len(best) == 8 and abs(sum(seen) / len(seen) - delivered["miou"]) < 1e-9
    assert {(metric.name or metric.glob_name, metric.step_metric) for metric in found["metric"]} >= {
        ("iteration", ""), ("*", "iteration")}  # fmt: skip
    logged = [{(item.key or item.nested_key[0]): item.value_json for item in row.item} for row in found["history"]]
    assert [row["iteration"] for row in logged] == ["2", "2", "4", "4"]
    assert {"total", "loss/cross_entropy", "lr", "miou"} <= logged[0].keys()
    assert {"panels", "classes"} <= logged[1].keys() and len(list(file.parent.rglob("panels*.png"))) == 2
    table = json.loads(next(file.parent.rglob("classes*.table.json")).read_text())
    assert table["columns"] == ["class", "iou_per_class", "accuracy_per_class", "dice_per_class"]
    assert [line[0] for line in table["data"]] == delivered["class_names"]
    (student,) = [artifact for artifact in found["artifact"] if artifact.type == "model"]
    assert student.name == "tiny-s1" and json.loads(student.metadata) == delivered
    assert {entry.path for entry in student.manifest.contents} == {"config.json", "model.safetensors"}
