"""The optimizers of a recipe: the recipe's for all networks and losses, and a network's own where it names one."""

import torch
from torch import nn

from segkd.runner.building.graph import Graph
from segkd.runner.building.schedule import learning_rate
from segkd.runner.recipe.optimization import Curve, Optimizer
from segkd.runner.recipe.schema import Recipe

NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def build_optimizers(recipe: Recipe, graph: Graph) -> list[torch.optim.Optimizer]:
    """One optimizer for each set of settings in use, over all trained parameters, in groups of equal treatment.

    A group's `lr_scale` is its factor on the scheduled rate, `curve` what learning_rate() computes the rate from.
    """
    found: dict[str, tuple[Optimizer, dict[str, dict]]] = {}  # settings as text -> themselves, group as text -> group
    for owner, module in [*graph.networks.items(), (None, graph.losses)]:
        network = recipe.networks[owner] if owner else None
        settings = network.optimizer if network and network.optimizer else recipe.optimizer
        curve = curve_of(network.schedule if network and network.schedule else recipe.schedule, settings, recipe)
        groups = found.setdefault(settings.model_dump_json(), (settings, {}))[1]
        exempt = _not_decayed(module, settings.no_decay)
        encoder = module.backbone_prefixes if network else ()
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            scale = network.lr_scale if network else 1.0
            scale *= 1.0 if name.startswith(encoder) else settings.head_lr_scale
            decay = 0.0 if name in exempt else settings.weight_decay
            group = {"lr": settings.lr * scale, "lr_scale": scale, "weight_decay": decay, "curve": curve}
            groups.setdefault(repr(group), {"params": [], **group})["params"].append(parameter)
    return [_optimizer(settings, [*groups.values()]) for settings, groups in found.values() if groups]


def curve_of(curve: Curve, settings: Optimizer, recipe: Recipe) -> dict:
    """What learning_rate() needs beside the iteration, in plain values: checkpoints hold them."""
    values = {name: getattr(curve, name) for name in Curve.model_fields}
    return {"lr": settings.lr, "iterations": values.pop("end") or recipe.schedule.iterations, **values}


def set_rates(optimizers: list[torch.optim.Optimizer], iteration: int) -> None:
    """Gives every group its learning rate of an iteration."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(iteration, **group["curve"]) * group["lr_scale"]


def take_step(optimizers: list[torch.optim.Optimizer], scaler: torch.amp.GradScaler | None) -> None:
    """One step of all optimizers, which leaves no gradients behind.

    The fp16 scale is updated once, behind them all: Accelerate's own step() updates it after each optimizer, and the
    later ones would divide their gradients by another scale than the losses were multiplied by, or a second time. An
    optimizer of a network that no term reaches yet has nothing to do.
    """
    for optimizer in optimizers:
        if scaler is None:
            optimizer.step()
        elif any(parameter.grad is not None for group in optimizer.param_groups for parameter in group["params"]):
            scaler.step(getattr(optimizer, "optimizer", optimizer))  # the one inside Accelerate's
    if scaler is not None:
        scaler.update()
    for optimizer in optimizers:
        optimizer.zero_grad()


def _optimizer(settings: Optimizer, groups: list[dict]) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.name]
    return kind(groups, lr=settings.lr, betas=settings.betas)


def _not_decayed(module: nn.Module, words: list[str]) -> set[str]:
    """Names of the parameters free of weight decay: by words in their names; `norm` and `bias` by what they are."""
    names = {name for name, _ in module.named_parameters() if any(word in name for word in words)}
    if "norm" in words:
        names |= {
            f"{prefix}.{name}" if prefix else name
            for prefix, part in module.named_modules()
            if isinstance(part, NORMALISATION)
            for name, _ in part.named_parameters(recurse=False)
        }
    return names
