"""Batches of views: stacked, mixed with each other and moved, against examples made by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.datasets._mixing import Mix, MixDraw
from segkd.datasets._strong import StrongView, box_mask
from segkd.runner.loading.batch import Batch, EvaluationViews, TrainingViews, View, collate


def view(level, index=0, **options):
    """A view of one grey level whose label is the level's last digit."""
    return View(np.full((3, 4, 3), level, np.uint8), np.full((3, 4), level % 10, np.uint8), index, **options)


def whole(image, target, rng):
    """The image as it is, one pixel drawn."""
    pixels = np.array(image)
    pixels[0, 0] = rng.integers(0, 256, 3)
    return pixels, np.array(target)


class Numbered:
    """Item i is an image of noise drawn with i, its label i everywhere."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        return Image.fromarray(pixels), Image.new("L", (16, 12), index)


def test_views_become_a_batch():
    batch = collate([view(11, 5), view(22, 3)])
    assert batch.images.shape == (2, 3, 3, 4) and batch.images[:, 2, 1, 1].tolist() == [11, 22]
    assert batch.target[:, 0, 0].tolist() == [1, 2] and batch.indices == [5, 3]
    assert batch.strong is None and batch.mixed is None and batch.unlabelled is None


def test_labelled_images_are_mixed_with_their_partners():
    right = MixDraw(box=(0, 2, 3, 2))
    views = [view(11, mixing=right), view(22), view(33), view(44, mixing=MixDraw(box=(0, 0, 1, 4))), view(55)]
    batch = collate(views, Mix())
    grey = batch.images[:, 0]
    assert grey[0].tolist() == [[11, 11, 22, 22]] * 3 and batch.target[0].tolist() == [[1, 1, 2, 2]] * 3
    assert grey[1].unique().tolist() == [22] and grey[2].unique().tolist() == [33]
    # its partner as it was before it was mixed itself
    assert grey[3].tolist() == [[33] * 4, [44] * 4, [44] * 4] and batch.target[3, 0].tolist() == [3] * 4
    assert grey[4].unique().tolist() == [55], "the last of an odd number has no partner"
    both = collate([view(11, mixing=right), view(22, mixing=right)], Mix()).images[:, 0, 0]
    assert both.tolist() == [[11, 11, 22, 22], [22, 22, 11, 11]]


def test_strong_views_show_their_partners_in_their_boxes():
    def strong(level, box):
        return {"strong": np.full((3, 4, 3), level, np.uint8), "box": box_mask((3, 4), box)}

    boxes = [(0, 0, 3, 2), None, (1, 0, 1, 4)]
    views = [view(10 * i, **strong(100 + i, box)) for i, box in enumerate(boxes)]
    batch = collate(views)
    grey = batch.strong[:, 0]
    assert grey[0].tolist() == [[101, 101, 100, 100]] * 3
    assert grey[1].unique().tolist() == [101] and grey[2].unique().tolist() == [102]
    assert batch.mixed.dtype == torch.bool and batch.mixed.sum((1, 2)).tolist() == [6, 0, 4]
    assert batch.mixed[0].tolist() == [[True, True, False, False]] * 3
    # the weak views stay as they are
    assert batch.images[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert batch.strong.is_contiguous(memory_format=torch.channels_last)


def test_the_strong_view_is_made_of_the_weak_one():
    views = TrainingViews(Numbered(), whole, seed=3, strong=StrongView(jitter=0, grey=0, blur=0, cutmix=1.0))
    found = views[2, 5]
    np.testing.assert_array_equal(found.strong, found.image)
    assert found.box.any() and found.index == 5
    again = TrainingViews(Numbered(), whole, seed=3, strong=StrongView())[2, 5]
    np.testing.assert_array_equal(again.image, found.image)  # colours are drawn after the crop


def test_mixing_leaves_the_views_own_draws_alone():
    plain, mixing = (TrainingViews(Numbered(), whole, seed=3, mix=mix) for mix in (None, Mix(probability=1.0)))
    for index in range(6):
        np.testing.assert_array_equal(plain[0, index].image, mixing[0, index].image)
        assert plain[0, index].mixing is None and mixing[0, index].mixing is not None
    assert mixing[0, 1].mixing == mixing[0, 1].mixing != mixing[1, 1].mixing


def test_a_view_that_failed_is_the_batch():
    error = ValueError("images/4.png: cannot be decoded")
    assert collate([view(1), error, view(2)]) is error


@pytest.mark.parametrize("image, label", [((5, 4), (5, 4)), ((3, 4), (6, 8))])
def test_sizes_that_differ_are_one_sentence(image, label):
    """Of images, and of labels where a protocol has brought the images to one size."""
    other = View(np.zeros((*image, 3), np.uint8), np.zeros(label, np.uint8), 7)
    found = collate([view(1, 3), other])
    told = "(number 3 has 3x4 and number 7 has {}x{} pixels); set evaluate.batch_size to 1".format(*label)
    assert isinstance(found, ValueError) and told in str(found)


def test_the_unlabelled_batch_travels_with_the_labelled_one():
    other = Batch(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8), torch.zeros(2, 4, 4, dtype=torch.uint8), [8, 9])
    batch = Batch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4, dtype=torch.uint8), [1])
    batch.unlabelled = other
    moved = batch.to(torch.device("cpu"))
    assert moved.target.dtype == moved.unlabelled.target.dtype == torch.int64 and moved.unlabelled.indices == [8, 9]
    assert moved.unlabelled.strong is None and moved.unlabelled.mixed is None
    other.strong, other.mixed = other.images + 1, torch.ones(2, 4, 4, dtype=torch.bool)
    moved = batch.to(torch.device("cpu")).unlabelled
    assert moved.strong.unique().tolist() == [8] and moved.mixed.dtype == torch.bool


def test_images_that_no_term_sees_with_labels_are_moved_once():
    maps = [torch.zeros(2, 3, 4, 4, dtype=torch.uint8) for _ in range(2)]
    batch = Batch(maps[0], torch.zeros(2, 4, 4), [0, 1], strong=maps[1])
    moved = replace(batch, unlabelled=batch).to(torch.device("meta"))
    assert moved.images is moved.unlabelled.images and moved.strong is moved.unlabelled.strong
    moved = replace(batch, unlabelled=replace(batch, strong=None)).to(torch.device("meta"))
    assert moved.unlabelled.strong is None and moved.strong is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory is a GPU's")
def test_all_of_it_is_pinned():
    pinned = collate([view(1, strong=np.zeros((3, 4, 3), np.uint8), box=np.zeros((3, 4), bool))]).pin_memory()
    assert all(maps.is_pinned() for maps in (pinned.images, pinned.target, pinned.strong, pinned.mixed))


def test_evaluation_views_are_the_images_themselves():
    views = EvaluationViews(Numbered(), [4, 1])
    assert len(views) == 2 and views[0].index == 4 and views[1].target.tolist() == [[1] * 16] * 12
    np.testing.assert_array_equal(views[1].image, np.asarray(Numbered()[1][0]))
