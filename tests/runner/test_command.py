"""What a command answers before it imports anything heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

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
    assert len(COMMANDS) == 9 and answer(command, "--help") == ("code 0 []", "")


@pytest.mark.parametrize("command", ["distill", "check", "score"])
def test_a_recipe_that_names_no_part_is_refused_as_quickly(command, tmp_path):
    (tmp_path / "recipe.yaml").write_text("seed: no\nname: [a\n")
    last, told = answer(command, tmp_path / "recipe.yaml")
    assert last == "code 2 []" and "recipe.yaml:" in told and "Traceback" not in told
