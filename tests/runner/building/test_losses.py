"""Graphs of recipes with several networks and kinds of images, over toy networks: what is refused, what is left out."""

import pytest
import torch
from torch import nn

from segkd.models._network import Network
from segkd.models._prediction import Prediction
from segkd.runner.building.losses import build_graph
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read

RECIPE = """\
name: toy
data: {dataset: synthetic, crop_size: [4, 4], batch_size: 2, labelled: 1/4, unlabelled: {strong: {}}}
networks:
  student: {model: pspnet}
  peer: {model: pspnet}
  average: {ema_of: student, train: false, ema_decay: 0.9}
losses:
  - {loss: cross_entropy}
  - {loss: cross_entropy, of: peer, label: peer_ce}
  - {loss: cross_pseudo, from: average, on: strong}
  - {loss: kl, from: peer, on: both}
schedule: {iterations: 20}
"""


class Toy(Network):
    def __init__(self):
        super().__init__(3, normalize="none")
        self.add_features(["stage4", "head"], 3, 1)
        self.first = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        logits = self.first(images)
        return Prediction(logits, features={name: logits for name in self.features_wanted})


@pytest.fixture
def built(tmp_path):
    """build_graph of the recipe with overrides."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def build(*assignments):
        recipe = read(tmp_path / "recipe.yaml", assignments)
        return build_graph(recipe, {"student": Toy(), "peer": Toy()}, 255)

    return build


def test_who_is_trained_who_is_frozen_who_is_an_average(built):
    graph = built()
    assert list(graph.networks) == ["student", "peer"]
    assert [(t.label, t.of, t.source, t.on) for t in graph.terms] == [
        ("cross_entropy", "student", None, "labelled"),
        ("peer_ce", "peer", None, "labelled"),
        ("cross_pseudo", "student", "average", "strong"),
        ("kl", "student", "peer", "both"),
    ]
    average = graph.network("average")
    assert average is not graph.network("student") and graph.followed == {"average": "student"}
    assert torch.equal(average.first.weight, graph.network("student").first.weight)
    assert all(parameter.requires_grad for parameter in graph.networks.parameters())


def test_an_average_gives_the_features_that_are_read_of_it_only(built):
    graph = built(
        "losses.2={loss: fitnet, from: average, on: unlabelled, args: {feature: stage4, teacher_feature: head}}"
    )
    assert graph.network("student").features_wanted == {"stage4"}
    assert graph.network("average").features_wanted == {"head"}


def test_a_network_that_nothing_trains_is_refused(built):
    told = "networks.peer: no term trains it; write train: false to use it as it is, or give it a term with of: peer$"
    three = "losses=[{loss: cross_entropy}, {loss: kl, from: peer, on: both}]"
    with pytest.raises(RecipeError, match=told):
        built(three)
    assert list(built(three, "networks.peer.train=false").networks) == ["student"]
    # a gradient through a term it is the source of trains it, too
    assert "peer" in built("losses=[{loss: cross_entropy}, {loss: kl, from: peer, detach: false}]").networks


def test_a_network_whose_terms_all_have_weight_0_waits_for_no_gradient(built):
    graph = built("losses.1.weight=0", "losses.3.weight={start: 0, end: 0, over: [0, 9]}")
    assert [term.label for term in graph.terms] == ["cross_entropy", "cross_pseudo"]
    assert "peer" in graph.networks and not any(p.requires_grad for p in graph.network("peer").parameters())
    assert all(parameter.requires_grad for parameter in graph.network("student").parameters())


def test_strong_views_have_scores_to_learn_from_and_no_features(built):
    with pytest.raises(
        ValueError,
        match=r"losses.2 \(fitnet\): with on: strong only the scores of networks.average can be read, not head; "
        r"use on: unlabelled",
    ):
        built("losses.2={loss: fitnet, from: average, on: strong}")
    # whoever else reads features of that network may
    fit = "{loss: fitnet, from: peer, on: unlabelled}"
    graph = built(f"losses=[{{loss: cross_entropy}}, {{loss: cross_entropy, of: peer, label: b}}, {fit}, "
                  "{loss: kl, from: peer, on: strong}]")  # fmt: skip
    assert graph.network("peer").features_wanted == {"head"}
