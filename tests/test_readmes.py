"""What the pages beside the code say exists: files, recipes, commands and their options."""

import re
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import find_runs
from segkd.runner.comparing.sweep_plan import Sweep, read_plan, read_slurm
from segkd.runner.comparing.tables import main_table
from segkd.runner.console import markdown
from segkd.runner.recipe import parts
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.yaml_file import read_with_traps

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "recipes/results"
PAGES = [ROOT / "README.md", RESULTS / "README.md", *sorted({*ROOT.glob("*/README.md"), *ROOT.glob("runner/*.md")})]
WIDTH = 120
EXAMPLES = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, text in enumerate(re.findall(r"(?ms)^```ya?ml\n(.*?)^```", page.read_text()), 1)
]
# what an example that shows a part of a recipe, or of a sweep, is laid over
BASE = """
data: {dataset: synthetic, crop_size: [64, 64], batch_size: 2}
networks:
  student: {model: deeplabv3}
  teacher: {model: deeplabv3, train: false, weights: random}
losses: [{loss: cross_entropy}, {loss: kl, from: teacher}]
optimizer: {name: sgd, lr: 0.01}
schedule: {iterations: 10}
"""


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
def test_links_to_sections_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text())
    headings = {to: re.findall(r"(?m)^#+ (.*)", (page.parent / (to or page)).read_text()) for to, _ in links}
    anchors = {
        to: {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings[to]} for to in headings
    }
    assert not [f"{to}#{anchor}" for to, anchor in links if anchor not in anchors[to]]


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


def read_example(text: str, folder: Path) -> None:
    """Reads what stands in a page as who copies it would: a recipe, some of its networks, a sweep, or parts of them.

    Args:
        folder: has recipes of the names that sweeps in the pages use.
    """
    example = folder / "example.yaml"
    example.write_text(text)
    keys = set(read_with_traps(example)[0])
    if keys & set(Sweep.model_fields) - set(Recipe.model_fields):
        if "methods" in keys:
            read_plan(example)
        else:
            example.write_text(f"{text}\nname: example\nmethods: {{none: plain.yaml}}")
            read_slurm(read_plan(example).sweep, example, "")
        return
    if not keys & set(Recipe.model_fields):
        text = "networks:\n" + textwrap.indent(text, "  ")
    if not {"data", "networks", "losses", "schedule"} <= keys:
        text += "\nextends: plain.yaml"
    example.write_text(text)
    read(example)


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A folder among the shipped ones, as recipes/sweeps is, with two small recipes."""
    root = tmp_path_factory.mktemp("recipes")
    for shipped in (ROOT / "recipes").iterdir():
        (root / shipped.name).symlink_to(shipped)
    folder = root / "examples"
    folder.mkdir()
    for name in ("plain", "kl"):
        (folder / f"{name}.yaml").write_text(BASE)
    return folder


@pytest.mark.parametrize("text", EXAMPLES)
def test_yaml_examples_are_read(text, beside):
    read_example(text, beside)


@pytest.mark.parametrize(
    "text, mistake",
    [
        ("student: {model: pidnet, args: {variant: S}}", "networks.student.args.variant"),
        ("student: {model: pidnets}", "no models/pidnets.py"),
        ("losses: [{loss: kl, args: {temperature: 0}}]", "losses.0.args.temperature"),
        ("data: {crop: [64, 64]}", "data.crop: unknown key"),
        ("optimiser: {lr: 0.1}", "optimiser"),
        ("slurm: {partitions: gpu}", "slurm.partitions: unknown key"),
        ("name: tuned\nmethods: {kd: kl.yaml}\nsearch: {parameters: {lr: {low: 0, high: 1}}}", "lr is a key of no"),
    ],
)
def test_mistakes_in_examples_are_found(text, mistake, beside):
    with pytest.raises(ValueError, match=re.escape(mistake)):
        read_example(text, beside)


def test_every_loss_has_its_cost_told():
    rows = re.findall(r"^\| `(\w+)`", (ROOT / "losses/README.md").read_text(), re.MULTILINE)
    assert sorted({*rows}) == parts.names("losses")


def test_lines_are_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 220 and max(map(len, lines)) <= WIDTH
    for page in PAGES:
        prose = re.sub(r"(?s)```.*?```", "", page.read_text()).splitlines()
        assert not [line for line in prose if len(line) > WIDTH and not line.startswith(("|", "!["))], page


@pytest.mark.parametrize("folder", sorted(path.name for path in RESULTS.iterdir() if path.is_dir()))
def test_a_table_of_results_is_that_of_the_kept_ones(folder):
    table = main_table(compare(find_runs([str(RESULTS / folder)]), sort=True))
    told = (RESULTS / "README.md").read_text().splitlines()
    missing = [line for line in markdown(table.columns, table.lines).splitlines() if line not in told]
    assert missing == [], f"python runner/compare.py recipes/results/{folder} --sort"
