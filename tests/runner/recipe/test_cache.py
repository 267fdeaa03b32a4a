"""The section on a cache: what cannot be kept, in the words of the mistake."""

import pytest

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read

RECIPE = """\
name: kept
data: {dataset: synthetic, crop_size: [32, 48], batch_size: 4, labelled: 1/4, unlabelled: {}}
networks:
  student: {model: pspnet}
  teacher: {model: pspnet, train: false, weights: random, cache: {}}
  second: {model: pspnet, train: false, weights: random}
losses:
  - {loss: cross_entropy}
  - {loss: kl, from: teacher, on: unlabelled}
  - {loss: kl, from: second, on: both, label: other}
schedule: {iterations: 10}
"""


@pytest.fixture
def changed(tmp_path):
    (tmp_path / "kept.yaml").write_text(RECIPE)
    return lambda *assignments: read(tmp_path / "kept.yaml", assignments)


def test_defaults_and_streams(changed):
    recipe = changed("networks.second.cache={logits: 3, bits: 8}")
    cache = recipe.networks["teacher"].cache
    assert (cache.views, cache.logits, cache.bits, cache.seed, cache.max_gib) == (16, "full", 16, 0, 20)
    assert list(recipe.caches_on("labelled")) == ["second"]
    assert list(recipe.caches_on("unlabelled")) == ["teacher", "second"]


def test_its_folder_is_a_path_of_this_machine(changed, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert changed("networks.teacher.cache.folder=~/kept").networks["teacher"].cache.folder == "/home/somebody/kept"


@pytest.mark.parametrize("assignments, place, told", [
    (["networks.student.cache={}"], "networks.student.cache",
     "student is trained, so what it says of a view changes; a cache is for frozen networks (train: false)"),
    (["networks.second={ema_of: student, train: false, cache: {}}"], "networks.second.cache",
     "second is a moving average, so what it says of a view changes; a cache is for frozen networks"),
    (["networks.teacher.prompted_by=student"], "networks.teacher.cache",
     "teacher is prompted by student, so what it says of a view changes with the prompt; leave one of them out"),
    (["networks.second.prompted_by=teacher"], "networks.teacher.cache",
     "teacher prompts second, and only terms can read a cache; leave one of them out"),
    (["data.mix={}", "losses.1.on=both"], "networks.teacher.cache",
     "data.mix makes one image of two, which is no view of one image that could come again; leave one of them out"),
    (["networks.second.cache={views: 4}"], "networks.second.cache",
     "the unlabelled images have one set of views; give it the views and the seed of teacher's cache"),
    (["networks.second.cache={seed: 4}"], "networks.second.cache", "give it the views and the seed of teacher's cache"),
    (["networks.teacher.cache.bits=4"], "networks.teacher.cache.bits", "must be 8 or 16; got 4"),
    (["networks.teacher.cache.logits=top"], "networks.teacher.cache.logits", "must be 'full' or a valid integer"),
    (["networks.teacher.cache.views=0"], "networks.teacher.cache.views", "must be greater than or equal to 1"),
    (["networks.teacher.cache.view=3"], "networks.teacher.cache.view", "did you mean 'views'?"),
])  # fmt: skip
def test_mistakes(changed, assignments, place, told):
    with pytest.raises(RecipeError) as caught:
        changed(*assignments)
    (mistake,) = caught.value.mistakes
    assert f": {place}: " in mistake and told in mistake


def test_mixing_is_fine_on_images_that_are_not_kept(changed):
    assert changed("data.mix={}").networks["teacher"].cache is not None


def test_a_recipe_from_elsewhere_writes_below_runs_only(hub):
    (hub / "kept.yaml").write_text(RECIPE.replace("cache: {}", "cache: {folder: /tmp/elsewhere}"))
    with pytest.raises(RecipeError) as caught:
        read("hf://user/repo/kept.yaml")
    (mistake,) = caught.value.mistakes
    assert (
        "a recipe from elsewhere writes below runs/ only, not to '/tmp/elsewhere'; name a folder yourself with "
        in mistake
    )
    assert "networks.teacher.cache.folder=... on the command line" in mistake
    by_hand = read("hf://user/repo/kept.yaml", ["networks.teacher.cache.folder=/tmp/mine"])
    assert by_hand.networks["teacher"].cache.folder == "/tmp/mine"
    with pytest.raises(
        RecipeError, match="data.cache_folder: a recipe from elsewhere writes below runs/ only, not to '/t"
    ):
        (hub / "pixels.yaml").write_text(
            RECIPE.replace("data: {", "data: {cache: disk, cache_folder: /tmp/elsewhere, ")
        )
        read("hf://user/repo/pixels.yaml")
