"""What a training is given besides its recipe, and that a resume asks for the same."""

from types import SimpleNamespace

import pytest

from segkd.datasets._parts_of_a_set import Chosen, WithoutLabels
from segkd.datasets.synthetic import Synthetic
from segkd.runner.recipe.network import Network
from segkd.runner.training.given import given_to, refuse_other

TEACHER, IMAGES = "the weights of networks.teacher", "the images to train on"


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "teacher.pth").write_bytes(b"weights")
    teacher = Network(model="pspnet", train=False, weights=str(tmp_path / "teacher.pth"))
    drawn = Network(model="pspnet", train=False, weights="random")
    return SimpleNamespace(networks={"student": Network(model="pspnet"), "teacher": teacher, "drawn": drawn})


def test_weights_and_names_of_images_are_told_apart(recipe, tmp_path):
    images = Synthetic("", "train", length=5)
    without, shards = WithoutLabels(Chosen(images, [3, 4])), SimpleNamespace(samples=None)
    sets = {IMAGES: Chosen(images, [0, 1, 2]), "unlabelled": without, "shards": shards, "none": None}
    before = given_to(recipe, sets)
    assert list(before) == [TEACHER, IMAGES, "unlabelled"]
    refuse_other(tmp_path, before, given_to(recipe, sets))
    refuse_other(tmp_path, {}, before)  # a run from before anything was noted
    with pytest.raises(ValueError, match=f"{IMAGES} are not those that it began with; put them back"):
        refuse_other(tmp_path, before, given_to(recipe, sets | {IMAGES: Chosen(images, [0, 1])}))
    (tmp_path / "teacher.pth").write_bytes(b"others")
    with pytest.raises(ValueError, match=f"cannot go on: {TEACHER} and unlabelled are not"):
        refuse_other(tmp_path, before, given_to(recipe, sets | {"unlabelled": Chosen(images, [4, 3])}))
