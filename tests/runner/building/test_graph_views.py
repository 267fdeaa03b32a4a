"""Terms on labelled and unlabelled images, prompts and moving averages: the graph against bare loops."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkd.losses._task import Task
from segkd.losses.cross_entropy import CrossEntropy
from segkd.losses.cross_pseudo import CrossPseudo
from segkd.losses.kl import KL
from segkd.models._network import Network
from segkd.models._prediction import Prediction
from segkd.runner.building.graph import Graph, features_of, mixed
from segkd.runner.loading.batch import Batch
from segkd.runner.recipe.term import Term
from segkd.runner.scoring.evaluation import Together
from segkd.runner.training.state import TrainingState

SIZE, K = (8, 12), 3


def term(label, of="student", source=None, weight=1.0, **options):
    return Term(**{"loss": "any", "label": label, "of": of, "from": source, "weight": weight, **options})


class Toy(Network):
    """A linear map of the images at half their size, with align_corners; notes what it was called with."""

    def __init__(self, seed):
        super().__init__(K, normalize="none")
        self.add_features(["head"], K, 2)
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(K, 3, 1, 1, generator=generator))
        self.norm = nn.BatchNorm2d(3)
        self.calls = []

    def forward(self, images, prompt=None):
        self.calls.append((images, prompt))
        logits = F.conv2d(self.norm(F.avg_pool2d(images.float() / 100, 2)), self.weight)
        return Prediction(logits, True, logits + 1, {"head": 2 * logits})


def generated(*shape, seed, high):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def a_batch(count=2, others=4):
    """Labelled images and labels, and the two views of others; the right half of the last is padding."""
    images, target = generated(count, 3, *SIZE, seed=0, high=256), generated(count, *SIZE, seed=1, high=K)
    weak, strong = (generated(others, 3, *SIZE, seed=seed, high=256) for seed in (2, 3))
    padding = torch.zeros(others, *SIZE, dtype=torch.int64)
    padding[-1, :, SIZE[1] // 2 :] = 255
    masks = torch.zeros(others, *SIZE, dtype=torch.bool)
    masks[0, 2:5, 3:9], masks[1, :, :7], masks[2, 6:, 6:] = True, True, True
    return images, target, Batch(weak, padding, [], strong, masks)


def task_of(student, source):
    return Task(K, 255, features_of("student", student), features_of("source", source))


def graph_of(terms, losses, networks, frozen=None, **more):
    any_two = [*networks.values(), *(frozen or {}).values()]
    built = {label: loss(task_of(any_two[0], any_two[-1])) for label, loss in losses.items()}
    return Graph(networks, frozen or {}, terms, built, **more)


def resized(logits):
    return F.interpolate(logits, size=SIZE, mode="bilinear", align_corners=True)


def kl(student, teacher):
    """Mean over pixels of KL(teacher || student), summed over classes pixel by pixel."""
    p, q = teacher.softmax(1), student.softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean()


def test_values_of_terms_on_every_kind_of_images():
    student, teacher = Toy(0).eval(), Toy(1)
    terms = [
        term("ce", "student", None, 1.0),
        term("labelled", "student", "teacher", 1.0),
        term("unlabelled", "student", "teacher", 1.0, on="unlabelled"),
        term("both", "student", "teacher", 1.0, on="both"),
        term("pseudo", "student", "teacher", 1.0, on="strong"),
        term("counted", "student", "teacher", 1.0, on="strong"),
        term("soft", "student", "teacher", 1.0, on="strong"),
    ]
    losses = {"ce": CrossEntropy, "labelled": KL, "unlabelled": KL, "both": KL,
              "pseudo": CrossPseudo, "counted": lambda task: CrossPseudo(task, mask_ignored=True),
              "soft": lambda task: KL(task, size="target")}  # fmt: skip
    graph = graph_of(terms, losses, {"student": student}, {"teacher": teacher}).eval()
    images, target, views = a_batch()
    with torch.no_grad():
        found = graph(images, target, 0, views)
        ours, theirs = student(images).logits, teacher(images).logits
        weak_ours, weak_theirs = student(views.images).logits, teacher(views.images).logits
        strong_ours = student(views.strong).logits
    wanted = {
        "ce": F.cross_entropy(resized(ours), target) + 0.4 * F.cross_entropy(resized(ours + 1), target),
        "labelled": kl(ours, theirs),
        "unlabelled": kl(weak_ours, weak_theirs),
        "both": kl(torch.cat([ours, weak_ours]), torch.cat([theirs, weak_theirs])),
    }
    pixels, counted, soft = [], [], []
    for image, partner in enumerate((1, 0, 3, 2)):
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                seen = partner if views.mixed[image, y, x] else image
                scores = resized(strong_ours)[image, :, y, x]
                guide = resized(weak_theirs)[seen, :, y, x]
                pixels.append(F.cross_entropy(scores, guide.argmax()))
                counted += pixels[-1:] if views.target[seen, y, x] != 255 else []
                soft.append(kl(scores[None], guide[None]))
    wanted |= {
        "pseudo": torch.stack(pixels).mean(),
        "counted": torch.stack(counted).mean(),
        "soft": torch.stack(soft).mean(),
    }
    assert 0 < len(counted) < len(pixels)
    assert wanted.keys() == found.keys()
    for label, value in wanted.items():
        torch.testing.assert_close(found[label], value, rtol=1e-5, atol=1e-6, msg=label)


def test_one_forward_for_each_network_and_kind_of_images():
    terms = [
        term("own", "student", "peer", 1.0),
        term("weak", "student", "peer", 1.0, on="unlabelled"),
        term("back", "peer", "student", 1.0, on="unlabelled"),
        term("all", "student", "peer", 1.0, on="both"),
        term("late", "student", "teacher", 1.0, on="strong", after=3),
    ]
    losses = {label: KL for label in ("own", "weak", "back", "all", "late")}
    names = "student", "peer", "teacher", "unread"
    networks = {name: Toy(seed) for seed, name in enumerate(names)}
    frozen = {name: networks.pop(name) for name in ("teacher", "unread")}
    graph = graph_of(terms, losses, networks, frozen)
    images, target, views = a_batch(count=2, others=4)

    def runs(iteration):
        for name in names:
            graph.network(name).calls.clear()
        graph(images, target, iteration, views)
        return [[id(seen) for seen, _ in graph.network(name).calls] for name in names]

    labelled, weak, strong = id(images), id(views.images), id(views.strong)
    assert runs(0) == [[labelled, weak], [labelled, weak], [], []]
    assert runs(4) == [[labelled, weak, strong], [labelled, weak], [weak], []]


def test_gradients_of_terms_on_unlabelled_images():
    for detach, flows in ((True, False), (False, True)):
        terms = [term("a", "student", "peer", 1.0, on="strong", detach=detach)]
        graph = graph_of(terms, {"a": KL}, {"student": Toy(0), "peer": Toy(1)})
        graph(*a_batch()[:2], 0, a_batch()[2])["a"].backward()
        assert graph.network("student").weight.grad.abs().sum() > 0
        assert (graph.network("peer").weight.grad is not None) == flows


def test_mixed_scores_by_hand():
    logits = torch.arange(4 * K * 2 * 2, dtype=torch.float64).view(4, K, 2, 2)
    mask = torch.zeros(4, 2, 2, dtype=torch.bool)
    mask[0, 0, 0] = mask[3, 1, 1] = True
    found = mixed(Prediction(logits, True, logits, {"head": logits}), mask)
    wanted = logits.clone()
    wanted[0, :, 0, 0], wanted[3, :, 1, 1] = logits[1, :, 0, 0], logits[2, :, 1, 1]
    assert torch.equal(found.logits, wanted) and found.aux is None and not found.features and found.align_corners


@pytest.mark.parametrize("on, parts", [("labelled", 1), ("both", 2), ("strong", 2)])
def test_a_prompt_is_the_prompting_networks_classes(on, parts):
    student, teacher = Toy(0).eval(), Toy(1)
    terms = [term("a", "student", "teacher", 1.0, on=on)]
    graph = graph_of(terms, {"a": KL}, {"student": student}, {"teacher": teacher}, prompted_by={"teacher": "student"})
    images, target, views = a_batch()
    graph.eval()(images, target, 0, views)
    assert len(student.calls) == parts and all(prompt is None for _, prompt in student.calls)
    assert len(teacher.calls) == (2 if on == "both" else 1)
    for seen, prompt in teacher.calls:
        with torch.no_grad():
            wanted = resized(student(seen).logits).argmax(1, keepdim=True)
        assert prompt.shape == (len(seen), 1, *SIZE) and torch.equal(prompt, wanted.float())
        assert not prompt.requires_grad


def test_whoever_prompts_runs_for_it_alone():
    scout, student = Toy(3).eval(), Toy(0)
    terms = [term("ce", "student", None, 1.0)]
    graph = graph_of(terms, {"ce": CrossEntropy}, {"student": student}, {"scout": scout},
                     prompted_by={"student": "scout"})  # fmt: skip
    images, target, _ = a_batch()
    graph(images, target, 0)
    assert len(scout.calls) == 1 and student.calls[0][1] is not None
    # and where networks are scored
    both = Together(graph, ["student", "scout"]).eval()
    assert not student.training and len(both(images).logits) == 2
    assert len(scout.calls) == 2 and torch.equal(student.calls[1][1], student.calls[0][1])
    with torch.no_grad():
        one, other = student(images, student.calls[0][1]).logits, scout(images).logits
        mean = (resized(one).softmax(1) + resized(other).softmax(1)) / 2
        torch.testing.assert_close(both(images).logits.exp(), mean)
        assert torch.equal(Together(graph, ["scout"])(images).logits, other)


def test_a_moving_average_in_closed_form():
    student = Toy(0)
    graph = graph_of([term("a", "student", "average", 1.0)], {"a": KL}, {"student": student},
                     averages={"average": ("student", 0.75)})  # fmt: skip
    state = TrainingState(graph, [], {}, dict(graph.averages), None)
    average, wanted = graph.network("average"), None
    assert torch.equal(average.weight, student.weight) and average is not student
    for step in range(5):
        with torch.no_grad():
            student.weight += step + 1
        student.norm(100 * torch.rand(2, 3, 4, 4))
        state.update_averages()
        now = torch.cat([student.weight.flatten(), student.norm.running_mean, student.norm.running_var]).double()
        wanted = now if wanted is None else 0.75 * wanted + 0.25 * now  # the first step is taken over whole
        found = torch.cat([average.weight.flatten(), average.norm.running_mean, average.norm.running_var])
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    graph.train()
    assert not average.training and not average.weight.requires_grad
    assert not any("average" in key for key in graph.state_dict())
    student.zero_grad()
    graph(*a_batch()[:2], 0)["a"].backward()
    assert average.weight.grad is None and student.weight.grad is not None
