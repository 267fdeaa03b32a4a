"""Which sample comes when, against bare loops; over processes, parts, workers and resumes."""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.runner.loading.batch import TrainingViews
from segkd.runner.loading.data_sets import build_training_batches, build_training_sets, build_views
from segkd.runner.loading.sampler import evaluation_batches, images_per_part, samples_of_step, training_batches
from segkd.runner.recipe.read import read


class Numbered:
    """Item i is an image of the grey level i; `broken` cannot be read."""

    def __init__(self, length, broken=None, error=ValueError):
        self.length, self.broken, self.error = length, broken, error

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.broken:
            raise self.error(f"images/{index}.png: cannot be decoded")
        return Image.new("RGB", (6, 4), (index,) * 3), Image.new("L", (6, 4), index % 5)


def shaken(image, target, rng):
    """A random view that shows its draws: the image's grey level, a random pixel, a random label."""
    pixels, labels = np.array(image), np.array(target)
    pixels[0, 0] = rng.integers(0, 256, 3)
    labels[0, 0] = rng.integers(0, 5)
    return pixels, labels


def take(count, dataset=None, resize=None, seed=3, **options):
    views = TrainingViews(dataset or Numbered(10), shaken, seed, resize)
    return list(itertools.islice(training_batches(views, **{"start": 0, "batch_size": 4} | options), count))


@pytest.mark.parametrize("length, batch_size, seed", [(10, 4, 5), (7, 3, 6), (3, 8, 7), (5, 5, 0), (1, 2, 1)])
def test_each_epoch_shows_each_sample_once_in_the_order_of_its_generator(length, batch_size, seed):
    seen = [sample for step in range(4 * length) for sample in samples_of_step(step, batch_size, length, seed)]
    epochs = range(4 * batch_size)
    order = [(epoch, index) for epoch in epochs for index in np.random.default_rng((seed, epoch)).permutation(length)]
    assert seen == order


def test_views_of_a_sample_differ_between_epochs_and_seeds():
    first, second = take(2, batch_size=10)
    order = [second.indices.index(index) for index in first.indices]
    assert not torch.equal(first.images, second.images[order])
    assert torch.equal(first.images[:, :, 1:], second.images[order][:, :, 1:])
    assert not torch.equal(take(1)[0].images, take(1, seed=4)[0].images)


def test_batches_are_bytes_in_channels_last_order():
    (batch,) = take(1)
    assert batch.images.shape == (4, 3, 4, 6) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.target.shape == (4, 4, 6) and batch.target.dtype == torch.uint8
    moved = batch.to(torch.device("cpu"))
    assert moved.target.dtype == torch.int64 and torch.equal(moved.target, batch.target.long())
    assert batch.images[:, 0, 1, 1].tolist() == batch.indices


def test_fixed_resize_comes_before_the_view():
    def larger(image, target):
        return np.asarray(image.resize((12, 8))), np.asarray(target.resize((12, 8)))

    assert take(1, resize=larger)[0].images.shape == (4, 3, 8, 12)
    assert next(evaluation_batches(Numbered(2), resize=larger)).target.shape == (1, 8, 12)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_covers_each_image_once(world, batch_size):
    dataset = Numbered(7)
    seen = [list(evaluation_batches(dataset, rank=rank, world=world, batch_size=batch_size)) for rank in range(world)]
    indices = [index for batches in seen for batch in batches for index in batch.indices]
    assert sorted(indices) == list(range(7))
    for batch in (batch for batches in seen for batch in batches):
        assert batch.images[:, 0, 0, 0].tolist() == batch.indices and len(batch.indices) <= batch_size


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [ValueError, FileNotFoundError])
def test_an_unreadable_sample_is_told_in_its_own_words(workers, error):
    dataset = Numbered(10, broken=4, error=error)
    for load in (
        lambda: take(10, dataset, workers=workers),
        lambda: list(evaluation_batches(dataset, workers=workers)),
    ):
        with pytest.raises(error) as caught:
            load()
        assert str(caught.value) == "images/4.png: cannot be decoded"


def test_batches_that_cannot_be_shared_out():
    told = "data.batch_size is 4 images in total, which 3 processes times 1 accumulated parts"
    with pytest.raises(ValueError, match=told):
        take(1, world=3)
    with pytest.raises(ValueError, match="2 processes times 4 accumulated"):
        take(1, world=2, parts=4)


SEMI = """\
name: semi
data:
  dataset: synthetic
  args: {size: [32, 40], length: 14}
  crop_size: [24, 32]
  batch_size: 4
  labelled: 5/14
  unlabelled: {strong: {}, batch_size: 8}
  mix: {kind: class_paste}
  workers: 0
networks: {student: {model: pspnet}}
losses: [{loss: cross_entropy}]
schedule: {iterations: 9}
"""


def semi(folder, count, *assignments, start=0, rank=0, world=1):
    """The first batches of the recipe with both streams, as one of several processes gets them."""
    (folder / "semi.yaml").write_text(SEMI)
    recipe = read(folder / "semi.yaml", assignments)
    here = SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))
    sets = build_training_sets(recipe)
    return list(itertools.islice(build_training_batches(recipe, *sets, build_views(recipe), here, start=start), count))


def maps_of(batch):
    """Every map of a batch, those of its unlabelled images included."""
    own = [batch.images, batch.target, batch.strong, batch.mixed]
    return [maps for maps in own if maps is not None] + (maps_of(batch.unlabelled) if batch.unlabelled else [])


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.indices == other.indices and batch.unlabelled.indices == other.unlabelled.indices
        assert len(maps_of(batch)) == 6
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps_of(batch), maps_of(other), strict=True))


def test_each_step_has_images_of_both_streams(tmp_path):
    (tmp_path / "semi.yaml").write_text(SEMI)
    labelled, rest = build_training_sets(read(tmp_path / "semi.yaml"))
    assert len(labelled) == 5 and len(rest) == 9
    batches = semi(tmp_path, 9)
    # each stream is an endless list of its own epochs: 36 of 5 images, 72 of 9
    seen = [index for batch in batches for index in batch.indices]
    assert all(sorted(seen[first : first + 5]) == list(range(5)) for first in range(0, 35, 5))
    seen = [index for batch in batches for index in batch.unlabelled.indices]
    assert all(sorted(seen[first : first + 9]) == list(range(9)) for first in range(0, 72, 9))
    for batch in batches:
        other = batch.unlabelled
        assert set(other.target.unique().tolist()) <= {0, 255} and other.strong.shape == other.images.shape
        assert len(set(batch.target.unique().tolist()) - {255}) > 1


def test_the_streams_do_not_touch_each_other(tmp_path):
    both = semi(tmp_path, 6)
    alone = semi(tmp_path, 6, "data.unlabelled=null")
    for batch, other in zip(both, alone, strict=True):
        assert other.unlabelled is None
        assert batch.indices == other.indices and torch.equal(batch.images, other.images)
        assert torch.equal(batch.target, other.target)
    # nor does what is done to the one reach the other, but for the seed
    changed = semi(tmp_path, 6, "data.mix=null", "data.batch_size=2", "data.transform={flip: 0}",
                   "data.unlabelled.transform={flip: 0.5}")  # fmt: skip
    for batch, other in zip(both, changed, strict=True):
        assert batch.unlabelled.indices == other.unlabelled.indices
        assert torch.equal(batch.unlabelled.images, other.unlabelled.images)
        assert torch.equal(batch.unlabelled.strong, other.unlabelled.strong)
    reseeded = semi(tmp_path, 6, "seed=1")
    assert [batch.unlabelled.indices for batch in both] != [batch.unlabelled.indices for batch in reseeded]
    # without strong views the weak ones are the same
    weak = semi(tmp_path, 2, "data.unlabelled.strong=null")
    assert torch.equal(weak[1].unlabelled.images, both[1].unlabelled.images) and weak[1].unlabelled.strong is None


def test_strong_views_of_a_batch_show_partners(tmp_path):
    plain = "data.unlabelled.strong={jitter: 0, grey: 0, blur: 0, cutmix: 1.0}"
    for batch in semi(tmp_path, 4, plain):
        other, boxes = batch.unlabelled, batch.unlabelled.mixed
        assert boxes.flatten(1).any(1).all()
        for image in range(8):
            partner = image + 1 if image % 2 == 0 else image - 1
            wanted = torch.where(boxes[image], other.images[partner], other.images[image])
            assert torch.equal(other.strong[image], wanted)


@pytest.mark.parametrize("world, parts", [(2, 1), (1, 2), (2, 2), (4, 1), (1, 4)])
@pytest.mark.parametrize("start", [0, 2])
def test_both_streams_are_shared_out_to_the_pixel(tmp_path, world, parts, start):
    """By processes and accumulated parts, whichever step they begin at: the same random views, whoever draws them."""
    split = ("data.batch_size=8", f"loop.accumulate={parts}")  # pairs, which are mixed, stay together
    shares = [semi(tmp_path, 3 * parts, *split, start=start, rank=rank, world=world) for rank in range(world)]
    for step, batch in enumerate(semi(tmp_path, start + 3, split[0])[start:]):
        pieces = [shares[rank][step * parts + part] for part in range(parts) for rank in range(world)]
        assert all(len(piece.indices) == 8 // (world * parts) for piece in pieces)
        others = [piece.unlabelled for piece in pieces]
        for whole, each in ((batch, pieces), (batch.unlabelled, others)):
            assert [index for piece in each for index in piece.indices] == whole.indices
            for number, maps in enumerate(maps_of(whole)[:4]):
                assert torch.equal(torch.cat([maps_of(piece)[number] for piece in each]), maps)


def test_both_streams_restart_at_any_step(tmp_path):
    plain = semi(tmp_path, 9)
    for start in (1, 4, 8):
        assert_same(semi(tmp_path, 9 - start, start=start), plain[start:])


def test_workers_change_neither_stream(tmp_path):
    assert_same(semi(tmp_path, 5, "data.workers=2"), semi(tmp_path, 5))


def test_unlabelled_images_that_cannot_be_shared_out(tmp_path):
    with pytest.raises(ValueError, match="data.unlabelled.batch_size is 3 images .* change data.unlabelled.batch_size"):
        semi(tmp_path, 1, "data.unlabelled.batch_size=3", world=2)


def test_where_unlabelled_images_come_from(tmp_path):
    with pytest.raises(ValueError, match="data.unlabelled: every training image is labelled; say which .*1/8"):
        semi(tmp_path, 1, "data.labelled=null")
    with pytest.raises(ValueError, match="every training image is labelled"):
        semi(tmp_path, 1, "data.labelled=1/1")
    for level in range(3):
        Image.new("RGB", (48, 40), (level, 0, 0)).save(tmp_path / f"{level}.png")
    folder = f"data.unlabelled={{images: {tmp_path}, batch_size: 3, transform: {{flip: 0}}}}"
    (batch,) = semi(tmp_path, 1, "data.labelled=null", folder)
    assert sorted(batch.unlabelled.images[:, 0].flatten(1).amax(1).tolist()) == [0, 1, 2]


EXTRA = """
data:
  dataset: synthetic
  args: {size: [32, 40], length: 14}
  crop_size: [32, 32]
  batch_size: 8
  labelled: 5/14
  extra: {pseudo: {network: t}, share: 0.6}
  workers: 0
networks:
  student: {model: pspnet}
  t: {model: pspnet, train: false, weights: random}
losses: [{loss: cross_entropy}]
schedule: {iterations: 9}
"""


def test_a_share_of_each_batch_are_extra_images_in_epochs_of_their_own(tmp_path):
    (tmp_path / "extra.yaml").write_text(EXTRA)
    recipe = read(tmp_path / "extra.yaml")
    sets, views = build_training_sets(recipe), build_views(recipe)

    def batches(count, start=0, rank=0, world=1, parts=1):
        here = SimpleNamespace(process_index=rank, num_processes=world, device=torch.device("cpu"))
        cut = recipe.model_copy(update={"loop": recipe.loop.model_copy(update={"accumulate": parts})})
        return list(itertools.islice(build_training_batches(cut, *sets, views, here, start=start), count))

    alone = batches(9)
    for batch in alone:
        assert batch.extra == [index >= 5 for index in batch.indices] and sum(batch.extra) == 5
        assert all((target == 255).all() for target, extra in zip(batch.target, batch.extra) if extra)  # to be made
    for kind, length in ((False, 5), (True, 9)):
        seen = [index for batch in alone for index, extra in zip(batch.indices, batch.extra) if extra == kind]
        whole = range(0, len(seen) - length + 1, length)
        assert all(len(set(seen[first : first + length])) == length for first in whole)
    for batch, other in zip(alone[4:], batches(5, start=4), strict=True):
        assert batch.indices == other.indices and torch.equal(batch.images, other.images)
    # two processes, two parts of a step: the same images, and of both kinds everywhere
    for number, shares in enumerate(zip(*(batches(4, rank=rank, world=2, parts=2) for rank in (0, 1)))):
        own = [index for share in shares for index in share.indices]
        step, part = divmod(number, 2)
        assert own == alone[step].indices[4 * part : 4 * part + 4]
        assert all(sum(share.extra) in (1, 2) for share in shares)


def test_where_no_term_sees_labels_all_images_are_without_and_no_others_are_loaded(tmp_path):
    text = EXTRA.replace(
        "  labelled: 5/14\n  extra: {pseudo: {network: t}, share: 0.6}", "  unlabelled: {batch_size: 4}"
    )
    (tmp_path / "alone.yaml").write_text(text.replace("{loss: cross_entropy}", "{loss: kl, on: unlabelled}"))
    recipe = read(tmp_path / "alone.yaml")
    labelled, unlabelled = sets = build_training_sets(recipe)
    assert len(labelled) == len(unlabelled) == 14
    read_items = []
    labelled.__class__.__getitem__, kept = (
        (lambda self, index: read_items.append(index) or kept(self, index)),
        (labelled.__class__.__getitem__),
    )
    try:
        here = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
        batches = list(itertools.islice(build_training_batches(recipe, *sets, build_views(recipe), here, start=0), 7))
    finally:
        labelled.__class__.__getitem__ = kept
    assert sorted(index for batch in batches for index in batch.unlabelled.indices) == sorted([*range(14)] * 2)
    assert len(read_items) == 28 and all(batch.images is batch.unlabelled.images for batch in batches)


@pytest.mark.parametrize(
    "share, shared_by, refused", [(4, 2, False), (1, 1, True), (5, 1, False), (3, 2, True), (1, 8, True)]
)
def test_pairs_of_images_are_not_parted(share, shared_by, refused):
    for parts, world in ((shared_by, 1), (1, shared_by)):
        with pytest.raises(ValueError, match="data.mix mixes images in pairs") if refused else nullcontext():
            assert images_per_part(share * shared_by, parts, world, mixing="data.mix") == share
        assert images_per_part(share * shared_by, parts, world) == share
