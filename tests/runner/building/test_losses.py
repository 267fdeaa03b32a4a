"""Graphs of recipes with several networks and kinds of images, over toy networks: what is refused, what is left out."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segkd.models._network import Network
from segkd.models._prediction import Prediction
from segkd.models.trikd_tinyvit import TriKDTinyViT
from segkd.runner.building.losses import build_graph, told_unread_scores, told_weights
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.recipe.term import Ramp, Term

SEMI = """\
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

TWO = """\
name: toy
data: {dataset: synthetic, crop_size: [4, 4], batch_size: 2}
networks:
  student: {model: pspnet}
  teacher: {model: pspnet, train: false, weights: random}
losses:
  - {loss: cross_entropy}
  - {loss: kl, label: soft}
  - {loss: fitnet}
schedule: {iterations: 20}
"""


class Toy(Network):
    def __init__(self, num_classes=3):
        super().__init__(num_classes, normalize="none")
        self.add_features(["stage4", "head"], num_classes, 1)
        self.first = nn.Conv2d(3, num_classes, 1)
        self.forwards = 0

    def forward(self, images):
        self.forwards += 1
        logits = self.first(images)
        return Prediction(logits, features={name: logits for name in self.features_wanted})


@pytest.fixture
def built(tmp_path):
    """build_graph of a recipe with overrides, over Toy networks."""

    def build(text, *assignments, **networks):
        (tmp_path / "recipe.yaml").write_text(text)
        recipe = read(tmp_path / "recipe.yaml", assignments)
        toys = {name: Toy() for name, network in recipe.networks.items() if network.ema_of is None}
        return build_graph(recipe, toys | networks, 255)

    return build


def test_who_is_trained_who_is_frozen_who_is_an_average(built):
    graph = built(SEMI)
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
        SEMI, "losses.2={loss: fitnet, from: average, on: unlabelled, args: {feature: stage4, teacher_feature: head}}"
    )
    assert graph.network("student").features_wanted == {"stage4"}
    assert graph.network("average").features_wanted == {"head"}


def test_a_network_that_nothing_trains_is_refused(built):
    told = "networks.peer: no term trains it; write train: false to use it as it is, or give it a term with of: peer$"
    three = "losses=[{loss: cross_entropy}, {loss: kl, from: peer, on: both}]"
    with pytest.raises(RecipeError, match=told):
        built(SEMI, three)
    assert list(built(SEMI, three, "networks.peer.train=false", "networks.peer.weights=random").networks) == ["student"]
    # a gradient through a term it is the source of trains it, too
    assert "peer" in built(SEMI, "losses=[{loss: cross_entropy}, {loss: kl, from: peer, detach: false}]").networks


def test_a_network_whose_terms_all_have_weight_0_waits_for_no_gradient(built):
    graph = built(SEMI, "losses.1.weight=0", "losses.3.weight={start: 0, end: 0, over: [0, 9]}")
    assert [term.label for term in graph.terms] == ["cross_entropy", "cross_pseudo"]
    assert "peer" in graph.networks and not any(p.requires_grad for p in graph.network("peer").parameters())
    assert all(parameter.requires_grad for parameter in graph.network("student").parameters())


def test_strong_views_have_scores_to_learn_from_and_no_features(built):
    with pytest.raises(
        ValueError,
        match=r"losses.2 \(fitnet\): with on: strong only the scores of networks.average can be read, not head; "
        r"use on: unlabelled",
    ):
        built(SEMI, "losses.2={loss: fitnet, from: average, on: strong}")
    # whoever else reads features of that network may
    fit = "{loss: fitnet, from: peer, on: unlabelled}"
    graph = built(SEMI, f"losses=[{{loss: cross_entropy}}, {{loss: cross_entropy, of: peer, label: b}}, {fit}, "
                  "{loss: kl, from: peer, on: strong}]")  # fmt: skip
    assert graph.network("peer").features_wanted == {"head"}


def test_a_recipe_becomes_a_graph(built):
    graph = built(TWO)
    assert [(t.label, t.of, t.source) for t in graph.terms] == [
        ("cross_entropy", "student", None), ("soft", "student", "teacher"), ("fitnet", "student", "teacher")
    ]  # fmt: skip
    assert list(graph.networks) == ["student"] and graph.network("teacher").features_wanted == {"head"}
    losses = graph(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64), 0)
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())


def test_terms_of_weight_zero_are_left_out(built):
    graph = built(TWO, "losses.1.weight=0", "losses.2.weight={start: 0, end: 0, over: [0, 9]}")
    assert list(graph.losses) == ["cross_entropy"] and [t.label for t in graph.terms] == ["cross_entropy"]
    # nobody asks for a feature then, and the teacher never runs
    assert graph.network("student").features_wanted == set()
    graph(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64), 0)
    assert graph.network("teacher").forwards == 0


def test_a_loss_starts_the_same_whatever_stands_beside_it(built):
    both, alone = built(TWO), built(TWO, "losses.1.weight=0")
    assert torch.equal(both.losses["fitnet"].projection.weight, alone.losses["fitnet"].projection.weight)
    other = built(TWO, "seed=1")
    assert not torch.equal(both.losses["fitnet"].projection.weight, other.losses["fitnet"].projection.weight)


def test_what_does_not_fit_together(built):
    with pytest.raises(
        ValueError, match=r"losses.1 \(soft\): networks.teacher has 4 classes and networks.student has 3"
    ):
        built(TWO, teacher=Toy(4))
    told = (
        r"losses.2 \(fitnet\): networks.teacher has no feature 'stage9'; it has: stage4, head; name one in the loss's"
    )
    with pytest.raises(ValueError, match=told):
        built(TWO, "losses.2.args.teacher_feature=stage9")


def test_a_head_whose_map_nobody_reads_does_not_learn(built):
    class WithHeads(Toy):
        def __init__(self):
            super().__init__()
            self.add_features(["low"], 3, 1)
            self.heads = nn.ModuleDict({name: nn.Conv2d(3, 3, 1) for name in ("head", "low")})
            self.own_heads = {name: f"heads.{name}" for name in self.heads}

    student = WithHeads()
    graph = built(TWO, "losses.2={loss: cross_entropy, label: low, args: {scores: low}}", student=student)
    assert graph.network("student").features_wanted == {"low"}
    assert not any(weight.requires_grad for weight in student.heads["head"].parameters())
    assert all(weight.requires_grad for part in (student.heads["low"], student.first) for weight in part.parameters())


@pytest.mark.parametrize("losses, still", [
    ("[{loss: cross_entropy}]", {"low_head", "high_head"}),
    ("[{loss: cross_entropy}, {loss: fitnet, args: {feature: low, teacher_feature: head}}]", {"high_head"}),
])  # fmt: skip
def test_trikd_s_heads_for_distillation_freeze_without_it(built, losses, still):
    student = TriKDTinyViT(3, variant="5m", widths=(4, 6, 8, 10), distill_heads=True)
    built(TWO, f"losses={losses}", student=student)
    heads = ("low_head", "high_head")
    assert {
        name for name in heads if not any(one.requires_grad for one in getattr(student, name).parameters())
    } == still


def test_scores_that_no_term_reads_are_known(built):
    class WithAux(Toy):
        has_aux = True

    def unread(*losses, **networks):
        graph = built(TWO, f"losses=[{', '.join(losses)}]", student=WithAux(), **networks)
        return graph.unread["student"], graph.leaves_some_out, told_unread_scores(graph)

    assert unread("{loss: cross_entropy}") == ([], False, [])
    assert unread("{loss: cross_entropy}", "{loss: kl, after: 1}") == ([], True, [])
    told = "student: no term reads its auxiliary scores; what makes nothing else does not learn"
    assert unread("{loss: kl}") == (["aux"], True, [told])
    assert unread("{loss: cross_entropy, args: {scores: logits}}", "{loss: fitnet}")[0] == ["aux"]
    assert unread("{loss: dist}")[0] == ["aux"] and unread("{loss: dist}", teacher=WithAux())[0] == []
    assert unread("{loss: fitnet}")[0] == ["logits", "aux"]
    assert unread("{loss: fitnet}", "{loss: cross_entropy, args: {scores: aux}}")[0] == ["logits"]


def test_scores_of_a_source_are_read_where_it_learns_from_the_term(built):
    peers = "losses=[{loss: cross_entropy}, {loss: kl, from: peer, detach: false}]"
    assert built(SEMI, peers).unread == {"student": [], "peer": []}
    assert built(SEMI, "losses.1={loss: fitnet, of: peer, from: student, label: peer_ce}").unread["peer"] == ["logits"]


def test_terms_that_a_training_does_not_come_to_are_told():
    ramp = Ramp(start=0.0, end=1.0, over=(0, 100))
    terms = [
        Term(loss="kl", label="late", after=20),
        Term(loss="kl", label="ramp", weight=ramp),
        Term(loss="kl", label="on"),
    ]
    graph = SimpleNamespace(terms=terms)
    assert told_weights(graph, 20) == [
        "late: is active in none of the 20 iterations",
        "ramp: its weight is 0.19 at the end of 20 iterations; 1 would come at 100",
    ]
    assert told_weights(graph, 100) == []
