"""The gradient report against torch.autograd by hand, with terms on several parts of a batch."""

import pytest
import torch
from torch import nn

from segkd.losses._task import Features, Task
from segkd.losses.cross_entropy import CrossEntropy
from segkd.losses.cross_pseudo import CrossPseudo
from segkd.losses.fitnet import FitNet
from segkd.losses.kl import KL
from segkd.models._prediction import Prediction
from segkd.runner.building.graph import Graph
from segkd.runner.loading.batch import Batch
from segkd.runner.recipe.term import Term
from segkd.runner.training.gradients import gradient_report

SIZE, K = (6, 8), 3


def term(label, of="student", source=None, weight=1.0, **options):
    return Term(**{"loss": "any", "label": label, "of": of, "from": source, "weight": weight, **options})


class Toy(nn.Module):
    """Two linear layers of the pixels; the map between them is the feature `head`."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, K, 1)

    def forward(self, images):
        head = self.first(images / 100)
        return Prediction(self.second(head), features={"head": head})


def features():
    return Features("toy", {"head": 4}, {"head": 1})


TERMS = [
    term("ce", "student", None, 1.0),
    term("soft", "student", "peer", 2.0),
    term("fit", "student", "peer", 0.5),
    term("weak", "student", "peer", 3.0, on="unlabelled"),
    term("pseudo", "student", "peer", 1.0, on="strong"),
    term("all", "student", "peer", 1.0, on="both"),
    term("back", "peer", "student", 1.0, on="unlabelled"),
    term("late", "student", "peer", 1.0, after=9),
]


@pytest.fixture
def looked_into():
    """A graph after a forward that kept its predictions, with the losses and the report."""
    losses = {"ce": CrossEntropy, "soft": KL, "fit": FitNet, "weak": KL, "pseudo": CrossPseudo, "all": KL,
              "back": KL, "late": KL}  # fmt: skip
    task = Task(K, 255, features(), features())
    graph = Graph(
        {"student": Toy(0), "peer": Toy(1)},
        {},
        TERMS,
        {name: loss(task) for name, loss in losses.items()},
    )
    generator = torch.Generator().manual_seed(0)

    def images(count):
        return 255 * torch.rand(count, 3, *SIZE, generator=generator)

    views = Batch(images(2), torch.zeros(2, *SIZE, dtype=torch.int64), [], images(2))
    views.mixed = torch.rand(2, *SIZE, generator=generator) < 0.5
    target = torch.randint(0, K, (2, *SIZE), generator=generator)
    graph.keep_predictions = True
    losses = graph(images(2), target, 0, views)
    return graph, losses, gradient_report(graph, losses, graph.weights_at(0))


def by_hand(loss, place):
    return torch.autograd.grad(loss, place, retain_graph=True)[0].flatten()


def test_norms_at_the_logits_each_term_sees(looked_into):
    graph, losses, report = looked_into
    weights = {"ce": 1, "soft": 2, "weak": 3, "pseudo": 1, "all": 1, "back": 1}
    assert losses.keys() == {*weights, "fit"}
    for name, weight in weights.items():
        wanted = weight * by_hand(losses[name], graph.kept[name][0].logits).norm()
        assert report[f"gradient/{name}"] == pytest.approx(wanted.item(), rel=1e-5) and wanted > 0
    # a term that does not reach the logits is looked at where it reads
    wanted = 0.5 * by_hand(losses["fit"], graph.kept["fit"][0].features["head"]).norm()
    assert report["gradient/fit"] == pytest.approx(wanted.item(), rel=1e-5)
    assert len(graph.kept["all"][0].logits) == 4 and len(graph.kept["weak"][0].logits) == 2


def test_small_gradients_in_half_precision_are_those_of_full_precision():
    task, images = Task(K, 255, features(), features()), torch.rand(64, 3, 64, 64)
    found = {}
    for dtype, scale in ((torch.float32, 1.0), (torch.float16, 2.0**16), (torch.float16, 1.0)):
        torch.manual_seed(0)  # the projection's start
        fit = {"fit": FitNet(task)}
        graph = Graph({"student": Toy(0), "peer": Toy(1)}, {}, [term("fit", "student", "peer", 0.5)], fit)
        graph.keep_predictions = True
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            losses = graph(images, torch.zeros(64, 64, 64, dtype=torch.int64), 0)
        found[dtype, scale] = gradient_report(graph, losses, graph.weights_at(0), scale)["gradient/fit"]
    exact, scaled, plain = found.values()
    assert scaled == pytest.approx(exact, rel=0.01) and plain != pytest.approx(exact, rel=0.01)


def test_only_terms_that_see_the_same_images_are_compared(looked_into):
    graph, losses, report = looked_into
    # the others' gradients are at the logits of other images, which the cross entropy does not touch
    assert {name for name in report if name.startswith("cosine/")} == {"cosine/soft", "cosine/fit"}
    prediction = graph.kept["ce"][0]
    for name, place in (("soft", prediction.logits), ("fit", prediction.features["head"])):
        one, other = by_hand(losses[name], place), by_hand(losses["ce"], place)
        assert report[f"cosine/{name}"] == pytest.approx((one @ other / (one.norm() * other.norm())).item(), abs=1e-5)


def test_a_report_leaves_no_trace(looked_into):
    graph, losses, _ = looked_into
    assert all(parameter.grad is None for parameter in graph.parameters())
    sum(losses.values()).backward()
    with_report = [parameter.grad.clone() for parameter in graph.networks.parameters()]
    assert all(torch.isfinite(gradient).all() and gradient.abs().sum() > 0 for gradient in with_report)


class WithAux(Toy):
    """With scores of a further head, which reads the feature."""

    def __init__(self, seed):
        super().__init__(seed)
        self.further = nn.Conv2d(4, K, 1)

    def forward(self, images):
        prediction = super().forward(images)
        prediction.aux = self.further(prediction.features["head"])
        return prediction


def test_the_cross_entropy_of_the_scores_is_what_terms_are_compared_with():
    """Whatever cross entropies of further heads stand behind it; those are looked at where they read."""
    read = Features("toy", {"head": 4}, {"head": 1}, has_aux=True)
    losses = {"ce": CrossEntropy(Task(K, 255, read), scores="logits"), "aux": CrossEntropy(Task(K, 255, read), scores="aux"),
              "soft": KL(Task(K, 255, features(), features()))}  # fmt: skip
    terms = [term("ce", "student", None), term("aux", "student", None, 0.4), term("soft", "student", "peer")]
    graph = Graph({"student": WithAux(0), "peer": Toy(1)}, {}, terms, losses)
    graph.keep_predictions = True
    images, target = 255 * torch.rand(2, 3, *SIZE), torch.randint(0, K, (2, *SIZE))
    found = graph(images, target, 0)
    report = gradient_report(graph, found, graph.weights_at(0))
    prediction = graph.kept["ce"][0]
    assert report["gradient/aux"] == pytest.approx(0.4 * by_hand(found["aux"], prediction.aux).norm().item(), rel=1e-5)
    one, other = (by_hand(found[name], prediction.logits) for name in ("ce", "soft"))
    assert report["cosine/soft"] == pytest.approx((one @ other / (one.norm() * other.norm())).item(), abs=1e-5)
    assert {key for key in report if key.startswith("cosine/")} == {"cosine/soft"}
