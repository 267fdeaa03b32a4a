"""A teacher whose scores are no numbers is found before anything is trained."""

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from segkd.models._network import Network
from segkd.runner.building.first_look import refuse_broken_teachers
from segkd.runner.building.losses import build_graph
from segkd.runner.recipe.read import read

RECIPE = """
name: a
data: {dataset: synthetic, crop_size: [32, 48]}
networks:
  student: {model: pspnet}
  teacher: {model: pspnet, train: false, weights: random}
  idle: {model: pspnet, train: false, weights: random}
losses: [{loss: cross_entropy}, {loss: kl, from: teacher, after: 0}]
schedule: {iterations: 3}
"""


class Scores(Network):
    """One 1 x 1 convolution of this weight; notes the images it has seen."""

    def __init__(self, value):
        super().__init__(3, normalize="unit")
        self.classifier = nn.Conv2d(3, 3, 1)
        nn.init.constant_(self.classifier.weight, value)
        self.seen = []

    def compute(self, x, wanted, prompt):
        self.seen.append(tuple(x.shape))
        return {"logits": self.classifier(x)}


@pytest.mark.parametrize("value", [1.0, torch.nan, 3e38])
def test_first_look(tmp_path, value):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = read(tmp_path / "recipe.yaml")
    networks = {"student": Scores(0.1), "teacher": Scores(value), "idle": Scores(torch.nan)}
    graph = build_graph(recipe, networks, 255).train()
    images = [(Image.new("RGB", (200, 100), "white"), None)]
    if value == 1:
        refuse_broken_teachers(graph, recipe, images, Accelerator(cpu=True))
        assert [networks[name].seen for name in networks] == [[], [(2, 3, 32, 48)], []] and graph.training
    else:
        told = (
            r"^networks.teacher: on the first training image its scores are NaN or infinite; .*loop.precision \(fp32\)$"
        )
        with pytest.raises(ValueError, match=told):
            refuse_broken_teachers(graph, recipe, images, Accelerator(cpu=True))
