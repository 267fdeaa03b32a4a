"""What the pages beside the code say exists: files, recipes, commands and their options."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("runner/*.md"))]
WIDTH = 120


@cache
def options_of(script: str, task: str | None) -> set[str]:
    """The options that a command, or one of its tasks, says it has."""
    asked = [sys.executable, ROOT / script, *filter(None, [task]), "--help"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z][\w-]*", shown.stdout))


def commands(page: Path) -> list[list[str]]:
    """The words after each `python FILE.py` or `accelerate launch FILE.py` of a page."""
    lines = re.findall(r"(?:python|launch|torchrun)[^`\n]*?\b(runner/\w+\.py[^`\n|&\\]*)", page.read_text())
    return [line.replace("[", " ").replace("]", " ").split() for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", re.sub(r"(?s)```.*?```", "", page.read_text()))
    missing = [to for to in targets if not to.startswith("http") and not (page.parent / to).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_recipes_and_files_that_are_named_exist(page):
    rooms = "recipes|tests|runner|models|losses|datasets"
    named = re.findall(rf"\b((?:{rooms})/[\w/.-]+\.(?:yaml|py|png|md|ipynb))", page.read_text())
    missing = [name for name in named if not (ROOT / name).exists() and not re.search("NAME|/my_|/kl.yaml", name)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options(page):
    for script, *words in commands(page):
        task = words[0] if script.endswith("recipes.py") and words else None
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - options_of(script, task)
        assert not unknown, f"{script} has no {unknown}"


def test_lines_are_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 220 and max(map(len, lines)) <= WIDTH
    for page in PAGES:
        prose = re.sub(r"(?s)```.*?```", "", page.read_text()).splitlines()
        assert not [line for line in prose if len(line) > WIDTH and not line.startswith(("|", "!["))], page
