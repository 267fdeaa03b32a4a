"""Counts of the training labels: right, of the images that are trained on, and counted once."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from segkd.runner.building import label_counts
from segkd.runner.building.label_counts import count_labels
from segkd.runner.loading.data_sets import build_training_sets
from segkd.runner.recipe.read import read

RECIPE = """\
name: counted
data: {dataset: synthetic, args: {size: [32, 48], length: 8}, crop_size: [32, 32], batch_size: 2, workers: 0}
networks: {student: {model: pspnet}}
losses: [{loss: cross_entropy, args: {class_weights: auto}}]
schedule: {iterations: 2}
"""
HERE = SimpleNamespace(main_process_first=nullcontext, is_main_process=True)


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """counted("seed=1", ...): the counts of a recipe, and its training set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counted.yaml").write_text(RECIPE)

    def count(*assignments):
        recipe = read("counted.yaml", assignments)
        train_set, _ = build_training_sets(recipe)
        return count_labels(recipe, train_set, HERE), train_set

    return count


@pytest.mark.parametrize("words", [[], ["data.labelled=1/2", "data.workers=1"]])
def test_counts(counted, words):
    counts, train_set = counted(*words)
    labels = [np.asarray(train_set[index][1]) for index in range(len(train_set))]
    assert counts.total_images == len(labels) == (4 if words else 8)
    for c in range(train_set.num_classes):
        showing = [label for label in labels if (label == c).any()]
        assert counts.pixels[c] == sum((label == c).sum() for label in labels)
        assert counts.images[c] == len(showing)
        assert counts.pixels_of_images[c] == sum((label != 255).sum() for label in showing)


def test_they_are_counted_once(counted, monkeypatch, tmp_path):
    first, _ = counted()
    other, _ = counted("data.labelled=1/2")
    assert len(list((tmp_path / "runs/label_counts").iterdir())) == 2 and first != other
    monkeypatch.delattr(label_counts, "_count")
    assert counted("seed=1", "data.cache=disk")[0] == first and counted("data.labelled=1/2")[0] == other
    with pytest.raises(NameError):
        counted("data.args.length=7")
