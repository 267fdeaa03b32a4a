"""What every network of this room has, and the arguments that mean the same in several of them.

Arguments:
    num_classes: K.
    backbone: the encoder, by a name in models/_backbones.py, timm/<name of a timm network>, hf/<id or local folder of a
        network of transformers>, or the configuration of one of those as in its config.json.
    output_stride: pixels of the image per pixel of stage4; where it is below 32, convolutions are dilated instead. What
        is timm's or transformers' and cannot be dilated has its own alone, plain transformers the side of a patch.
    stem: the ResNet's first layers, one 7x7 (plain) or three 3x3 of 32-32-64 (v1c) or 64-64-128 (v1s) channels.
    dilation_rule: which convolutions of the encoder are dilated.
    aux: with an auxiliary head on stage3, run in training or when `aux_wanted` is set.
    aux_width: channels of the auxiliary head; None: half of `width`.
    dropout: share dropped right before each classifier.
    dropout_kind: whole channels (mmsegmentation) or single elements (torchvision, CIRKD, DIST).
    head_init: initial weights of the heads: `kaiming` (mmsegmentation), `torch` (torchvision, CIRKD, DIST) or `fan_in`
        (AICSD), see models/_heads.py:init_heads.
    drop_path: rate at which the last block drops its residual parts in training; it rises linearly from 0 at the first.
    align_corners: for every bilinear resize, inside the network and of its logits.
    widths: channels of the four levels of TriKD's decoder.
    cutoff: of the band filters in TriKD's decoder, see models/_frequency.py:BandFilter.
    cutoff_unit: of the same. center: of the same.
    pretrained: start the encoder from its published ImageNet weights, from a cache or their download.
    backbone_weights: start it from this local file instead, with the encoder's own keys or another code's.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from ._encoder import Encoder
from ._prediction import Normalize, Prediction
from ._taps import MODULE, PROBES, Form, as_feature, as_in_inference, cropped, form_of, watched
from ._weights import load_backbone

# hints of arguments, which are their ranges in a recipe
Count = Annotated[int, Interval(ge=1, le=8192)]
Share = Annotated[float, Interval(ge=0, lt=1)]
Positive = Annotated[float, Interval(gt=0, le=1e4)]
Ratio = Annotated[float, Interval(ge=0.05, le=16)]  # of two sizes


class Network(nn.Module):
    """A segmentation network: plain images to a Prediction. A subclass builds its parts and writes `compute`.

    Args:
        num_classes: K.
        backbone: the encoder; its features become the network's.
        pretrained, backbone_weights: what the encoder starts from.
        align_corners: how scores are resized.
        normalize: the constants of its images, a name in models/_prediction.py:CONSTANTS. An encoder that starts from
            published weights has the constants they were trained with.

    Shapes:
        images: (B, 3, H, W) uint8 RGB. logits: (B, K, ceil(H / s), ceil(W / s)), s being the stride of the head.
        aux: (B, K, h, w) at the stride of stage3.

    Raises:
        ValueError: arguments that do not go together, weights that do not fit, a feature the network does not have,
            a prompt where none is taken, and a batch of 1 in training where batch norm follows a global pooling.
        FileNotFoundError: no such weights.
    """

    # K; its names, None: they are the data set's
    num_classes: int
    class_names: Sequence[str] | None = None
    # parameters that its published weights have nothing for, which start at random
    fresh: Sequence[str] = ()
    # False: a teacher of features alone, whose predictions have no logits
    gives_logits = True
    # whether the scores' corners are the image's when they are resized to it
    align_corners: bool
    # of every feature, true before any forward: channels, and pixels of the image per pixel
    channels: dict[str, int]
    strides: dict[str, int]
    # feature -> weight and bias, each (C,), of the batch norm it comes from, where it comes from one
    norms: dict[str, tuple[Tensor, Tensor]]
    # the features a prediction holds; whoever reads some says so here
    features_wanted: set[str]
    # `module:<path>` -> how what that part puts out is a map, for those some have asked for; those overwritten later
    parts: dict[str, Form]
    overwritten: set[str]
    # side in pixels of a plain transformer's patches, which alone has tokens that are no patches
    patch: int | None = None
    # whether it has an auxiliary head, whose scores are made in training; whether they are outside training too
    has_aux = False
    aux_wanted = False
    # feature, or `aux` -> name of the head, for training alone, that makes it and nothing else
    own_heads: dict[str, str] = {}
    # from RGB bytes to the range its weights were trained on
    normalize: Normalize
    # what the published weights it starts from were trained with, None: it starts from none, or nobody knows
    published_constants: str | dict | None = None
    # whether files have its entries under names of their own code, which are not looked for among other codes'
    is_foreign = False
    # whether it reads a mask beside the images
    takes_prompt = False
    # how the names of the encoder's parameters begin: they learn at another rate than the head's
    backbone_prefixes: tuple[str, ...] = ("backbone.",)
    # whether only what is outside of it learns
    encoder_is_frozen = False
    # r of the encoder's low-rank updates, see models/_lora.py; 0: it has none
    lora_rank = 0

    def __init__(
        self,
        num_classes: int,
        backbone: Encoder | None = None,
        pretrained: bool = False,
        backbone_weights: str | None = None,
        *,
        align_corners: bool = False,
        normalize: str = "imagenet",
    ):
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.features_wanted = set()
        self.normalize = Normalize.named(normalize)
        self.channels, self.strides, self.norms = {}, {}, {}
        self.parts, self.overwritten = {}, set()
        if backbone is not None:
            self.backbone = backbone
            self.channels |= backbone.channels
            self.strides |= backbone.strides
            self.norms |= backbone.norms
            self.patch = backbone.patch
            constants = load_backbone(backbone, pretrained, backbone_weights)
            if constants is not None:
                self.normalize = Normalize.of(constants)
            if pretrained or backbone_weights is not None:
                self.published_constants = self.normalize.constants

    def add_features(self, names: Sequence[str], channels: int, stride: int) -> None:
        """Lists features of one size that come after the encoder's."""
        self.channels |= dict.fromkeys(names, channels)
        self.strides |= dict.fromkeys(names, stride)

    def name_classes(self, names: Sequence[str]) -> None:
        """Tells a network that carries its classes' names with it those of the data set it is for; most carry none."""

    def freeze_encoder(self) -> None:
        """Leaves the encoder as it is: no gradients, and eval mode whatever the network's, so that statistics stay too."""
        encoder = [one for name, one in self.named_parameters() if name.startswith(self.backbone_prefixes)]
        if not encoder:
            raise ValueError("which of its parts are the encoder is not known, so it cannot be frozen alone")
        for parameter in encoder:
            parameter.requires_grad_(False)
        self.encoder_is_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Network":
        super().train(mode)
        if self.encoder_is_frozen:
            for name, part in self.named_modules():
                if f"{name}.".startswith(self.backbone_prefixes):
                    part.training = False
        return self

    @property
    def tapped(self) -> nn.Module:
        """The module that paths of features `module:<path>` begin at."""
        return self

    def probe_sizes(self) -> list[tuple[int, int]]:
        """(H, W) of images that show what its features are."""
        return [self.read_size(size) or size for size in PROBES]

    def measure(self, name: str) -> None:
        """Finds out what a feature `module:<path>` is by forwards of random images, and lists it."""
        if not name.startswith(MODULE):
            return
        path = name.removeprefix(MODULE)
        if path not in dict(self.tapped.named_modules()) or not path:
            parts = ", ".join(child for child, _ in self.tapped.named_children())
            raise ValueError(f"{type(self).__name__} has no module {path!r}; its outermost ones are {parts}")
        forms = set()
        with as_in_inference(self), torch.no_grad():
            for size in self.probe_sizes():  # two, for a list of queries can have as many entries as one of them cells
                pixels = torch.randn(1, 3, *size).to(next(self.parameters()))  # drawn on the CPU, wherever it is
                with watched(self.tapped, {"end": (path, "output"), "then": (path, "output")}, {"then"}) as seen:
                    self.compute(pixels, set(), None)
                forms.add(form_of(seen.get("end"), size, self.patch))
        form = forms.pop()
        if forms or form is None:
            raise ValueError(
                f"{type(self).__name__}: the output of module {path!r} is no feature map; name another module"
            )
        if not torch.equal(seen["end"], seen["then"]):
            self.overwritten.add(name)
        self.parts[name] = form
        self.add_features([name], form.channels, form.stride)

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's entries, under our names, as this network takes them."""
        return state

    def merge_lora(self) -> None:
        """Adds low-rank updates to the weights they update: same outputs, plain keys, no updates any more."""

    def arguments_without_files(self, arguments: dict) -> dict:
        """Arguments that build this network with random weights where those it was built with name a file or a hub."""
        config = getattr(self.backbone, "config", None) if "backbone" in arguments else None
        return arguments if config is None else arguments | {"backbone": config}

    def compute(self, x: Tensor, wanted: set[str], prompt: Tensor | None) -> dict[str, Tensor | None]:
        """The maps of one forward by name: `logits`, `aux` if it is wanted, and at least the wanted features.

        Args:
            x: (B, 3, H, W), normalised.
            wanted: names in `channels`, and `aux` if there is an auxiliary head whose scores are read.
            prompt: (B, 1, H, W), a mask; None unless the network takes prompts.
        """
        raise NotImplementedError

    def read_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """(H, W) that images of `size` are padded to, below and to the right; None: they are taken as they are."""
        encoder = getattr(self, "backbone", None)
        return encoder.read_size(size) if isinstance(encoder, Encoder) else None

    def compute_padded(self, x: Tensor, wanted: set[str], prompt: Tensor | None) -> dict[str, Tensor | None]:
        """What `compute` finds in images of any size, padded with zeros first where the network reads some sizes alone.

        The maps are cut to ceil(side / stride) only at the end: of an image of 180 pixels a map of stride 16 shows 192,
        and a head that puts it on one of stride 4 cut to 180 would stretch it.
        """
        size = (x.shape[-2], x.shape[-1])
        padded = self.read_size(size)
        if padded is None:
            return self._compute_tapped(x, wanted, prompt)
        x = F.pad(x, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        found = self._compute_tapped(x, wanted, prompt)
        return {
            name: None if maps is None else cropped(maps, self.strides.get(name) or _stride(padded, maps), size)
            for name, maps in found.items()
        }

    def _compute_tapped(self, x: Tensor, wanted: set[str], prompt: Tensor | None) -> dict[str, Tensor | None]:
        """What `compute` finds, and what the wanted parts of the network put out meanwhile."""
        places = {name: (name.removeprefix(MODULE), "output") for name in sorted(wanted & self.parts.keys())}
        if not places:
            return self.compute(x, wanted, prompt)
        with watched(self.tapped, places, self.overwritten) as seen:
            found = self.compute(x, wanted - places.keys(), prompt)
        size = x.shape[-2], x.shape[-1]
        return found | {name: as_feature(seen[name], self.parts[name], size) for name in places}

    def forward(self, images: Tensor, prompt: Tensor | None = None) -> Prediction:
        if prompt is not None and not self.takes_prompt:
            # ignoring it would hide a wrong recipe
            raise ValueError(f"{type(self).__name__} takes no prompt: remove prompted_by from this network")
        for name in sorted(self.features_wanted - self.channels.keys()):
            self.measure(name)
        unknown = sorted(self.features_wanted - self.channels.keys())
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no feature {', '.join(map(repr, unknown))}; "
                f"it has: {', '.join(self.channels)}"
            )
        asks_aux = self.has_aux and (self.training or self.aux_wanted)
        wanted = self.features_wanted | {"aux"} if asks_aux else self.features_wanted
        found = self.compute_padded(self.normalize(images), wanted, prompt)
        # what is left out of the prediction can be freed as soon as backward no longer needs it
        features = {name: found[name] for name in self.channels if name in self.features_wanted}
        return Prediction(found["logits"], self.align_corners, found["aux"] if asks_aux else None, features)


def _stride(size: tuple[int, int], maps: Tensor) -> int:
    """The stride of maps of images, one of whose sides is a multiple of it."""
    return torch.sym_max(size[0] // maps.shape[-2], size[1] // maps.shape[-1])


def stages(values: dict[str, object]) -> list:
    """What a table of features holds for stage1..stage4, in this order."""
    return [values[f"stage{number}"] for number in (1, 2, 3, 4)]
