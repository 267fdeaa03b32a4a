"""A frozen network read from its cache: what terms see of it, what is a cache of its own, what is refused."""

import copy
import itertools
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from segkd.datasets._parts_of_a_set import Chosen, WithoutLabels
from segkd.datasets.folder import Folder
from segkd.models._class_map import ClassMapped
from segkd.models._prediction import Normalize
from segkd.runner.building import cached
from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import build_networks
from segkd.runner.loading.data_sets import build_training_batches, build_training_sets, build_views, training_views
from segkd.runner.recipe.read import read

RECIPE = """\
name: semi
data:
  dataset: synthetic
  args: {size: [40, 56], length: 10}
  crop_size: [32, 48]
  batch_size: 3
  labelled: 4/10
  unlabelled: {strong: {}, batch_size: 6}
  workers: 0
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8, aux: false}}
  teacher:
    model: pspnet
    args: {backbone: mobilenetv2_035, output_stride: 16, width: 16}
    train: false
    weights: random
    cache: {views: 2}
losses:
  - {loss: cross_entropy}
  - {loss: kl, on: both}
  - {loss: kl, on: strong, label: strong, args: {size: target}}
  - {loss: fitnet}
schedule: {iterations: 8}
"""
HERE = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"), autocast=nullcontext,
                       is_main_process=True)  # fmt: skip


class Setup:
    """A recipe's graph with its caches, and its batches."""

    def __init__(self, folder, *assignments):
        self.recipe = read(folder / "semi.yaml", [f"tracking.folder={folder}", *assignments])
        labelled, unlabelled = build_training_sets(self.recipe)
        self.sets = {"labelled": labelled, "unlabelled": unlabelled}
        self.graph = build_graph(self.recipe, build_networks(self.recipe, labelled), labelled.ignore_index)
        self.teacher, self.forwards = self.graph.network("teacher"), []
        self.graph.caches = self.caches = cached.open_caches(self.recipe, self.graph, self.sets, HERE, tells=False)
        self.teacher.register_forward_hook(lambda network, inputs, _: self.forwards.append(len(inputs[0])))

    def batches(self, count):
        sets = self.sets.values()
        batches = build_training_batches(self.recipe, *sets, build_views(self.recipe), HERE, start=0)
        return [batch.to(torch.device("cpu")) for batch in itertools.islice(batches, count)]

    def losses(self, batch):
        with torch.no_grad():
            return self.graph.eval()(batch.images, batch.target, 0, batch.unlabelled, batch.places)


@pytest.fixture
def setup(tmp_path):
    """setup("key=value", ...) -> the recipe's Setup; they share a folder."""
    (tmp_path / "semi.yaml").write_text(RECIPE)
    return lambda *assignments: Setup(tmp_path, *assignments)


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@torch.no_grad()
def test_what_is_read_is_the_network_to_the_rounding_of_float16(setup):
    here = setup()
    for batch in here.batches(3):
        for stream, part in (("labelled", batch), ("unlabelled", batch.unlabelled)):
            found = cached.maps_of(here.caches["teacher", stream](part.images, part.places))
            alone = [cached.maps_of(here.teacher(image)) for image in part.images.split(1)]
            together = cached.maps_of(here.teacher(part.images))
            assert list(found) == list(together) == ["logits", "head"]
            for name, values in found.items():
                exact = torch.cat([maps[name] for maps in alone])
                assert torch.equal(values, exact.half().float()) and values.dtype == torch.float32
                bound = 2**-11 * together[name].abs() + 1e-5 * together[name].abs().max()
                assert ((values - together[name]).abs() <= bound).all()


def test_terms_see_a_first_pass_as_every_later_one_and_as_the_network_live(setup):
    first, later = setup(), setup()
    for batch in first.batches(4):
        told = first.losses(batch)
        later.forwards.clear()
        again = later.losses(batch)
        assert later.forwards == [] and all(torch.equal(told[label], again[label]) for label in told)
        later.graph.caches = {}
        live = later.losses(batch)
        later.graph.caches = later.caches
        assert later.forwards == [3, 6] and list(live) == ["cross_entropy", "kl", "strong", "fitnet"]
        for label, value in live.items():
            torch.testing.assert_close(told[label], value, rtol=2e-3, atol=1e-5)


def test_a_training_step_has_the_gradient_it_has_with_the_network_live(setup):
    gradients = []
    for is_live in (False, True):
        here = setup()
        here.graph.caches = {} if is_live else here.caches
        (batch,) = here.batches(1)
        torch.manual_seed(0)  # of dropout
        sum(here.graph.train()(batch.images, batch.target, 0, batch.unlabelled, batch.places).values()).backward()
        parameters = (one for one in here.graph.parameters() if one.grad is not None)
        gradients.append(torch.cat([one.grad.flatten() for one in parameters]))
    found, live = gradients
    assert 0 < (found - live).norm() < 1e-3 * live.norm()


def test_only_what_is_missing_is_made_one_image_at_a_time(setup):
    here = setup()
    (batch,) = here.batches(1)
    here.forwards.clear()
    here.losses(batch)
    assert here.forwards == 9 * [1]
    half, store = batch.unlabelled, here.caches["teacher", "unlabelled"].store
    assert store.filled().sum() == 6 and here.caches["teacher", "labelled"].store.filled().sum() == 3
    here.forwards.clear()
    others = [(index, 1 - view) if index % 2 else (index, view) for index, view in half.places]
    here.caches["teacher", "unlabelled"](half.images, others)
    assert here.forwards == sum(index % 2 for index in half.indices) * [1]


def test_evaluation_and_plain_calls_ask_the_network_itself(setup):
    here = setup()
    (batch,) = here.batches(1)
    here.forwards.clear()
    here.graph.predict(["teacher"], batch.images)
    with torch.no_grad():
        here.graph.eval()(batch.images, batch.target, 0, replace(batch.unlabelled, views=None))
    assert here.forwards == [3, 3, 6] and not here.caches["teacher", "labelled"].store.filled().any()


def test_a_damaged_entry_is_made_anew(setup, caplog):
    here = setup()
    batches = here.batches(2)
    wanted = [here.losses(batch) for batch in batches]
    above = here.caches["teacher", "labelled"].store.folder.parent
    whole = files_in(above)
    for path, content in whole.items():
        if path.suffix == ".bin":
            at = len(content) - content[::-1].index(next(byte for byte in content[::-1] if byte)) - 1
            (above / path).write_bytes(content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :])
    again = setup()
    assert [{label: value.item() for label, value in again.losses(batch).items()} for batch in batches] == [
        {label: value.item() for label, value in losses.items()} for losses in wanted
    ]
    assert files_in(above) == whole and "an entry is damaged" in caplog.text


def test_filling_makes_what_is_missing_and_the_same_bytes(setup, tmp_path):
    here = setup()
    here.losses(here.batches(1)[0])
    for stream in ("labelled", "unlabelled"):
        views = training_views(here.recipe, stream, here.sets[stream], build_views(here.recipe)[stream == "unlabelled"])
        store, before = here.caches["teacher", stream].store, len(here.forwards)
        missing = int((~store.filled()).sum())
        assert 0 < missing < store.filled().size
        cached.fill(here.caches["teacher", stream], views, here.recipe, HERE)
        assert store.filled().all() and here.forwards[before:] == missing * [1] and store.missing_size() == 0
    filled = files_in(tmp_path / "teacher_cache")
    shutil.rmtree(tmp_path / "teacher_cache")
    other = setup("seed=0", "data.batch_size=2", "losses.1.on=labelled")  # other batches, the same views
    for batch in other.batches(4):
        other.caches["teacher", "labelled"](batch.images, batch.places)
        other.caches["teacher", "unlabelled"](batch.unlabelled.images, batch.unlabelled.places)
    assert files_in(tmp_path / "teacher_cache") == filled


def test_what_the_maps_depend_on_is_a_cache_of_its_own(setup, tmp_path, monkeypatch):
    teacher = setup().teacher

    def keys(*assignments):
        recipe = read(tmp_path / "semi.yaml", assignments)
        sets = zip(("labelled", "unlabelled"), build_training_sets(recipe))
        return {stream: cached.description_of(recipe, "teacher", teacher, stream, one) for stream, one in sets}

    plain = keys()
    assert keys("data.batch_size=6", "name=other", "networks.teacher.cache.views=5", "networks.teacher.cache.bits=8",
                 "losses=[{loss: cross_entropy}, {loss: kl, on: both}]", "optimizer.lr=1",
                 "networks.student.args.width=4") == plain  # fmt: skip
    for assignment in ("data.crop_size=[32, 32]", "data.args.length=20", "data.args.seed=1", "data.labelled=5/10",
                       "data.resize=[48, 64]", "networks.teacher.cache.seed=1", "loop.precision=bf16",
                       "networks.teacher.args.align_corners=true"):  # fmt: skip
        others = keys(assignment)
        assert all(others[stream] != plain[stream] for stream in plain), assignment
    other = keys("data.unlabelled.transform={flip: 0}")
    assert other["labelled"] == plain["labelled"] and other["unlabelled"] != plain["unlabelled"]
    with monkeypatch.context() as patch:
        patch.setattr(cached, "PILLOW", "0.1")  # which would resize to other pixels
        assert all(others != plain[stream] for stream, others in keys().items())
    normalize, teacher.normalize = teacher.normalize, Normalize.named("unit")
    assert keys()["labelled"] != plain["labelled"]
    teacher.normalize = normalize
    recipe, (labelled, _) = read(tmp_path / "semi.yaml"), build_training_sets(read(tmp_path / "semi.yaml"))
    grouped = [ClassMapped(teacher, groups, "abcdefgh", "xy") for groups in ([[0, 1], [2]], [[0], [1, 2]])]
    first, second = (cached.description_of(recipe, "teacher", one, "labelled", labelled) for one in grouped)
    assert first != second and first["network"]["weights"] == second["network"]["weights"]


def test_another_digit_of_the_weights_is_another_network(setup):
    here = setup()
    before = cached.weights_checksum(here.teacher)
    other = copy.deepcopy(here.teacher)
    assert cached.weights_checksum(other.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        weight = other.classifier.weight
        weight[0, 0] = torch.nextafter(weight[0, 0], weight[0, 0] + 1)
    assert cached.weights_checksum(other) != before
    buffer = copy.deepcopy(here.teacher)
    statistics = next(part for part in buffer.modules() if isinstance(part, torch.nn.BatchNorm2d))
    statistics.running_var[0] += 1
    assert cached.weights_checksum(buffer) != before


def test_a_changed_file_is_another_image(tmp_path):
    for kind, mode in (("images", "RGB"), ("labels", "L")):
        (tmp_path / "first" / kind).mkdir(parents=True)
        for number in range(4):
            Image.new(mode, (40, 40)).save(tmp_path / "first" / kind / f"{number}.png")

    def stamps(place):
        whole = Folder(str(tmp_path / place), "train", class_names=("a",), images="images", labels="labels")
        for dataset in (whole, WithoutLabels(Chosen(whole, [0, 1, 2, 3]))):
            yield [dataset.stamp(index) for index in range(4)]

    before, same = stamps("first")
    assert before == same and len(set(before)) == 4 and before[2][0] == "2"
    for kind, number in (("images", 3), ("labels", 0)):
        os.utime(tmp_path / "first" / kind / f"{number}.png", ns=(1, 1))
        after, _ = stamps("first")
        assert [number for number in range(4) if after[number] != before[number]] == [number]
        before = after
    shutil.move(tmp_path / "first", tmp_path / "second")
    assert list(stamps("second"))[0] == before, "where the files lie does not matter"


def test_what_has_no_room_is_refused_with_its_size(setup, monkeypatch):
    told = (r"networks.teacher.cache: 2 views of 10 images take 5.66e-06 GiB, more than max_gib, 1e-06 \(logits 8x2x3 "
            r"in 16 bits, head 16x2x3 in 16 bits; 0.3 kB a view\); lower views, keep less of each ")  # fmt: skip
    with pytest.raises(ValueError, match=told):
        setup("networks.teacher.cache.max_gib=1e-6")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    told = r"teacher_cache still need 5.\d\de-06 GiB, and the disk has 9.31e-07 left; make room, give another cache.f"
    with pytest.raises(ValueError, match=told):
        setup()


def test_scores_that_16_bits_cannot_keep_are_one_sentence(setup):
    here = setup()
    with torch.no_grad():
        here.teacher.classifier.bias[0] = 1e5
    with pytest.raises(ValueError, match=r"networks.teacher.cache: logits: values reach 1e\+05, beyond what 16 bits"):
        here.losses(here.batches(1)[0])


def test_beside_a_training_that_reads_more_of_a_network_it_keeps_what_it_would_alone(setup):
    more, less = setup(), setup("losses=[{loss: cross_entropy}, {loss: kl, on: both}]")
    less.graph.share_frozen(more.graph, ["teacher"])
    assert less.graph.network("teacher").features_wanted == {"head"}
    kept = cached.open_caches(less.recipe, less.graph, less.sets, HERE, tells=False)["teacher", "labelled"]
    images = less.batches(1)[0].images
    assert list(kept.forms) == list(cached.maps_of(kept.stored(images))) == ["logits"]
    assert "head" not in kept.compared(images, kept.stored(images))


def test_a_run_says_where_its_views_come_again(setup, capsys):
    """Eight steps of three and six images show the four labelled ones six times each, the six others eight times."""
    for views, told in (2, [6, 8]), (7, [8]), (16, []):
        here = setup(f"networks.teacher.cache.views={views}")
        cached.open_caches(here.recipe, here.graph, here.sets, HERE, tells=True)
        said = capsys.readouterr().out
        assert [f"shows an image up to {shown} times, in {views} views" in said for shown in (6, 8)] == [
            shown in told for shown in (6, 8)
        ]
        kept = {stream: one.store.views for (_, stream), one in here.caches.items()}
        assert kept == {"labelled": min(views, 6), "unlabelled": min(views, 8)}


def test_what_is_lost_is_told_once(setup, capsys):
    here = setup("networks.teacher.cache={logits: 2, bits: 8, views: 2}")
    for one in here.caches.values():
        one.compares = True
    batches = here.batches(3)
    for batch in batches:
        here.losses(batch)
    labelled, unlabelled = capsys.readouterr().out.splitlines()
    assert labelled.startswith("teacher's cache of labelled images: of the first 3 images, logits: KL(live || read) ")
    assert unlabelled.startswith("teacher's cache of unlabelled images: of the first 6 images, logits: KL(")
    with torch.no_grad():
        live = here.teacher(batches[0].images).logits.log_softmax(1)
    read = here.caches["teacher", "labelled"](batches[0].images, batches[0].places).logits
    lost = (live.exp() * (live - read)).sum(1).mean().item()
    assert f"KL(live || read) {lost:.2g} nats a pixel, head: off by 0.0" in labelled and lost > 1e-5
