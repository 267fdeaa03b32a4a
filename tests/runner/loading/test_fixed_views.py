"""Views that come again: which one an epoch shows, what it is drawn with, and what of a stream stays as it was."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from segkd.runner.loading.data_sets import build_training_batches, build_training_sets, build_views, training_views
from segkd.runner.loading.fixed_views import FixedViews
from segkd.runner.recipe.read import read

RECIPE = """\
name: semi
data:
  dataset: synthetic
  args: {size: [32, 40], length: 14}
  crop_size: [24, 32]
  batch_size: 5
  labelled: 5/14
  unlabelled: {strong: {}, batch_size: 9}
  workers: 0
networks:
  student: {model: pspnet}
  teacher: {model: pspnet, train: false, weights: random, cache: {views: 3}}
losses: [{loss: cross_entropy}, {loss: kl, on: both}]
schedule: {iterations: 9}
"""
ALL_LABELLED = "data.labelled=null", "data.unlabelled=null", "data.batch_size=14"


def streams(folder, count, *assignments, start=0):
    """The first batches of both streams; a batch is an epoch of its stream."""
    (folder / "semi.yaml").write_text(RECIPE)
    recipe = read(folder / "semi.yaml", assignments)
    here = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    sets = build_training_sets(recipe)
    return list(itertools.islice(build_training_batches(recipe, *sets, build_views(recipe), here, start=start), count))


@pytest.mark.parametrize("count", [1, 3, 16])
def test_every_view_is_shown_once_before_one_comes_again(count):
    views = FixedViews(count, seed=0)
    for seed, index in itertools.product((0, 1), range(4)):
        shown = [views.shown(epoch, index, seed) for epoch in range(3 * count)]
        turns = [shown[first : first + count] for first in range(0, 3 * count, count)]
        assert all(sorted(turn) == list(range(count)) for turn in turns)


def test_images_turns_and_seeds_have_orders_of_their_own():
    views, places = FixedViews(16, seed=0), ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    assert len({tuple(views.order(*place)) for place in places}) == 4


def test_a_view_looks_the_same_whenever_and_to_whomever_it_is_shown(tmp_path):
    seen = {}
    for seed in (0, 7):
        for batch in streams(tmp_path, 6, f"seed={seed}", *ALL_LABELLED, "losses=[{loss: kl}]"):
            for place, image, target in zip(batch.places, batch.images, batch.target):
                known = seen.setdefault(place, (image, target))
                assert torch.equal(known[0], image) and torch.equal(known[1], target)
    assert len(seen) == 14 * 3
    # what the view v of an image is drawn with is what a run with the cache's seed draws its epoch v with
    plain = streams(tmp_path, 3, *ALL_LABELLED, "losses=[{loss: cross_entropy}]")
    for epoch, batch in enumerate(plain):
        assert batch.places is None
        for index, image in zip(batch.indices, batch.images):
            assert torch.equal(seen[index, epoch][0], image)


def test_both_streams_have_their_own_views_and_strong_ones_are_new_each_time(tmp_path):
    weak, strong = {}, []
    for batch in streams(tmp_path, 6):
        other = batch.unlabelled
        assert sorted(batch.indices) == list(range(5)) and sorted(other.indices) == list(range(9))
        assert set(batch.views) | set(other.views) <= {0, 1, 2}
        for place, image, recoloured in zip(other.places, other.images, other.strong):
            assert torch.equal(weak.setdefault(place, image), image)
            strong.append(recoloured)
    assert len(weak) == 9 * 3 and len({image.numpy().tobytes() for image in strong}) == 9 * 6
    # a run that goes on sees what it would have seen
    first, again = streams(tmp_path, 6)[4], streams(tmp_path, 2, start=4)[0]
    assert first.places == again.places and torch.equal(first.unlabelled.strong, again.unlabelled.strong)


@pytest.mark.parametrize("assignment, fixed", [
    ("losses.1.on=both", {"labelled", "unlabelled"}), ("losses.1.on=labelled", {"labelled"}),
    ("losses.1.on=unlabelled", {"unlabelled"}), ("losses.1.on=strong", {"unlabelled"}), ("losses.1.weight=0", set()),
    ("losses.1.weight={start: 0, end: 1, over: [0, 5]}", {"labelled"}), ("networks.teacher.cache=null", set()),
])  # fmt: skip
def test_only_a_stream_whose_teacher_is_kept_has_views_that_come_again(tmp_path, assignment, fixed):
    """With weight 0 throughout it has none, so that it is the stream of plain training."""
    (tmp_path / "semi.yaml").write_text(RECIPE.replace("on: both", "on: labelled"))
    recipe = read(tmp_path / "semi.yaml", [assignment])
    sets, views = build_training_sets(recipe), build_views(recipe)
    found = {stream: training_views(recipe, stream, sets[number], views[number]).fixed
             for number, stream in enumerate(("labelled", "unlabelled"))}  # fmt: skip
    assert {stream for stream, views in found.items() if views is not None} == fixed
    if fixed == {"labelled", "unlabelled"}:
        assert found["labelled"].seed != found["unlabelled"].seed and found["labelled"].count == 3


@pytest.mark.parametrize("assignments, count", [
    ((), {"labelled": 3, "unlabelled": 3}),
    (("networks.teacher.cache.views=100",), {"labelled": 9, "unlabelled": 9}),  # a batch is an epoch of its stream
    (("networks.teacher.cache.views=100", "data.unlabelled.batch_size=4"), {"labelled": 9, "unlabelled": 4}),
    (("networks.teacher.cache.views=100", "schedule={seconds: 60}"), {"labelled": 100, "unlabelled": 100}),
])  # fmt: skip
def test_a_stream_has_no_more_views_than_its_run_shows(tmp_path, assignments, count):
    (tmp_path / "semi.yaml").write_text(RECIPE)
    recipe = read(tmp_path / "semi.yaml", assignments)
    sets, views = build_training_sets(recipe), build_views(recipe)
    fixed = [training_views(recipe, stream, sets[number], views[number]).fixed for number, stream in enumerate(count)]
    assert [one.count for one in fixed] == [*count.values()]
