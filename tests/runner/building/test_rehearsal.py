"""Networks whose own recipe has not been trained yet, as a rehearsal builds them."""

from types import SimpleNamespace

import pytest
import yaml

from segkd.runner.building import networks as networks_room
from segkd.runner.building.networks import build_networks
from segkd.runner.recipe.read import read

OURS = SimpleNamespace(num_classes=3, class_names=["Road", "Sky", "Tree"])
THEIRS = SimpleNamespace(num_classes=2, class_names=["sky", "street"])
SMALL = {"model": "pspnet", "args": {"backbone": "mobilenetv2_035", "width": 8}}


@pytest.fixture
def rehearsed(tmp_path, monkeypatch):
    """rehearsed("networks.teacher...=") builds a student and a teacher that teacher.yaml trains on images of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(networks_room, "find_dataset", lambda data, split: THEIRS)
    recipe = {
        "data": {"dataset": "synthetic", "crop_size": [32, 32]},
        "networks": {"student": SMALL},
        "losses": [{"loss": "cross_entropy"}],
        "schedule": {"iterations": 1},
    }
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(recipe | {"data": recipe["data"] | {"args": {"seed": 7}}}))
    teacher = SMALL | {"train": False, "weights": {"recipe": "teacher.yaml"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"networks": {"student": SMALL, "teacher": teacher}}))
    return lambda *changes: build_networks(read("recipe.yaml", changes), OURS, untrained=True)


def test_one_that_is_trained_first_has_the_classes_of_its_own_recipe(rehearsed):
    """Of images of its own: what does not fit shows before it is trained."""
    teacher = rehearsed("networks.teacher.class_map={street: Road, sky: Sky}")["teacher"]
    assert teacher.network.num_classes == 2 and teacher.num_classes == 3
    with pytest.raises(
        ValueError, match="class_map: 'car' is none of the network's classes; there are: 'sky', 'street'"
    ):
        rehearsed("networks.teacher.class_map={car: Road}")
    with pytest.raises(
        ValueError, match="what teacher.yaml trains has 2 classes and the data set has 3; say with class_m"
    ):
        rehearsed()
