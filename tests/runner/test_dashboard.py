"""wandb, with a stand-in for the package: what it is asked for, and that its failures cost no training."""

import sys
import types
from pathlib import Path

import pytest

from segkd.runner import dashboard
from segkd.runner.dashboard import Dashboard, has_account
from segkd.runner.reading import read

RECIPE = """\
name: tracked
data: {dataset: synthetic, crop_size: [32, 32]}
networks: {student: {model: pspnet}}
losses: [{loss: cross_entropy}]
schedule: {iterations: 10}
tracking: {project: streets, group: seeds}
"""


class FakeRun:
    """Notes what it is told; every method in `broken` raises."""

    def __init__(self, broken):
        self.id, self.logged, self.metrics, self.summary, self.finished, self.broken = "abc", [], [], {}, False, broken

    def _note(self, method):
        if method in self.broken:
            raise ConnectionError(f"{method} failed\nand here is a page of details")

    def log(self, values):
        self._note("log")
        self.logged.append(values)

    def define_metric(self, *arguments, **options):
        self.metrics.append((*arguments, options))

    def finish(self):
        self._note("finish")
        self.finished = True


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A `wandb` module: `started` holds what init was asked for, `broken` the methods that fail."""
    module = types.ModuleType("wandb")
    module.started, module.runs, module.broken = [], [], set()

    def init(**options):
        if "init" in module.broken:
            raise RuntimeError("init failed")
        module.started.append(options)
        module.runs.append(FakeRun(module.broken))
        return module.runs[-1]

    module.init = init
    module.Settings = lambda **options: options
    module.Image = lambda file, caption: ("image", file, caption)
    module.Table = lambda columns, data: ("table", columns, data)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return module


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(dashboard, "say", lines.append)
    return lines


def recipe(folder, *assignments):
    (folder / "recipe.yaml").write_text(RECIPE)
    return read(folder / "recipe.yaml", [f"tracking.folder={folder}", *assignments])


@pytest.mark.parametrize("asked, account, environment, mode", [
    ("auto", False, None, "offline"), ("auto", True, None, "online"), ("online", True, None, "online"),
    ("online", False, None, "offline"),
    ("offline", True, None, "offline"), ("auto", True, "offline", "offline"), ("auto", False, "online", "offline"),
    ("auto", True, "disabled", None), ("disabled", True, None, None),
])  # fmt: skip
def test_mode(fake, said, monkeypatch, tmp_path, asked, account, environment, mode):
    if account:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    Dashboard(recipe(tmp_path, f"tracking.wandb={asked}"), None)
    assert [options["mode"] for options in fake.started] == ([mode] if mode else [])
    # an account that was asked for and is not there is said, never asked for
    told = mode == "offline" and not account and "online" in (asked, environment)
    assert len(said) == told and all("no account is configured" in line for line in said)


def test_an_account_is_a_key_or_a_login(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not has_account()
    (tmp_path / ".netrc").write_text("machine example.org login a password b\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert not has_account()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    assert has_account()
    (tmp_path / ".netrc").write_text("this is not a netrc file")
    assert not has_account()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_account()


def test_what_a_run_is_started_with(fake, said, tmp_path):
    board = Dashboard(recipe(tmp_path), "abc")
    (options,) = fake.started
    assert (options["project"], options["group"], options["name"], options["id"], options["resume"]) == (
        "streets", "seeds", "tracked", "abc", "allow")  # fmt: skip
    assert options["dir"] == tmp_path / "tracked" and options["config"]["schedule"]["iterations"] == 10
    assert fake.runs[0].metrics == [("iteration", {}), ("*", {"step_metric": "iteration"})]
    assert board.run_id == "abc"
    board.log({"iteration": 1, "total": 2.0})
    board.log_evaluation(1, [Path("a/b.png")], ["class", "IoU"], [["road", 0.5]])
    board.summarize({"miou": 0.5})
    board.close()
    run = fake.runs[0]
    table = ("table", ["class", "IoU"], [["road", 0.5]])
    assert run.logged == [
        {"iteration": 1, "total": 2.0},
        {"iteration": 1, "panels": [("image", "a/b.png", "b")], "classes": table},
    ]
    assert run.summary == {"miou": 0.5} and run.finished and not said


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_failure_is_said_once_and_costs_nothing(fake, said, tmp_path, broken):
    fake.broken.add(broken)
    board = Dashboard(recipe(tmp_path), None)
    for iteration in range(3):
        board.log({"iteration": iteration})
    board.log_evaluation(3, [], [], [])
    board.summarize({})
    board.close()
    board.close()
    assert said == [f"wandb is left out from here on: {broken} failed; metrics.jsonl has everything"]
    assert board.run_id is None


def test_a_package_that_cannot_be_imported(said, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    board = Dashboard(recipe(tmp_path, "tracking.wandb=offline"), None)
    board.log({"iteration": 1})
    assert len(said) == 1 and "wandb is left out from here on" in said[0]


def test_disabled_never_imports_wandb(said, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail, and be said
    board = Dashboard(recipe(tmp_path, "tracking.wandb=disabled"), "abc")
    board.log({"iteration": 1})
    board.log_evaluation(1, [], [], [])
    board.summarize({})
    board.close()
    assert said == [] and board.run_id is None
