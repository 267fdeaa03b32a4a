"""report.html of runs and comparisons, read as a browser reads it and, where there is one, by a browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import find_runs
from segkd.runner.comparing.tables import write_comparison
from segkd.runner.run_folder.folder import RunFolder, tile_folder
from segkd.runner.run_folder.metrics_file import append_rows
from segkd.runner.scoring.metrics.confusion import scores
from segkd.runner.scoring.pictures import alike, colored, error_map, save_tiles
from segkd.runner.training.page import Shown, write_run_page

# what a recipe or a data set may be called by somebody who means no good, and what it looks like on a page
HOSTILE = "</script><img src=x onerror=alert(1)>$x$ {{ 7 * 7 }} \"'&amp;"
CLASSES = (HOSTILE, "two\x1b[31m\u202eways", "sky")
SHOWN = (HOSTILE, r"two\x1b[31m\u202eways", "sky")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Scenes:
    """What a page asks of a data set."""

    class_names, palette, ignore_index = CLASSES, ((9, 9, 9), (200, 0, 0), (0, 0, 200)), 255


class Page(HTMLParser):
    """A page's elements with their attributes, the text between them, and the scripts."""

    def __init__(self, file: Path):
        super().__init__()
        self.elements, self.texts, self.scripts, self.tag = [], [], [], None
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.tag = tag

    def handle_endtag(self, tag):
        self.tag = None

    def handle_data(self, data):
        if self.tag == "script":
            self.scripts.append(data)
        elif self.tag != "style" and data.strip():
            self.texts.append(data.strip())

    def all(self, tag):
        """The attributes of all elements of a tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def assert_harmless(page):
    """It loads nothing, and a browser runs one script in it, which is ours."""
    attributes = [pair for _, own in page.elements for pair in own.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert all(value.startswith(("data:", "#")) for name, value in attributes if name in ("src", "href"))
    assert "url(" not in page.source and "@import" not in page.source
    *values, ours = page.all("script")
    assert ours == {} and all(one == {"type": "application/json"} for one in values)
    policy = next(one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;") and f"script-src 'sha256-{digest}'" in policy


@pytest.fixture
def run(fabricate, folder, monkeypatch):
    """The folder of a run with names that mean no good: a term, a class, an image; tiles of two evaluations."""
    monkeypatch.chdir(folder)
    counts = np.array([[[5, 10, 5], [0, 2, 0], [3, 3, 8]], [[9, 10, 9], [2, 2, 2], [0, 0, 1]]])
    label = json.dumps(HOSTILE)
    losses = f"losses=[{{loss: cross_entropy, label: {label}}}, {{loss: kl}}]"
    path = fabricate("hostile", counts, f"method={label}", losses, taught=True, teachers={"teacher": 0.9})
    rows = [{"iteration": i, "lr": 0.1 / i, f"weighted/{HOSTILE}": 1.0 / i, "weighted/kl": 0.5} for i in (1, 2, 3, 4)]
    rows[1] |= {"miou": 0.3, f"gradient/{HOSTILE}": 3.0, "gradient/kl": 1.0, "cosine/kl": -0.5}
    rows[3] |= {"miou": 0.4, "images_per_second": 4.0, "seconds/student": 0.5, "seconds/backward": 0.25}
    RunFolder(path).metrics_file.unlink()
    append_rows(RunFolder(path).metrics_file, rows)
    draw_tiles(path)
    return path


def draw_tiles(path, steps=(2, 4), name="<b>0.png"):
    """The tiles of an image whose left half is the first class and whose right half is the third."""
    target = np.repeat([[0, 0, 2, 2]], 4, axis=0)
    for step in steps:
        tiles = {"image": colored(target, Scenes.palette).convert("RGB"), "label": colored(target, Scenes.palette)}
        seen = np.full((4, 4), 2 * (step == 4))
        tiles |= {"teacher": tiles["label"], "student": colored(seen, Scenes.palette)}
        tiles["error"] = error_map(seen, target, Scenes.ignore_index)
        save_tiles(alike(tiles), tile_folder(RunFolder(path).panels(step), name))


def shown(run, finished=True):
    matrix = torch.tensor([[8, 2, 0], [1, 1, 0], [0, 5, 3]])
    counts = {"names": np.array(["<b>0.png", "1.png"]), "counts": RunFolder(run).read_counts()["counts"]}
    rows = [
        {"network": name, "model": "pspnet", "miou": miou, "parameters": count, "milliseconds": milliseconds}
        for name, miou, count, milliseconds in (("teacher", 0.9, 4e6, 8.0), ("student, hostile", 0.45, 1e6, 2.0))
    ]
    return Shown(4, scores(matrix), counts | {"matrix": matrix.numpy()}, rows if finished else [])


@pytest.fixture
def page(run):
    write_run_page(RunFolder(run).read_recipe(), Scenes, shown(run))
    return Page(RunFolder(run).page_file)


def test_text_of_recipes_and_data_sets_is_text(page):
    assert_harmless(page)
    for name in SHOWN:
        assert page.texts.count(name) >= 3, "in the table of classes, the legend and the confusion matrix"
    assert "49" not in page.texts and any(text.startswith(f"{HOSTILE}: student pspnet") for text in page.texts)
    charts = [json.loads(script) for script in page.scripts[:-1]]
    assert [label for label, _ in charts[1]["series"]] == [HOSTILE, "kl"]
    assert [one["alt"] for one in page.all("img")][0] == "image of <b>0.png"


def test_the_page_of_a_run_says_what_the_run_says(page):
    told = " ".join(page.texts)
    for words in ("Finished: 4 iterations. Shown is the checkpoint of iteration 4, the best of 2.", "4.00 M", "8.0 ms"):
        assert words in told
    assert "45 % of the teacher's mIoU which is 90.00 %" in told, "the mean of 8/11, 1/9 and 3/8 of it"
    charts = [json.loads(script) for script in page.scripts[:-1]]
    assert charts[0]["series"] == [["student", [[2, 30], [4, 40]]], ["teacher", [[0, 90], [4, 90]]]]
    pulls = charts[3]["series"]
    assert pulls == [[HOSTILE, [[2, 75]]], ["kl", [[2, 25]]]] and charts[4]["series"] == [["kl", [[2, -0.5]]]]
    assert f"{SHOWN[1]} called {SHOWN[0]} 50.0 %" in told and f"sky called {SHOWN[1]} 62.5 %" in told
    # a step of a second, of which the student takes half
    assert told.index("student 500.0 50.0") < told.index("backward 250.0 25.0")
    assert "data.args.size [32, 48]" in told and "device cpu, 1 thread" in told
    tiles = [one for one in page.all("img") if "data-step" in one]
    assert [(one["data-step"], "hidden" in one) for one in tiles] == [("2", True), ("4", False)] * 2
    assert len(page.all("img")) == 3 + len(tiles), "what does not change is there once"
    assert len(page.source) < 100_000


def test_a_run_under_way_and_one_without_pictures_have_pages(run):
    recipe, folder = RunFolder(run).read_recipe(), RunFolder(run)
    shutil.rmtree(run / "panels")
    folder.teachers_file.unlink()
    folder.metrics_file.write_text("no log any more\n")
    evaluation = shown(run, finished=False)
    del evaluation.counts["matrix"]
    write_run_page(recipe, Scenes, evaluation)
    page = Page(folder.page_file)
    assert_harmless(page)
    assert "Under way: 0 of 4 iterations. Shown is the evaluation after 4." in page.texts
    sections = [one["id"] for one in page.all("section")]
    assert sections == ["curves", "classes", "settings", "environment"] and not page.all("img")


def test_a_run_that_the_loss_judges_says_so(run):
    append_rows(RunFolder(run).metrics_file, [{"iteration": 5, "held_out_loss": 0.25, "held_out/kl": 0.125}])
    rows = [{"network": "student", "model": "pspnet", "held_out_loss": 0.25, "parameters": 1e6, "milliseconds": 2.0}]
    loss = Shown(4, {"held_out_loss": 0.25, "held_out/kl": 0.125}, rows=rows)
    write_run_page(RunFolder(run).read_recipe(), None, loss)
    page = Page(RunFolder(run).page_file)
    assert_harmless(page)
    told = " ".join(page.texts)
    assert "0.25 loss on held-out images on val, iteration 4" in told and "the best of 1." in told
    assert "student pspnet 0.25 1.00 M 2.0" in told and "classes" not in [one["id"] for one in page.all("section")]
    curves = [json.loads(script)["series"] for script in page.scripts[:-1]]
    assert [["weighted sum", [[5, 0.25]]], ["kl", [[5, 0.125]]]] in curves


@pytest.fixture
def comparison(fabricate, folder, monkeypatch):
    """A baseline and a hostile method of two seeds each, compared."""
    monkeypatch.chdir(folder)
    for seed, (plain, taught) in enumerate([(50, 60), (40, 80)]):
        for name, found, method in (("none", plain, []), ("kl", taught, [f"method={json.dumps(HOSTILE)}"])):
            counts = np.tile([[found, 100, found], [100, 100, 100], [0, 0, 0]], (2, 1, 1))
            path = fabricate(f"{name}-s{seed}", counts, f"seed={seed}", *method, taught=bool(method))
            draw_tiles(path, steps=(4,), name="0.png")
    write_comparison(compare(find_runs(["runs"])), folder / "out")
    return Page(folder / "out/report.html")


def test_the_page_of_a_comparison_says_what_its_table_says(comparison, folder):
    assert_harmless(comparison)
    line = (folder / "out/table.md").read_text().splitlines()[3]
    cells = [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[4:-1]]
    first = comparison.texts.index(HOSTILE)
    assert comparison.texts[first : first + len(cells)] == cells
    charts = [json.loads(script) for script in comparison.scripts[:-1]]
    assert [label for label, _ in charts[0]["series"]] == ["none", HOSTILE]
    assert "losses.kl.loss" in comparison.texts and "optimizer.lr" not in comparison.texts
    assert [one["alt"].partition(" of ")[0] for one in comparison.all("img")] == [
        "image", "label", *["none"] * 2, *[HOSTILE] * 2,
    ]  # fmt: skip


# moves the slider to the first step, sorts the first table of the page's classes, points at a chart
ACTS = """{
const slider = document.getElementById("step");
slider.value = 0;
slider.dispatchEvent(new Event("input"));
document.querySelector("#classes th button").click();
const svg = document.querySelector(".chart svg"), box = svg.getBoundingClientRect();
svg.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width, clientY: box.top + 9}));
}"""


def seen_by_a_browser(file):
    """The page after its script has run, as the browser has it, and what went wrong in it."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    profile = f"--user-data-dir={file.parent / 'profile'}"
    result = subprocess.run([*command, profile, file.resolve().as_uri()], capture_output=True, text=True, timeout=120)
    (file.parent / "seen.html").write_text(result.stdout, encoding="utf-8")
    return Page(file.parent / "seen.html"), [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_a_browser_runs_the_page_without_errors(run, page, tmp_path):
    assert not page.all("a"), "the list of sections is made by the script"
    seen, errors = seen_by_a_browser(RunFolder(run).page_file)
    assert errors == [] and [one["href"] for one in seen.all("a")][:2] == ["#result", "#curves"]
    assert not [one for _, one in seen.elements if "onerror" in one] and len(seen.all("img")) == len(page.all("img"))
    # the same page without its policy, so that it runs a second script
    acting = tmp_path / "acting.html"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.source)
    acting.write_text(text.replace("</body>", f"<script>{ACTS}</script></body>"), encoding="utf-8")
    seen, errors = seen_by_a_browser(acting)
    assert errors == []
    tiles = [one for one in seen.all("img") if "data-step" in one]
    assert [(one["data-step"], "hidden" in one) for one in tiles] == [("2", False), ("4", True)] * 2
    assert [one.get("aria-sort") for one in seen.all("th")].count("ascending") == 1
    assert "iteration 4" in seen.texts and "90" in seen.texts
