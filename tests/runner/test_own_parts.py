"""Parts of the user's own: those that runner/README.md shows run as they stand there, and what is wrong is named."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.runner import check
from segkd.runner.loading.data_sets import build_training_batches, build_training_sets, build_val_set, build_views
from segkd.runner.recipe import parts
from segkd.runner.recipe.editor_schema import editor_schema
from segkd.runner.recipe.options import options_of
from segkd.runner.recipe.read import read

PAGE = (Path(__file__).parents[2] / "runner/README.md").read_text().partition("## Adding a part")[2]
SHOWN = {re.search(r"^class (\w+)", text, re.M)[1]: text for text in re.findall(r"(?ms)^```python\n(.*?)^```", PAGE)}
OWN = [("losses", "my_loss"), ("models", "my_net"), ("datasets", "my_data"), (parts.METRICS, "my_metric")]
RECIPE = """
data: {dataset: my_data, root: ROOT, crop_size: [32, 32], batch_size: 4, workers: 0, mix: {kind: class_paste}}
networks:
  student: {model: my_net, args: {width: 8}}
  teacher: {model: my_net, train: false, weights: random}
losses: [{loss: cross_entropy}, {loss: my_loss, weight: 2, args: {feature: stage3}}]
optimizer: {lr: 0.01}
schedule: {iterations: 2}
evaluate: {metrics: [my_metric]}
tracking: {wandb: disabled}
"""


@pytest.fixture
def shown(new_part, tmp_path, monkeypatch):
    """The parts of the page, written as they stand there, and a recipe of them in the current folder."""
    for room, name in OWN:
        new_part(room, name, SHOWN[name.title().replace("_", "")])
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        for number in range(4):
            label = draw.choice(np.array([0, 1, 2, 11], np.uint8), (24, 40))  # smaller than a crop: there is padding
            Image.fromarray(draw.integers(0, 256, (24, 40, 3), np.uint8)).save(
                tmp_path / f"data/{split}/images/{number}.png"
            )
            Image.fromarray(label).save(tmp_path / f"data/{split}/labels/{number}.png")
    (tmp_path / "own.yaml").write_text(RECIPE.replace("ROOT", "data"))
    monkeypatch.chdir(tmp_path)


def test_the_page_shows_one_part_of_each_room():
    assert [*SHOWN] == [name.title().replace("_", "") for _, name in OWN]


def test_a_recipe_of_the_parts_that_the_page_shows_will_run(shown, run_here, capsys):
    run_here(check, "own.yaml")
    out = capsys.readouterr().out
    assert "this recipe will run" in out and "my_loss" in out
    assert re.search(r"ignored +2\d\.\d% +4 \|", out)


def test_what_a_data_set_ignores_counts_nowhere(shown):
    recipe = read("own.yaml", [])
    here = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    sets = build_training_sets(recipe)
    batches = build_training_batches(recipe, *sets, build_views(recipe), here, start=0)
    seen = np.concatenate([np.unique(next(batches).target) for _ in range(4)])
    assert {*seen.tolist()} == {0, 1, 2, 255}
    assert sets[0].ignore_index == build_val_set(recipe).ignore_index == 255


@pytest.mark.parametrize("words, told", [
    (["data.transform.pad_label=11"], r"data.transform.pad_label: 11 is none of the 3 classes; take one, or 255"),
    (["data.unlabelled={images: data, transform: {pad_label: 3}}", "losses=[{loss: cross_entropy}, {loss: kl}]"],
     r"data.unlabelled.transform.pad_label: 3 is none"),
])  # fmt: skip
def test_padding_is_a_class_or_does_not_count(shown, words, told):
    with pytest.raises(ValueError, match=told):
        build_training_sets(read("own.yaml", words))


def test_ids_that_cannot_be_are_told_before_any_table(shown, run_here, capsys):
    Image.new("L", (40, 24), 7).save("data/train/labels/2.png")
    with pytest.raises(ValueError, match="MyData: 2: its label holds the ids 7,"):
        run_here(check, "own.yaml")
    assert "ignored" not in capsys.readouterr().out


def test_parts_without_a_docstring_are_told_and_leave_the_schema_whole(shown):
    assert options_of("my_loss").startswith("losses/my_loss.py\n\nIt learns from another network.")
    for room, name in OWN[1:]:
        assert options_of(name).startswith(parts.path_of(room, name))
    schema = editor_schema()
    for _, name in OWN:
        assert f"/{name}" in schema
