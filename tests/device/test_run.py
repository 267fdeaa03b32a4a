"""run.py on a CPU: every section in its tiny form, and what becomes of one that fails, hangs or finds no time."""

import configparser
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from segkd.runner.training.state import TrainingState

TESTS = Path(__file__).parents[1]
FILES = ("run", "machine", "correctness", "speed", "camvid", "measuring")


@pytest.fixture
def files(monkeypatch):
    """The files of the command, importable as when it is run."""
    for folder in ("benchmarks", "device"):
        monkeypatch.syspath_prepend(str(TESTS / folder))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in FILES})
    for name in [name for name in sys.modules if name in FILES or name.startswith("device_")]:
        del sys.modules[name]
    AcceleratorState._reset_state(reset_partial_state=True)


def write_camvid(folder):
    for split in ("train", "val"):
        for name, shape in ((split, (36, 48, 3)), (f"{split}annot", (36, 48))):
            (folder / name).mkdir(parents=True)
            for index in range(2):
                pixels = np.random.default_rng((index, split == "val")).integers(0, 11, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


def test_every_section(files, tmp_path, monkeypatch):
    def stopped_half_way(recipe, machine):
        """In this process: a kill of another one costs that one's start."""
        done = recipe.schedule.iterations // 2
        save = TrainingState.save

        def save_and_stop(state, *given):
            save(state, *given)
            if state.iteration == done:
                raise InterruptedError

        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr(TrainingState, "save", save_and_stop)
            files.correctness.distill.train([recipe], files.correctness.start_accelerator(recipe), resume=False)
        return True

    monkeypatch.setattr(files.correctness, "start_and_kill", stopped_half_way)
    monkeypatch.setattr("segkd.runner.training.report.curves", lambda rows, file: None)  # half the time of a tiny run
    camvid, found = str(write_camvid(tmp_path / "camvid")), {}
    for name in files.run.SECTIONS:
        AcceleratorState._reset_state(reset_partial_state=True)
        found[name] = []
        files.run.run_section(name, 60.0, camvid, found[name].append)
    json.dumps(found)
    assert all(found.values())
    not_good = [row["what"] for rows in found.values() for row in rows if row["good"] is False]
    assert not_good == ["GPU"]
    # a second run without a kill is the first one, so the resumed one must be, too
    assert found["resume"][0]["values"] == {"off": 0.0, "off_by_itself": 0.0}
    for name in ("losses", "networks"):
        assert all(row["values"]["off"] == row["values"]["off_cpu"] < 1e-5 for row in found[name])
    assert [row["what"] for row in found["camvid"]][:4] == ["networks", "teacher", "student alone", "student KD"]


FAILING = """
import json, sys, time
name, seconds, file = sys.argv[-3:]
row = dict(what="first", found="1 ms", wanted="", good=True, one_of_many=False, values=None)
print(json.dumps(row), file=open(file, "a"), flush=True)
if name == "losses":
    time.sleep(60)
if name == "networks":
    sys.exit("no such kernel")
"""


def test_a_section_that_fails_or_hangs_does_not_stop_the_next(files, tmp_path, capsys):
    (tmp_path / "failing.py").write_text(FAILING)
    command = [sys.executable, str(tmp_path / "failing.py")]
    files.run.run_all(["facts", "losses", "networks", "steps"], command, 12 * 0.5 / 45, sections := [])
    ended = {section["name"]: section["ended"] for section in sections}
    assert ended == {
        "facts": "done", "losses": "stopped after 0 s", "networks": "failed with exit code 1", "steps": "done",
    }  # fmt: skip
    assert all(section["rows"][0]["found"] == "1 ms" for section in sections)
    text = files.run.table(sections)
    assert "| networks | the section itself | failed with exit code 1 no such kernel |  | NOT DONE |" in text
    files.run.run_all(["facts"], command, 0, sections := [])
    assert sections[0]["ended"] == "skipped: no time left"


def test_what_was_found_is_told_where_the_command_is_asked_to_end(tmp_path):
    (tmp_path / "run.py").write_text("import os, sys\nopen('pid-' + sys.argv[-3], 'w').write(str(os.getpid()))\n" + FAILING)
    script = f"""
import sys
sys.path.insert(0, {str(TESTS / "device")!r})
import run
run.HERE = run.Path({str(tmp_path)!r})
sys.argv = ["run.py", "--sections", "facts", "losses"]
run.main()
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    started = tmp_path / "pid-losses"
    while not (started.exists() and started.read_text()):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGTERM
    assert "| facts | first | 1 ms |" in out and "interrupted" in out
    sections = json.loads(out.splitlines()[-1])["sections"]
    assert [section["ended"] for section in sections] == ["done", "interrupted"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_a_cut_row_is_left_out(files, tmp_path):
    (tmp_path / "rows").write_text('{"what": "a", "values": {"off": 1.0}}\n{"what": "b", "values": {"off": 1.0}')
    assert files.run.rows_of(tmp_path / "rows") == [{"what": "a", "values": {"off": 1.0}}]


def test_long_lists_are_counted_and_what_is_wrong_in_them_is_shown(files):
    rows = [
        {"what": name, "found": "off", "wanted": "near", "good": good, "one_of_many": True}
        for name, good in (("at", True), ("kl | mean", False), ("sp", True))
    ]
    section = {"name": "losses", "ended": "done", "seconds": 1.0, "rows": rows}
    assert files.run.table([section]).splitlines()[2:] == [
        "| losses | all cases | 2 of 3 | near | NO |",
        "| losses | kl / mean | off | near | NO |",
    ]


@pytest.mark.parametrize("off, good", [(0.0, True), (1e-3, False), (float("nan"), False)])
def test_a_device_that_computes_something_else_is_found(files, off, good):
    def numbers(device, dtype):
        exact = torch.ones(3, dtype=dtype)
        wrong = exact + (off if device.type == "cuda" else 0)
        return ([wrong], [exact]) if is_value else ([exact], [wrong])

    compared = files.correctness.compared
    for is_value in (True, False):
        row = compared("kl", numbers, torch.device("cuda"), lambda dtype: True)
        assert row.good is good
    assert compared("kl", numbers, torch.device("cpu"), lambda dtype: dtype == torch.bfloat16).good is False
    row = compared("kl", lambda *where: 1 / 0, torch.device("cuda"), lambda dtype: True)
    assert (row.good, row.found) == (False, "ZeroDivisionError: division by zero")


def test_what_is_needed_is_what_segkd_requires(files, monkeypatch):
    setup, known = configparser.ConfigParser(), metadata.packages_distributions()
    setup.read(TESTS.parent / "setup.cfg")
    required = {re.split("[><=]", line)[0].replace("_", "-") for line in setup["options"]["install_requires"].split()}
    assert required | {"pytest"} == {known[name][0].lower().replace("_", "-") for name in files.run.NEEDED}
    monkeypatch.setattr(files.run, "NEEDED", ("torch", "no_such_package"))
    assert files.run.missing_packages() == ["no_such_package"]
