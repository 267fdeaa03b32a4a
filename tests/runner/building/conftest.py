"""A network as a recipe's entry says."""

import pytest
import yaml

from segkd.runner.building.networks import build_network
from segkd.runner.recipe.read import read

SMALL = {"model": "pspnet", "args": {"backbone": "mobilenetv2_035", "width": 8}}
OURS = ["Road", "Sky", "Tree"]


@pytest.fixture
def built(tmp_path, monkeypatch):
    """build_network of `teacher` as an entry of a recipe says, for the classes OURS."""
    monkeypatch.chdir(tmp_path)

    def build(classes=OURS, trust=False, seed=0, **entry):
        recipe = {
            "name": "a",
            "data": {"dataset": "synthetic", "crop_size": [32, 32]},
            "networks": {
                "student": SMALL,
                "teacher": {"model": "pspnet", "train": False, "weights": "random", **entry},
            },
            "losses": [{"loss": "cross_entropy"}],
            "schedule": {"iterations": 1},
        }
        if entry.get("train"):
            recipe["losses"].append({"loss": "cross_entropy", "of": "teacher", "label": "its"})
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        network = read(tmp_path / "recipe.yaml").networks["teacher"]
        return build_network("teacher", network, len(classes), seed, classes, trust=trust)

    return build
