"""What a command answers before it imports anything heavy."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from segkd.runner import program
from segkd.runner.command import run_command
from segkd.runner.recipe.mistakes import RecipeError

RUNNER = Path(__file__).parents[2] / "runner"
COMMANDS = [file.stem for file in sorted(RUNNER.glob("*.py")) if "run_command(main)" in file.read_text()]
ASK = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("code", end.code, sorted({"torch", "timm", "transformers", "matplotlib", "wandb"} & sys.modules.keys()))
"""


def answer(command, *words):
    result = subprocess.run(
        [sys.executable, "-c", ASK, RUNNER / f"{command}.py", *words], capture_output=True, text=True
    )
    return result.stdout.splitlines()[-1], result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    assert len(COMMANDS) == 10 and answer(command, "--help") == ("code 0 []", "")


@pytest.mark.parametrize("command", ["distill", "check", "score"])
def test_a_recipe_that_names_no_part_is_refused_as_quickly(command, tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: no\nname: [a\n")
    last, told = answer(command, tmp_path / "recipe.yaml")
    assert last == "code 2 []" and "recipe.yaml:" in told and "Traceback" not in told


@pytest.fixture
def ended(monkeypatch, capsys):
    """ended(main, "--debug", ...) runs a command: its exit code, what it wrote and what it said of its end."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)

    def run(main, *words):
        monkeypatch.setattr(logging.root, "handlers", [])  # here: pytest's own are there by now
        monkeypatch.setattr(sys, "argv", ["command.py", *words])
        with pytest.raises(SystemExit) as end:
            run_command(main)
        return end.value.code, *capsys.readouterr()

    return run


def failing_with(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("error, told", [
    (RecipeError([f"r.yaml:{line}: x: is wrong" for line in range(9902)]), "segkd: the recipe has 9902 mistakes:\n"),
    (ValueError("\x1b[2Jcleared" + "y" * 10**5), "segkd: \\x1b[2Jclearedyyy"),
    (OSError(28, "No space left on device", "a"), "make room and run it again"),
    (OSError(36, "File name too long", "b" * 300), "File name too long; give it a shorter name"),
    (NotADirectoryError(20, "Not a directory", "r.yaml/a"), "segkd: r.yaml/a: Not a directory; a file stands where"),
    (PermissionError(13, "Permission denied", "runs"), "name another place, or let this user write there"),
    (OSError(27, "File too large"), "ulimit -f"),
    (FileNotFoundError(2, "No such file or directory", "a.png"), "segkd: a.png: No such file or directory; nothing lies"),
    (FileNotFoundError(2, "No such file or directory"), "the folder this was started in is gone"),
    (OSError(24, "Too many open files"), "ulimit -n"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand much else"), "lower data.batch_size"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "lower data.batch_size"),
    (MemoryError(), "segkd: out of memory; there is not so much memory"),
])  # fmt: skip
def test_an_error_of_the_users_is_a_sentence_on_a_screen(ended, error, told):
    code, out, err = ended(failing_with(error))
    assert (code, out) == (2, "") and told in err and "Traceback" not in err and "\x1b" not in err
    assert len(err.splitlines()) < 25 and max(map(len, err.splitlines())) <= 500


@pytest.mark.parametrize("error, words", [(KeyError("\x1b[31mred"), ()), (ValueError("\x1b[31mred"), ("--debug",))])
def test_a_traceback_is_shown_as_text(ended, error, words):
    code, _, err = ended(failing_with(error), *words)
    assert code == 1 and "Traceback" in err and "\\x1b[31mred" in err and "\x1b" not in err


def test_notes_and_warnings_are_shown_as_text(ended):
    def main():
        logging.getLogger("segkd.models").info("%s has lines\n%s", "a\x1b[2J.pth", "more\n" * 100)
        print(warnings.formatwarning("beware of b\x1b[2J.pth", UserWarning, "file.py", 3), end="", file=sys.stderr)
        sys.exit(0)

    _, out, err = ended(main)
    assert out.startswith("a\\x1b[2J.pth has lines\nmore\n") and len(out.splitlines()) == 20
    assert err == "UserWarning: beware of b\\x1b[2J.pth\n"


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE"])
def test_a_number_of_a_process_that_is_none_is_a_sentence(ended, monkeypatch, variable):
    monkeypatch.setenv(variable, "first")
    code, _, err = ended(failing_with(AssertionError))
    assert code == 2 and f"the variable {variable} is 'first'" in err


NCCL = """NCCL error in: ProcessGroupNCCL.cpp:94, {kind}, NCCL version 2.28.9
{meaning}
Last error:
Error while creating shared memory segment /dev/shm/nccl-Qc2vKZ (size 9637888), error: No space left on device (28)"""


@pytest.mark.parametrize("kind, told", [
    ("unhandled system error", "cannot reach each other; NCCL says: Error while creating shared memory segment /dev/shm"),
    ("ncclRemoteError: remote process exited", "another process of this run ended or does not answer"),
])  # fmt: skip
def test_why_processes_cannot_go_on_together_is_told(ended, monkeypatch, kind, told):
    def main():
        raise torch.distributed.DistBackendError(NCCL.format(kind=kind, meaning="ncclSystemError: System call failed"))

    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, said = ended(main)
    assert code == 2 and told in said and "--resume" in said and "Traceback" not in said
    code, _, said = ended(main, "--debug")
    assert code == 1 and "DistBackendError" in said and "No space left on device" in said and told in said


def test_the_program_names_every_command_and_runs_it():
    assert COMMANDS == sorted(program.COMMANDS)
    code = "import sys; sys.argv = sys.argv[1:]; from segkd.runner import program; program.main()"
    call = [sys.executable, "-c", code, "segkd"]
    told = subprocess.run([*call, "score", "--help"], capture_output=True, text=True, check=True).stdout
    assert told.startswith("usage: segkd score [-h]") and "--metrics" in told
    wrong = subprocess.run([*call, "distil"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "no command distil, did you mean distill?" in wrong.stderr


def test_the_program_answers_at_once(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["segkd"])
    program.main()
    assert "  distill  train a recipe" in capsys.readouterr().out
    source = Path(program.__file__).read_text()
    modules = {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert modules <= sys.stdlib_module_names
