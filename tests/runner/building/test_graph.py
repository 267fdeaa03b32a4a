"""The graph of networks and terms with toy networks that count their forwards."""

import pytest
import torch
from torch import nn

from segkd.losses._task import Task
from segkd.losses.cross_entropy import CrossEntropy
from segkd.models._network import Network
from segkd.models._prediction import Prediction
from segkd.runner.building.graph import Graph, detached, features_of, weighted
from segkd.runner.recipe.term import Term

IMAGES = torch.zeros(2, 3, 4, 4)
TARGET = torch.zeros(2, 4, 4, dtype=torch.int64)


class Toy(Network):
    """logits = weight * 1; a batch norm shows whether it runs in training mode."""

    def __init__(self, value, num_classes=3):
        super().__init__(num_classes, normalize="none")
        self.add_features(["head"], num_classes, 1)
        self.weight = nn.Parameter(torch.tensor(float(value)))
        self.norm = nn.BatchNorm2d(num_classes)
        self.forwards = 0

    def forward(self, images):
        self.forwards += 1
        logits = self.weight.expand(len(images), self.num_classes, *images.shape[-2:])
        return Prediction(logits, aux=2 * logits, features={"head": self.norm(logits)})


class Own(nn.Module):
    """The student's mean score, times a factor of its own."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, student, teacher, target):
        return self.factor * student.logits.mean()


class Product(nn.Module):
    """The product of both mean scores: its gradient in one network is the other's score."""

    def forward(self, student, teacher, target):
        return student.logits.mean() * teacher.logits.mean()


def graph_of(*terms, **networks):
    """A graph of Toy networks, those whose name begins with `frozen` frozen; a term with a source is a Product."""
    trained = {name: network for name, network in networks.items() if not name.startswith("frozen")}
    frozen = {name: network for name, network in networks.items() if name.startswith("frozen")}
    losses = {term.label: Own() if term.source is None else Product() for term in terms}
    return Graph(trained, frozen, list(terms), losses)


def term(label, of="student", source=None, weight=1.0, **options):
    return Term(**{"loss": "any", "label": label, "of": of, "from": source, "weight": weight, **options})


def test_gates_spare_the_networks_behind_them():
    terms = [term("own"), term("late", source="frozen", after=3), term("early", source="other", until=1)]
    graph = graph_of(*terms, student=Toy(2), other=Toy(3), frozen=Toy(5))
    for iteration, labels, counts in (
        (0, ["own", "early"], [1, 1, 0]), (1, ["own", "early"], [1, 1, 0]), (2, ["own"], [1, 0, 0]),
        (3, ["own"], [1, 0, 0]),
        (4, ["own", "late"], [1, 0, 1]),
    ):  # fmt: skip
        networks = [graph.network(name) for name in ("student", "other", "frozen")]
        for network in networks:
            network.forwards = 0
        assert list(graph(IMAGES, TARGET, iteration)) == labels
        assert [network.forwards for network in networks] == counts


def test_ramps_start_and_end_terms():
    ramp = {"start": 0.0, "end": 1.0, "over": (2, 4)}
    graph = graph_of(term("own"), term("ramped", source="frozen", weight=ramp), student=Toy(2), frozen=Toy(5))
    assert [graph.terms[1].weight_at(i) for i in range(6)] == [0, 0, 0, 0.5, 1, 1]
    assert [list(graph(IMAGES, TARGET, i)) for i in (0, 2, 3)] == [["own"], ["own"], ["own", "ramped"]]
    # losses are returned unweighted
    assert graph(IMAGES, TARGET, 3)["ramped"].item() == 10
    assert graph.network("frozen").forwards == 2


def test_frozen_networks_are_no_part_of_the_module():
    graph = graph_of(term("own"), term("b", source="frozen"), student=Toy(2), frozen=Toy(5))
    names = {name for name, _ in graph.named_parameters()}
    assert names == {
        "networks.student.weight",
        "networks.student.norm.weight",
        "networks.student.norm.bias",
        "losses.own.factor",
    }
    assert not any("frozen" in key for key in graph.state_dict()) and len(list(graph.buffers())) == 3 + 2
    frozen = graph.network("frozen")
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    graph.train()
    assert graph.network("student").training and not frozen.training
    before = frozen.norm.running_mean.clone()
    predictions = graph.predictions(IMAGES, None, 0)
    frozen_logits = predictions["frozen", "labelled"].logits
    assert not frozen_logits.requires_grad and frozen_logits.grad_fn is None
    assert predictions["student", "labelled"].logits.requires_grad
    assert torch.equal(frozen.norm.running_mean, before) and not torch.equal(
        graph.network("student").norm.running_mean, before
    )
    graph(IMAGES, TARGET, 0)["b"].backward()
    assert frozen.weight.grad is None and graph.network("student").weight.grad == 5


def test_scoring_is_no_part_of_a_step():
    graph = graph_of(term("b", source="frozen"), student=Toy(2), frozen=Toy(5))
    graph.shared = {}
    for _ in range(2):  # other images may stand in memory where the last ones stood
        graph.predict(["student", "frozen"], IMAGES)
    assert graph.network("frozen").forwards == 2 and graph.shared == {} and graph.stopwatch.read() == {}
    graph(IMAGES, TARGET, 0)
    assert len(graph.shared) == 1 and list(graph.stopwatch.read()) == ["teacher", "student", "losses"]


@pytest.mark.parametrize("detach, by_source", [(True, None), (False, 2)])
def test_a_detached_source_trains_by_its_own_terms_alone(detach, by_source):
    graph = graph_of(term("a", source="other", detach=detach), term("b", of="other"), student=Toy(2), other=Toy(3))
    losses, other = graph(IMAGES, TARGET, 0), graph.network("other").weight
    losses["a"].backward()
    assert graph.network("student").weight.grad == 3 and other.grad == by_source
    losses["b"].backward()
    assert other.grad == 2 + (by_source or 0)


class Several(nn.Module):
    """Two sub-terms."""

    def forward(self, student, teacher, target):
        return {"score": student.logits.mean(), "double": 2 * student.logits.mean()}


def test_a_loss_of_several_sub_terms():
    terms, losses = [term("own"), term("several", weight=0.5)], {"own": Own(), "several": Several()}
    graph = Graph({"student": Toy(2)}, {}, terms, losses)
    losses = graph(IMAGES, TARGET, 0)
    assert {name: loss.item() for name, loss in losses.items()} == {"own": 4, "several/score": 2, "several/double": 4}
    weights = graph.weights_at(0)
    assert weights == {"own": 1, "several": 0.5}
    assert [loss.item() for loss in weighted(losses, weights).values()] == [4, 1, 2]


def test_predictions_are_kept_only_where_somebody_looks():
    graph = graph_of(term("a", source="frozen"), student=Toy(2), frozen=Toy(5))
    graph(IMAGES, TARGET, 0)
    assert graph.kept == {}
    graph.keep_predictions = True
    graph(IMAGES, TARGET, 0)
    student, source = graph.kept["a"]
    assert student.logits.requires_grad and not source.logits.requires_grad
    graph.keep_predictions = False
    graph(IMAGES, TARGET, 0)
    assert graph.kept == {}


def test_detached_predictions():
    prediction = Toy(2)(IMAGES)
    copy = detached(Prediction(prediction.logits, True, prediction.aux, prediction.features))
    assert copy.align_corners and torch.equal(copy.logits, prediction.logits) and list(copy.features) == ["head"]
    assert not any(part.requires_grad for part in (copy.logits, copy.aux, copy.features["head"]))
    assert detached(Prediction(prediction.logits)).aux is None


@pytest.mark.parametrize("name", ["a.b", "a/b", "train", "type", "parameters", "training"])
def test_names_that_torch_does_not_take(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot name a network or a term"):
        graph_of(term(name), student=Toy(1))
    with pytest.raises(ValueError, match="choose another"):
        graph_of(term("a"), **{"student": Toy(1), name: Toy(2)})


def test_features_of_is_the_networks_own_table():
    task = Task(3, 255, features_of("student", Toy(1)))
    assert task.student.use("head") == 3 and task.student.wanted == {"head"}
    with pytest.raises(ValueError, match=r"networks.student has no feature 'stage9'; it has: head"):
        task.student.use("stage9")


@pytest.mark.parametrize("divisor", ["valid", "all", "count"])
@pytest.mark.parametrize("class_weights", [None, [0.1, 1.0, 20.0]])
def test_pixels_of_extra_images_count_by_their_weight_in_terms_that_read_labels(divisor, class_weights):
    """Gradients against a bare loop over the pixels; a term that reads no labels sees all images alike."""
    torch.manual_seed(0)
    scores = torch.randn(4, 3, 5, 6, requires_grad=True)
    target = torch.randint(0, 3, (4, 5, 6))
    target[torch.rand(4, 5, 6) < 0.3] = 255
    target[1, 2:] = 255  # of an extra image more is ignored
    extra = [False, True, True, False]

    class Fixed(Toy):
        def forward(self, images):
            return Prediction(scores)

    class Mean(nn.Module):
        def forward(self, student, teacher, labels):
            return {"all": student.logits.mean()}

    task = Task(3, 255, features_of("student", Toy(1)))
    loss = CrossEntropy(task, aux_weight=0.0, class_weights=class_weights, divisor=divisor)
    losses, settings = {"ce": loss, "mean": Mean()}, {"supervised": frozenset({"ce"}), "extra_weight": 0.25}
    graph = Graph({"student": Fixed(0)}, {}, [term("ce"), term("mean")], losses, **settings)
    found = graph(torch.zeros(4, 3, 5, 6), target, 0, extra=extra)

    total, plain, counted, masses = 0.0, 0.0, 0, 0.0
    for index, y, x in (target != 255).nonzero().tolist():
        label = target[index, y, x]
        mass = 1.0 if class_weights is None else class_weights[label]
        one = -mass * scores[index, :, y, x].log_softmax(0)[label]
        total, plain = total + (0.25 if extra[index] else 1.0) * one, plain + one
        counted, masses = counted + 1, masses + mass
    divided_by = {"valid": masses, "count": counted, "all": target.numel()}[divisor]
    torch.testing.assert_close(found["ce"], plain / divided_by)
    torch.testing.assert_close(found["mean/all"], scores.mean())
    ours, theirs = (torch.autograd.grad(one, scores)[0] for one in (found["ce"], total / divided_by))
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(torch.autograd.grad(found["mean/all"], scores)[0], torch.full_like(scores, 1 / scores.numel()))
    ours, theirs = (torch.autograd.grad(graph(IMAGES, target, 0, extra=which)["ce"], scores)[0]
                    for which in ([True] * 4, None))  # fmt: skip
    torch.testing.assert_close(ours, 0.25 * theirs)


def test_a_term_that_chooses_pixels_chooses_among_images_of_all_weights():
    torch.manual_seed(0)
    scores, target = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randint(0, 3, (2, 8, 8))

    class Fixed(Toy):
        def forward(self, images):
            return Prediction(scores)

    task = Task(3, 255, features_of("student", Toy(1)))
    mined = CrossEntropy(task, aux_weight=0.0, ohem_threshold=0.0, ohem_min_kept=20)
    settings = {"supervised": frozenset({"ce"}), "extra_weight": 0.5}
    graph = Graph({"student": Fixed(0)}, {}, [term("ce")], {"ce": mined}, **settings)
    of_all, weighed = (torch.autograd.grad(graph(IMAGES, target, 0, extra=extra)["ce"], scores)[0]
                       for extra in (None, [False, True]))  # fmt: skip
    assert (of_all.abs().sum(1) > 0).sum() == 20
    torch.testing.assert_close(weighed, of_all * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1))
