"""A recipe's networks and terms as shapes alone, on torch's meta device: no data, weights, memory or arithmetic."""

import copy
import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from segkd.datasets._classes import choose_classes
from segkd.datasets._files import IGNORE_INDEX
from segkd.models._prediction import Prediction
from segkd.runner.building.frozen import cheaper
from segkd.runner.building.graph import Graph
from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import blaming
from segkd.runner.loading.batch import Batch, crops
from segkd.runner.loading.data_sets import find_dataset
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Data, Recipe
from segkd.runner.run_folder.pretrained import WITHOUT_DOWNLOADS


def shape_graph(recipe: Recipe) -> Graph:
    """The recipe's graph, every network and term built and bound to what it reads.

    A network with a class map is built for the data set's classes: its own are known from its weights alone.

    Raises:
        ValueError: whatever `build_graph` finds wrong with it.
    """
    num_classes = classes_of(recipe.data)
    networks = {}
    for name, network in recipe.networks.items():
        if network.ema_of is not None:
            continue
        model, arguments = parts.network_part(network.source, network.model, network.args)
        arguments = arguments | {key: WITHOUT_DOWNLOADS[key] for key in WITHOUT_DOWNLOADS.keys() & arguments.keys()}
        with blaming(f"networks.{name}: "):
            built = copy.deepcopy(_network(model, json.dumps(arguments, sort_keys=True), num_classes))
        networks[name] = cheaper(built, network)
    with torch.device("meta"), _WithoutStarts():
        return build_graph(recipe, networks, IGNORE_INDEX)


@functools.lru_cache(maxsize=128)  # recipes of one experiment name the same few
def _network(model: str, arguments: str, num_classes: int) -> nn.Module:
    with torch.device("meta"), _WithoutStarts():
        return parts.build("models", model, json.loads(arguments), num_classes or 1)


class _WithoutStarts(TorchFunctionMode):
    """No starting values are drawn inside: on the meta device they change nothing and take most of the time."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        if function in _STARTS:
            tensor = arguments[0] if arguments else keywords["tensor"]
            if tensor.is_meta:
                return tensor
        return function(*arguments, **keywords)


_STARTS = {init.uniform_, init.normal_, init.constant_, init.kaiming_uniform_, Tensor.uniform_, Tensor.normal_,
           Tensor.fill_, Tensor.zero_, Tensor.erfinv_, Tensor.clamp_}  # fmt: skip


def shape_predictions(graph: Graph, recipe: Recipe, images: int = 2) -> dict[tuple[str, str], Prediction]:
    """What every network that a term reads makes of a training batch: (network, part of the batch) -> shapes."""
    batch = crops(recipe, images)
    unlabelled = Batch(batch, batch[:, 0], [], strong=batch, mixed=batch[:, 0] > 0)
    with without_autocast(), torch.no_grad():
        return graph.train().predictions(batch, unlabelled, recipe.schedule.iterations - 1)


@contextmanager
def without_autocast() -> Iterator[None]:
    """torch.autocast does nothing inside: it refuses the meta device, where no precision matters."""
    autocast, torch.autocast = torch.autocast, lambda *_, **__: nullcontext()
    try:
        yield
    finally:
        torch.autocast = autocast


def classes_of(data: Data) -> int:
    """How many classes a data set has, as its class or its arguments tell; where neither does, its files are read."""
    if not parts.has_labels(data.dataset):
        return len(data.args.get("class_names") or ())
    known = getattr(parts.find("datasets", data.dataset), "num_classes", None)
    classes, colors = data.args.get("classes"), data.args.get("colors")
    if known is not None:
        return classes or known
    names = data.args.get("class_names") or (list(colors) if isinstance(colors, dict) else None)
    if names is None:
        return find_dataset(data, data.train_split).num_classes
    return len(choose_classes(names, classes)[0])
