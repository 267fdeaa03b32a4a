"""Any timm network as an encoder: four of its feature levels under the names the heads read."""

import difflib

import timm
import torch
from torch import Tensor, nn

from ._encoder import STAGES, Encoder
from ._taps import Form, as_feature, form_of, reached

# what makes a network of fixed image size take others; one has at most one of them
ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmBackbone(Encoder):
    """A network of timm's collection without its classifier; state-dict keys are timm's behind `net.`.

    stage1..stage4 are its last four feature levels as timm lists them (for CNNs and hierarchical transformers the
    usual pyramid), or, where all levels have one stride (plain vision transformers), the outputs after each quarter
    of its depth. No norm is added to them. The sides of the images it reads are multiples of the largest stride.
    Parameters none of the four maps depends on are removed or do not train. Where only the last layers tell the maps
    apart (HRNet), take a head that reads all four: the others leave some parameters without a gradient.

    Args:
        name: timm's name of the network, with or without the tag of its weights.
        output_stride: stride of stage4. Dilates the network where timm can; must be the network's own otherwise. None:
            whichever that is.
        alone: without a head on it: its last norm stays, and it has more features than stage1..stage4.
        last_norm: the maps go through timm's last norm, as those of its `forward_intermediates(norm=True)` do.

    Features:
        see models/bare_encoder.py.

    Raises:
        ValueError: a name timm does not have, a stride the network does not have, fewer than four levels,
            or a network made for images of one size.
    """

    def __init__(self, name: str, output_stride: int | None, *, alone: bool = False, last_norm: bool = False):
        super().__init__()
        _check_name(name)
        self.net, levels = _built(name, output_stride)
        if not hasattr(self.net, "forward_intermediates") or len(levels) < 4:
            raise ValueError(f"timm/{name} does not give the four feature levels a backbone needs")
        own = levels[-1]["reduction"]
        if output_stride not in (own, None):
            raise ValueError(f"timm/{name} has the output stride {own} and takes no other, got {output_stride!r}")

        count = len(levels)
        is_flat = len({level["reduction"] for level in levels}) == 1
        # feature -> number of timm's level
        self.levels = {stage: count * (i + 1) // 4 - 1 if is_flat else count - 4 + i for i, stage in enumerate(STAGES)}
        if alone and is_flat:
            self.levels |= {f"block{index}": index for index in range(count)}
        self.channels = {feature: levels[index]["num_chs"] for feature, index in self.levels.items()}
        self.strides = {feature: levels[index]["reduction"] for feature, index in self.levels.items()}
        self.patch = own if is_flat else None
        self.last_norm = last_norm
        self.imagenet = name if timm.models.is_model_pretrained(name) else None

        keys = list(self.net.state_dict())
        if hasattr(self.net, "prune_intermediate_layers"):
            self.net.prune_intermediate_layers(sorted({*self.levels.values()}), prune_norm=not (alone or last_norm))
        kept = self.net.state_dict().keys()
        self.removed = {key for key in keys if key not in kept}
        self._check_and_freeze(name, alone)

    def _check_and_freeze(self, name: str, alone: bool) -> None:
        """One small forward: are the sizes as promised, and which parameters do the maps depend on?"""
        weight = next(self.net.parameters())
        self.eval()  # batch norms and dropout stay as they are
        # some networks make the sides of their last maps even
        for self.multiple in (max(self.strides.values()), 2 * max(self.strides.values())):
            size = 2 * self.multiple, 3 * self.multiple
            try:
                with torch.enable_grad():
                    last, maps = self._run(weight.new_zeros(1, 3, *size), list(self.levels), alone)
            except (AssertionError, RuntimeError, ValueError) as error:
                raise ValueError(
                    f"timm/{name} does not take images of any size ({error}): it cannot be a backbone"
                ) from None
            promised = {
                stage: (self.channels[stage], *(side // stride for side in size))
                for stage, stride in self.strides.items()
            }
            wrong = [stage for stage, x in maps.items() if tuple(x.shape[1:]) != promised[stage]]
            if not wrong:
                break
        else:
            raise ValueError(
                f"timm/{name} gives a {wrong[0]} of {tuple(maps[wrong[0]].shape[1:])} where timm promises "
                f"{promised[wrong[0]]}: it cannot be a backbone"
            )
        self.train()
        self.last: Form | None = form_of(last, size, self.patch)
        if self.last is not None:
            self.channels["last"], self.strides["last"] = self.last.channels, self.last.stride
        used = reached([*maps.values(), *([last] if self.last else [])])
        for parameter in self.net.parameters():
            if parameter not in used:
                parameter.requires_grad = False

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under timm's keys, or those of a backbone of this kind, without those of the layers it has removed.

        Nor has it a token for what is masked in a training without labels, as published files of DINOv2 have one.
        """
        entries = {key.removeprefix("net."): value for key, value in state.items()}
        entries.pop("mask_token", None)
        return {f"net.{key}": value for key, value in entries.items() if key not in self.removed}

    def read_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] + -size[0] % self.multiple, size[1] + -size[1] % self.multiple

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        names = [name for name in self.levels if name in wanted or name in STAGES]
        last, maps = self._run(x, names, "last" in wanted)
        return maps if last is None else maps | {"last": as_feature(last, self.last, (x.shape[-2], x.shape[-1]))}

    def _run(self, x: Tensor, names: list[str], with_last: bool) -> tuple[Tensor | None, dict[str, Tensor]]:
        """What the network as a whole puts out, if asked for, and the named levels' maps."""
        indices = sorted({self.levels[name] for name in names})
        found = self.net.forward_intermediates(
            x, indices=indices, norm=self.last_norm, output_fmt="NCHW", intermediates_only=not with_last
        )
        last, maps = found if with_last else (None, found)
        by_index = dict(zip(indices, maps))
        return last, {name: by_index[self.levels[name]] for name in names}


def _check_name(name: str) -> None:
    """ValueError for a network, or a tag of weights, that timm does not list."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known, wrong = timm.list_models(), architecture
    elif tag and name not in timm.models.get_arch_pretrained_cfgs(architecture):
        known, wrong = timm.models.get_arch_pretrained_cfgs(architecture), name
    else:
        return
    close = difflib.get_close_matches(wrong, known, n=3, cutoff=0.4)
    raise ValueError(f"timm has no network {wrong!r}" + (f"; did you mean {', '.join(close)}?" if close else ""))


def _built(name: str, output_stride: int | None) -> tuple[nn.Module, list[dict]]:
    """The network with random weights, dilated where timm can, and its feature levels."""
    dilated = {} if output_stride is None else {"output_stride": output_stride}
    for arguments in [size | dilated for size in ANY_SIZE] + list(ANY_SIZE):
        try:
            net = timm.create_model(name, **arguments)
        except (TypeError, AssertionError, NotImplementedError):  # an argument it does not have, or a value
            continue
        levels = [dict(level) for level in net.feature_info]
        if output_stride not in (levels[-1]["reduction"], None) and isinstance(net, timm.models.MobileNetV3):
            # only timm's feature extractor of this class can be dilated; it differs in nothing else
            extractor = timm.create_model(name, features_only=True, **dilated)
            net.blocks, levels = extractor.blocks, list(extractor.feature_info.info)
        return net, levels
    raise AssertionError(name)
