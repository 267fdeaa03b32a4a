"""The network of ours that a recorded checkpoint fits: its entries say which, and all of them must be used."""

from torch import Tensor, nn

from segkd.models import _checkpoints
from segkd.models._layouts._layout import Described
from segkd.models._prediction import Normalize
from segkd.models._weights import fill
from segkd.runner.recipe import parts


def describe(state: dict[str, Tensor], part: str | None = None) -> tuple[str, Described] | None:
    """The layout of a checkpoint and the network it fits; None where segkd has no such network.

    `part`: which of several networks in the checkpoint.
    """
    try:
        layout = _checkpoints.guess(state, part)
        return layout, _checkpoints.describe(state, layout, part)
    except ValueError:
        return None


def network_of(state: dict[str, Tensor], part: str | None = None, **changes: object) -> nn.Module:
    """The network in eval mode with its weights, taking inputs as they are.

    `changes`: arguments that do not show in a checkpoint; those that this network does not take are left out.
    """
    layout, found = describe(state, part)
    known = {key: x for key, x in changes.items() if not parts.wrong_arguments("models", found.model, {key: x})}
    network = parts.build("models", found.model, found.args | known, found.num_classes)
    fill(network, network.fitted(_checkpoints.read(state, layout, part)), "the recorded checkpoint")
    network.normalize = Normalize.named("none")
    return network.eval()


def recorded_entries(network: nn.Module, state: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Parameters and buffers of a network of a checkpoint, under the checkpoint's names."""
    recorded = {id(value): name for name, value in state.items()}
    ours = _checkpoints.read(state, _checkpoints.guess(state, part), part)  # renamed, not copied
    held = dict(network.named_parameters()) | dict(network.named_buffers())
    return {recorded[id(value)]: held[key] for key, value in ours.items() if id(value) in recorded and key in held}
