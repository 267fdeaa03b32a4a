"""What is true of every file in the room of metrics."""

import json
import math

import pytest
import torch

from segkd.runner.console import percent
from segkd.runner.recipe import parts
from segkd.runner.run_folder.metrics_file import plain
from segkd.runner.scoring.metrics._metric import Split, table

IGNORED = 255
SPLIT = Split(("sky", "road", "pole"), IGNORED)


@pytest.fixture(params=parts.names(parts.METRICS))
def metric(request):
    return parts.build(parts.METRICS, request.param, {}, SPLIT)


def batch():
    """Scores, prediction and target of five images, one of them without a label."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 3, 14, 18, generator=draw)
    target = torch.randint(2, (5, 7, 9), generator=draw).repeat_interleave(2, 1).repeat_interleave(2, 2)
    target[:, :2, :5], target[4] = IGNORED, 7  # ids outside the classes have no label either
    return scores, scores.argmax(1), target


def merged(metric, batches):
    """The counts of batches as the evaluation merges them."""
    found = [metric.count(*part) for part in batches]
    return {
        key: torch.cat([part[key] for part in found]) if key in metric.per_image else sum(part[key] for part in found)
        for key in found[0]
    }


def test_counts_of_batches_add_up(metric):
    maps = batch()
    whole = metric.values(metric.count(*maps))
    for cuts in ((2, 3), (1, 0, 4)):  # a process without an image has nothing to add
        values = metric.values(merged(metric, zip(*(each.split(cuts) for each in maps))))
        assert values.keys() == whole.keys()
        for name, value in values.items():
            torch.testing.assert_close(torch.tensor(value), torch.tensor(whole[name]), equal_nan=True)


def test_pixels_without_a_label_change_nothing(metric):
    scores, prediction, target = batch()
    other = torch.where((target > 2)[:, None], scores.flip(1), scores)
    counts, others = metric.count(scores, prediction, target), metric.count(other, other.argmax(1), target)
    assert not torch.equal(prediction, other.argmax(1))
    torch.testing.assert_close(counts, others, equal_nan=True)


def test_a_metric_that_reads_no_scores_does_without_them(metric):
    scores, prediction, target = batch()
    if not metric.reads_scores:
        counts = metric.count(scores, prediction, target)
        torch.testing.assert_close(metric.count(None, prediction, target), counts, equal_nan=True)


def test_values_are_named_after_their_metric_and_go_through_json(metric):
    values = metric.values(metric.count(*batch()))
    name = type(metric).__module__.rpartition(".")[2]
    assert name == "confusion" or all(key.startswith(f"{name}_") for key in values)
    assert metric.headline.keys() <= values.keys()
    assert all(isinstance(values[key], float) for key in metric.headline)
    read = json.loads(json.dumps(plain(values)))
    assert metric.text(read) == metric.text(values)


def test_a_prediction_that_is_right_everywhere_is_best(metric):
    _, _, target = batch()
    target[4] = 1
    right = torch.nn.functional.one_hot(target.clamp_max(2), 3).permute(0, 3, 1, 2).float()
    best = metric.values(metric.count(1000 * right, right.argmax(1), target))
    if (name := next(iter(metric.headline), "miou")) == "calibration_error":
        assert best[name] == 0
    else:
        assert best[name] == 1


def test_tables_are_aligned_markdown():
    text = table(["class", "IoU (%)"], [["sky", percent(0.5)], ["traffic sign", percent(math.nan)]])
    assert text.splitlines() == [
        "| class        | IoU (%) |",
        "| ------------ | ------: |",
        "| sky          |   50.00 |",
        "| traffic sign |       - |",
    ]
