"""Optimizers and rates of a recipe, group by group, over a toy graph."""

import math

import pytest
import torch
from torch import nn

from segkd.runner.building.graph import Graph
from segkd.runner.building.optimizers import build_optimizers, set_rates, take_step
from segkd.runner.recipe.read import read
from segkd.runner.recipe.term import Term

CHANGES = (
    "networks.peer={model: pspnet}",
    "losses=[{loss: cross_entropy}, {loss: cross_entropy, of: peer, label: peer_ce}]",
    "optimizer={lr: 0.1, momentum: 0.8, weight_decay: 0.01}",
    "schedule={iterations: 10, power: 1.0}",
)


class Network(nn.Module):
    backbone_prefixes = ("backbone.",)

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2))
        self.backbone_relative = nn.Parameter(torch.zeros(1))  # its name begins with the word, it is the head's


class Wrapped(nn.Module):
    """A network around another one, which says where its encoder is."""

    backbone_prefixes = ("network.encoder.", "network.embeddings.")

    def __init__(self):
        super().__init__()
        self.network = nn.ModuleDict({"encoder": nn.Linear(2, 2), "embeddings": nn.Linear(2, 2)})
        self.backbone = nn.Linear(2, 2)


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(3, 3)


@pytest.fixture
def made(folder):
    """The optimizers of the recipe with overrides, and the graph: a student, a peer and a loss with parameters."""

    def make(*assignments, student=None, peer=None):
        recipe = read(folder / "tiny.yaml", [*CHANGES, *assignments])
        networks = {"student": student or Network(), "peer": peer or Network()}
        graph = Graph(networks, {}, [Term(loss="cross_entropy", label="cross_entropy")], {"cross_entropy": Loss()})
        return build_optimizers(recipe, graph), graph

    return make


def groups_of(optimizers, graph):
    """parameter name -> (its optimizer, its group); every trained parameter stands in one group exactly."""
    names = {parameter: name for name, parameter in graph.named_parameters()}
    found = [
        (names[parameter], (optimizer, group))
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert sorted(name for name, _ in found) == sorted(name for name, p in graph.named_parameters() if p.requires_grad)
    return dict(found)


def rates(optimizers, graph, iteration):
    set_rates(optimizers, iteration)
    return {name: group["lr"] for name, (_, group) in groups_of(optimizers, graph).items()}


@pytest.mark.parametrize("assignments", [
    [], ["networks.peer.optimizer={lr: 0.1, momentum: 0.8, weight_decay: 0.01}"]
])  # fmt: skip
def test_one_optimizer_and_one_group_where_nothing_differs(made, assignments):
    optimizers, graph = made(*assignments)
    (optimizer,) = optimizers
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.SGD and len(group["params"]) == len(list(graph.parameters()))
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.8, 0.01, False)


def test_a_network_with_an_optimizer_of_its_own(made):
    optimizers, graph = made(
        "networks.peer.optimizer={name: adamw, lr: 0.003, betas: [0.5, 0.6], weight_decay: 0.2}"
    )  # fmt: skip
    assert [type(optimizer) for optimizer in optimizers] == [torch.optim.SGD, torch.optim.AdamW]
    for name, (optimizer, group) in groups_of(optimizers, graph).items():
        assert optimizer is optimizers[name.startswith("networks.peer.")]
    (group,) = optimizers[1].param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.5, 0.6), 0.2)
    found = rates(optimizers, graph, 5)
    assert found["networks.peer.head.1.weight"] == pytest.approx(0.0015), "its own rate on the recipe's curve"
    assert found["networks.student.head.1.weight"] == found["losses.cross_entropy.projection.bias"] == 0.05


def test_a_network_with_a_schedule_of_its_own_shares_the_optimizer(made):
    optimizers, graph = made("networks.peer.schedule={name: cosine, min_lr: 0.02, end: 4, warmup: 2}")
    assert len(optimizers) == 1 and len(optimizers[0].param_groups) == 2
    for iteration in range(10):
        found = rates(optimizers, graph, iteration)
        cosine = 0.02 + 0.08 * (1 + math.cos(math.pi * min(iteration / 4, 1))) / 2
        wanted = cosine * min(iteration / 2, 1)
        assert found["networks.peer.backbone.0.weight"] == pytest.approx(wanted), iteration
        others = {rate for name, rate in found.items() if not name.startswith("networks.peer.")}
        assert others == {0.1 * (1 - iteration / 10)}, "the recipe's own curve"


@pytest.mark.parametrize("assignments, kind, wanted", [
    (["networks.peer.optimizer={name: adam, lr: 0.001}",
      "networks.peer.schedule={name: step, drop_every: 3, drop_factor: 0.5}"], torch.optim.Adam,
     [0.001] * 3 + [0.0005] * 3 + [0.00025] * 2),
    (["schedule={iterations: 10, power: 1.0, end: 5, min_lr: 0.04, lag: 1}"], torch.optim.SGD,
     [0.1, 0.1, 0.088, 0.076, 0.064, 0.052, 0.04, 0.04]),
])  # fmt: skip
def test_settings_reach_the_optimizer_and_its_curve(made, assignments, kind, wanted):
    optimizers, graph = made(*assignments)
    assert type(optimizers[-1]) is kind
    assert [rates(optimizers, graph, i)["networks.peer.head.0.bias"] for i in range(8)] == pytest.approx(wanted)


def test_factors_of_networks_and_heads(made):
    optimizers, graph = made("optimizer.head_lr_scale=10", "networks.peer.lr_scale=0.5")
    found = rates(optimizers, graph, 0)
    assert {name: value for name, value in found.items() if "weight" in name or "relative" in name} == pytest.approx({
        "networks.student.backbone.0.weight": 0.1, "networks.student.backbone.1.weight": 0.1,
        "networks.student.head.0.weight": 1.0, "networks.student.head.1.weight": 1.0,
        "networks.student.backbone_relative": 1.0,
        "networks.peer.backbone.0.weight": 0.05, "networks.peer.backbone.1.weight": 0.05,
        "networks.peer.head.0.weight": 0.5, "networks.peer.head.1.weight": 0.5,
        "networks.peer.backbone_relative": 0.5,
        "losses.cross_entropy.projection.weight": 1.0,
    })  # fmt: skip


def test_an_encoder_called_otherwise(made):
    optimizers, graph = made("optimizer.head_lr_scale=10", student=Wrapped())
    found = rates(optimizers, graph, 0)
    assert found["networks.student.network.encoder.weight"] == pytest.approx(0.1)
    assert found["networks.student.network.embeddings.bias"] == pytest.approx(0.1)
    assert found["networks.student.backbone.weight"] == pytest.approx(1.0), "it says that this is none"


def test_decay_by_words_norms_and_each_networks_own_settings(made):
    optimizers, graph = made("optimizer.no_decay=[norm, bias]",
                             "networks.peer.optimizer={name: adamw, weight_decay: 0.3, no_decay: [head]}")  # fmt: skip
    decays = {name: group["weight_decay"] for name, (_, group) in groups_of(optimizers, graph).items()}
    free = {"backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "head.0.weight", "head.0.bias", "head.1.bias"}
    for name, decay in decays.items():
        if name.startswith("networks.peer."):
            assert decay == (0.0 if ".head." in name else 0.3), name
        elif name.startswith("networks.student."):
            assert decay == (0.0 if name.removeprefix("networks.student.") in free else 0.01), name
        else:
            assert decay == (0.0 if name.endswith("bias") else 0.01), name


def test_parameters_that_are_not_trained_stand_in_no_group(made):
    peer = Network()
    peer.backbone.requires_grad_(False)
    optimizers, graph = made(peer=peer)
    assert not any(name.startswith("networks.peer.backbone.") for name in groups_of(optimizers, graph))
    # a network none of whose parameters learns needs no optimizer, whatever it asks for
    optimizers, _ = made("networks.peer.optimizer={name: adam}", peer=Network().requires_grad_(False))
    assert [type(optimizer) for optimizer in optimizers] == [torch.optim.SGD]


def test_settings_survive_a_checkpoint(made, tmp_path):
    assignments = "networks.peer.optimizer={name: adamw}", "networks.peer.schedule={name: cosine, end: 7}"
    optimizers, _ = made(*assignments)
    torch.save([optimizer.state_dict() for optimizer in optimizers], tmp_path / "state.pt")
    again, graph = made(*assignments)
    before = [rates(again, graph, i) for i in range(10)]
    for optimizer, state in zip(again, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        optimizer.load_state_dict(state)
    assert [rates(again, graph, i) for i in range(10)] == before


@pytest.mark.parametrize("unscaled_before", [False, True])
@pytest.mark.parametrize("overflow", [False, True])
def test_fp16_steps_of_several_optimizers_share_one_scale(unscaled_before, overflow):
    weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]  # no loss reads the third
    optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in weights]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    scaler.scale((2 * weights[0] + 2 * weights[1]).sum()).backward()
    if overflow:
        weights[0].grad.fill_(torch.inf)
    for optimizer in optimizers if unscaled_before else ():
        scaler.unscale_(optimizer)
    take_step(optimizers, scaler)
    assert [weight.item() for weight in weights] == pytest.approx([1.0 if overflow else 0.8, 0.8, 1.0])
    assert scaler.get_scale() == (512 if overflow else 2048)
    assert all(weight.grad is None for weight in weights)
