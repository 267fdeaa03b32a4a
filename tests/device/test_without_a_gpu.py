"""Tensors left on the CPU, found on a machine without a GPU: losses, networks, the graph of a step, and scoring.

torch's FakeTensorMode makes tensors that say they lie on `cuda`, follows their shapes and devices through a computation
that computes no number, and refuses, as a GPU does, to bring one of them together with one on the CPU. Autograd's
engine would ask the driver for the device's streams, so the graph is walked here in its place.
"""

import heapq
import itertools
import runpy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import BackwardCFunction

from segkd.datasets.synthetic import Synthetic
from segkd.runner.building.graph import Graph, weighted
from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import build_networks
from segkd.runner.loading.batch import Batch
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Recipe
from segkd.runner.scoring.evaluation import evaluate, evaluate_also
from segkd.runner.training.gradients import gradient_report

TESTS = Path(__file__).parents[1]
# the tables of small losses and networks, and what makes their inputs
LOSSES = SimpleNamespace(**runpy.run_path(str(TESTS / "losses/test_every_loss.py")))
NETWORKS = SimpleNamespace(**runpy.run_path(str(TESTS / "models/test_every_network.py")))
CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
# what a step asks of numbers: nothing is true, each number is 1, each pixel of a mask is in it; and a resize, which
# torch follows through each of its hundred steps
ANSWERS = {
    aten._local_scalar_dense.default: lambda x: False if x.dtype == torch.bool else 1,
    aten.nonzero.default: lambda x: x.new_empty((x.numel(), x.ndim), dtype=torch.int64),
    aten.bincount.default: lambda x, weights=None, minlength=0: x.new_empty(minlength, dtype=torch.int64),
    aten.upsample_bilinear2d.default: lambda x, size, *how: x.new_empty((*x.shape[:2], *size)),
}


PUTS = {aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class PretendedGpu(FakeTensorMode):
    """FakeTensorMode that answers what depends on numbers, and sees faults that torch's leaves to the GPU."""

    def dispatch(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        refuse_apart(func, args, kwargs)
        if func in ANSWERS:
            return ANSWERS[func](*args, **kwargs)
        return super().dispatch(func, types, args, kwargs)


def refuse_apart(func, args: tuple, kwargs: dict) -> None:
    """RuntimeError for tensors of two devices that only a GPU would refuse."""
    together = []
    if func is aten.index.Tensor and args[0].device != CUDA:
        together = [args[0], *(index for index in args[1] if index is not None)]
    elif func in PUTS and args[2].ndim:  # a single number may come from anywhere
        together = [args[0], args[2]]
    elif func is aten.bincount.default:
        together = [x for x in (args[0], kwargs.get("weights", args[1] if len(args) > 1 else None)) if x is not None]
    if len({x.device for x in together}) > 1:
        raise RuntimeError(f"{func} brings the GPU and the CPU together")


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Inside, `x.to(CUDA)` moves tensors, `moved` modules, and `torch.autograd.grad` walks the graph in Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", gradients)
        patch.setattr(torch, "Generator", lambda device="cpu": torch._C.Generator())  # that of a GPU asks the driver
        # a real tensor that meets a pretended one counts as one on the CPU
        with PretendedGpu(allow_non_fake_inputs=True):
            yield


def moved(module: nn.Module) -> nn.Module:
    """The module with its parameters and buffers on the device, as module.to moves them, and nothing else of it."""

    def on_device(x: Tensor) -> Tensor:
        return torch.empty(x.shape, dtype=x.dtype, device=CUDA)

    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(on_device(parameter), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = on_device(buffer)
    return module


def gradients(
    output: Tensor, inputs: Tensor | Sequence[Tensor], given: Tensor | None = None, **settings: bool
) -> tuple[Tensor | None, ...]:
    """What torch.autograd.grad gives, whatever its settings; each gradient must lie where its tensor does."""
    inputs = [inputs] if isinstance(inputs, Tensor) else inputs
    edges = [torch.autograd.graph.get_gradient_edge(x) for x in inputs]
    found = {output.grad_fn: {output.output_nr: torch.ones_like(output) if given is None else given}}
    # made later, walked earlier; the count tells nodes of one number apart
    count = itertools.count()
    waiting = [(-output.grad_fn._sequence_nr(), next(count), output.grad_fn)]
    while waiting:
        node = heapq.heappop(waiting)[2]
        if not node.next_functions:  # a leaf
            continue
        of_outputs = [
            found[node][index] if index in found[node] else torch.zeros(x.shape, dtype=x.dtype, device=x.device)
            for index, x in enumerate(node._input_metadata)
        ]
        for (following, index), gradient in gradients_of_inputs(node, of_outputs):
            if gradient is None:
                continue
            about = following._input_metadata[index]
            if gradient.device != about.device:
                raise RuntimeError(f"{node.name()} makes a gradient on {gradient.device}")
            if following not in found:
                heapq.heappush(waiting, (-following._sequence_nr(), next(count), following))
            sums = found.setdefault(following, {})
            if gradient.shape != about.shape:  # what was broadcast forwards
                gradient = gradient.sum_to_size(about.shape)
            sums[index] = sums[index] + gradient if index in sums else gradient
    return tuple(found.get(edge.node, {}).get(edge.output_nr) for edge in edges)


def gradients_of_inputs(node, of_outputs: list[Tensor]) -> Iterator[tuple[tuple, Tensor | None]]:
    """((node, number of its output) an input comes from, its gradient) for each input that has one."""
    if isinstance(node, BackwardCFunction):  # one of ours; its backward answers for what is no tensor, too
        results, learns = node.apply(*of_outputs), node.needs_input_grad
    else:
        results, learns = node(*of_outputs), [following is not None for following, _ in node.next_functions]
    results = results if isinstance(results, tuple) else (results,)
    edges = [edge for edge in node.next_functions if edge[0] is not None]
    return zip(edges, [result for result, one in zip(results, learns, strict=True) if one], strict=True)


def assert_learns(value: Tensor, leaves: list[Tensor]) -> None:
    """The value lies on the device, and so do the gradients of the leaves, of which there are some."""
    assert value.device == CUDA and value.shape == ()
    found = [(x, leaf) for x, leaf in zip(gradients(value, leaves), leaves) if x is not None]
    assert found and all(x.shape == leaf.shape and x.device == CUDA for x, leaf in found)


@pytest.mark.parametrize("name, arguments", LOSSES.CASES, ids=lambda value: str(value or "defaults"))
def test_losses(name, arguments):
    loss = LOSSES.make_loss(name, arguments)
    *predictions, target = LOSSES.make_inputs(name, arguments, torch.float32)
    with pretended_gpu():
        maps = [[x.detach().to(CUDA).requires_grad_() for x in LOSSES.maps_of(p)] for p in predictions]
        value = moved(loss)(*map(LOSSES.with_maps, predictions, maps), target.to(CUDA))
        values = value.values() if isinstance(value, dict) else [value]
        assert all(one.device == CUDA for one in values)  # one number on the CPU may be added to those on the GPU
        assert_learns(LOSSES.total(value), [x for x in (*maps[0], *maps[1], *loss.parameters()) if x.requires_grad])
        if hasattr(loss, "adversary"):
            assert_learns(
                loss.adversary_loss(*map(LOSSES.with_maps, predictions, maps)), list(loss.adversary.parameters())
            )


@pytest.mark.parametrize("case", NETWORKS.CASES.values(), ids=NETWORKS.CASES)
@torch.no_grad()  # a network has no backward of its own, and walking all their graphs takes as long again
def test_networks(case):
    network = NETWORKS.built(case).train()
    network.features_wanted = set(network.channels)
    with pretended_gpu():
        maps = NETWORKS.maps_of(moved(network)(*(x.to(CUDA) for x in NETWORKS.inputs(case))))
    assert len(maps) > len(network.channels) - (not network.gives_logits) and all(x.device == CUDA for x in maps)


SMALL = {"model": "pspnet", "args": {"backbone": "mobilenetv2_035", "output_stride": 32, "width": 8, "aux": False}}


def recipe_with(*losses: dict, evaluate: dict = {}, **networks: dict) -> Recipe:
    return Recipe(
        name="pretended",
        data={
            "dataset": "synthetic", "args": {"size": (32, 32), "length": 2}, "crop_size": (32, 32), "batch_size": 2,
            "workers": 0, "unlabelled": {"batch_size": 2, "strong": {}}, "labelled": "1/2",
        },
        networks={"student": SMALL, **networks},
        losses=list(losses),
        schedule={"iterations": 1},
        evaluate=evaluate,
    ).complete()  # fmt: skip


def built(recipe: Recipe) -> tuple[Graph, Synthetic]:
    dataset = Synthetic(**recipe.data.args)
    return build_graph(recipe, build_networks(recipe, dataset), dataset.ignore_index).train(), dataset


def moved_graph(graph: Graph, recipe: Recipe) -> Graph:
    """With the networks that are no part of it, as prepare_for_device moves them."""
    for name in recipe.networks:
        moved(graph.network(name))
    return moved(graph)


def test_a_step_of_the_graph():
    recipe = recipe_with(
        {"loss": "cross_entropy"},
        {"loss": "kl", "from": "teacher", "on": "both"},
        {"loss": "fitnet", "from": "teacher"},
        {"loss": "cross_pseudo", "from": "average", "on": "strong"},
        {"loss": "cross_entropy", "of": "sam", "label": "sam"},
        teacher=SMALL | {"train": False},
        average={"ema_of": "student", "train": False},
        sam={"model": "sam", "args": NETWORKS.SAM | {"prompt_guidance": "channel"}, "prompted_by": "student"},
    )
    graph, _ = built(recipe)
    graph.keep_predictions = True
    weights = graph.weights_at(0)
    images, target = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 32, 32, dtype=torch.uint8)
    other = Batch(images, target, [0, 1], strong=images, mixed=target.bool())
    with pretended_gpu():
        moved_graph(graph, recipe)
        batch = Batch(images, target, [0, 1], unlabelled=other).to(CUDA)
        losses = graph(batch.images, batch.target, 0, batch.unlabelled)
        assert losses.keys() == {"cross_entropy", "kl", "fitnet", "cross_pseudo", "sam"}
        assert gradient_report(graph, losses, weights)["gradient/kl"] == 1
        assert_learns(sum(weighted(losses, weights).values()), [x for x in graph.parameters() if x.requires_grad])
        graph.averages["average"].update(graph.networks["student"])


def test_a_step_with_labels_from_elsewhere():
    graph, _ = built(recipe := recipe_with({"loss": "cross_entropy"}))
    graph.extra_weight = 0.5
    images, target = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2, 32, 32, dtype=torch.uint8)
    with pretended_gpu():
        moved_graph(graph, recipe)
        losses = graph(images.to(CUDA), target.to(CUDA).long(), 0, extra=[False, True])
        assert_learns(losses["cross_entropy"], [x for x in graph.parameters() if x.requires_grad])


@pytest.mark.parametrize("settings", [
    {"metrics": {name: {} for name in parts.names(parts.METRICS)}, "also": ["student+teacher"]},
    {"mode": "slide", "window": (24, 40), "scales": [1.5], "flip": True, "average": "softmax"},
    {"mode": "halves", "resizes": 2, "short_side": 40},
])  # fmt: skip
def test_scoring(settings):
    recipe = recipe_with({"loss": "kl", "from": "teacher"}, evaluate=settings, teacher=SMALL | {"train": False})
    one = SimpleNamespace(
        device=CUDA, process_index=0, num_processes=1, is_main_process=True, reduce=lambda x, reduction: x
    )
    graph, dataset = built(recipe)
    with pretended_gpu():
        moved_graph(graph, recipe)
        result = evaluate(graph.network("student"), dataset, recipe, one, title="")
        evaluate_also(graph, dataset, recipe, one)
    assert result.metrics.keys() == {"confusion"} | settings.get("metrics", {}).keys()


def test_a_tensor_left_on_the_cpu_is_found():
    """What the tests above would say of a loss, a network or a backward that forgets the device."""

    class Forgetful(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):
            return factor * x

        @staticmethod
        def backward(ctx, gradient):
            return torch.ones(2, 3), None

    normalize = parts.find("models", "pspnet")(3, **SMALL["args"]).normalize
    with pretended_gpu():
        x, table = torch.zeros(2, 3, device=CUDA, requires_grad=True), torch.arange(3.0)
        normalize_images = moved(normalize)
        normalize_images.mean = torch.zeros(1, 3, 1, 1)
        for forgets in (
            lambda: x * table,
            lambda: torch.cat([x, table[None]]),
            lambda: table[x[0].long()],
            lambda: torch.zeros(3, device=CUDA).index_put((x[0].long(),), table),
            lambda: torch.bincount(x[0].long(), table, 3),
            lambda: normalize_images(torch.zeros(1, 3, 8, 8, device=CUDA)),
            lambda: gradients(Forgetful.apply(x, 2.0).sum(), [x]),
        ):
            with pytest.raises(RuntimeError, match="on the same device|CPU together|a gradient on cpu"):
                forgets()


def test_the_walk_gives_autograds_numbers():
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 3), torch.randn(4, 3, requires_grad=True)
    first, second = (layer(x).relu() * x + x.mean(0)).softmax(1).split((1, 2), dim=1)
    value = (first * second).sum()
    leaves = [x, *layer.parameters(), torch.ones(1, requires_grad=True)]
    exact = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
    torch.testing.assert_close(gradients(value, leaves), exact)
