"""Any segmentation network of Hugging Face's transformers, per-pixel or by mask classification."""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
import transformers
from torch import Tensor, nn

from ._hub import architecture, build, load, own_names, read_config, read_normalize, under_names_in_memory
from ._network import Network
from ._state_dicts import shown
from ._taps import PROBES, Form, as_feature, as_in_inference, before_classifier, form_of, grid, reached, watched
from ._universal import universal_scores
from ._weights import first_line

logger = logging.getLogger(__name__)

# what a network asks of the size of its images: whole patches; a square of whole patches; its config's image_size
EXTENT = {
    "beit": "patches",
    "sapiens2": "patches",
    "dpt": "square",
    "data2vec-vision": "fixed",
    "eomt": "fixed",
    "eomt_dinov3": "fixed",
}
# where the encoder's parameters are, if not under transformers' own name for it
ENCODERS = {
    "upernet": ("backbone.",),
    "mask2former": ("model.pixel_level_module.encoder.",),
    "maskformer": ("model.pixel_level_module.encoder.",),
    "oneformer": ("model.pixel_level_module.encoder.",),
    "eomt": ("embeddings.", "layers.", "layernorm."),
    "eomt_dinov3": ("embeddings.", "layers.", "layernorm."),
    "detr": ("detr.model.backbone.",),
}
SMALL = (1, 32)  # sides of images that are tried; every network reads the first of PROBES


class HuggingFace(Network):
    """A network of transformers with a semantic segmentation head, or a universal one turned into class scores.

    The former (SegFormer, UperNet, BEiT, Data2Vec, DPT, MobileViT, MobileNetV2, ...) give their own scores; UperNet's
    at the decoder's stride, before its resize to the image. The latter (MaskFormer, Mask2Former, OneFormer, EoMT,
    DETR) give logits = log(mass) at the stride of their masks, see `_universal.dense_logits`.

    Args:
        num_classes: K of the data set, see `labels`.
        name: an id of the Hugging Face hub or a local folder; empty with `config`. No code is ever loaded.
        revision: branch, tag or commit on the hub.
        pretrained: with its published weights; false: its architecture with random ones. None: true with a `name`.
        config: a configuration with `model_type` in place of a name, as in a config.json; random weights.
        labels: `dataset`: K classes, a classifier that knows another number starts at random. `own`: the classes it
            was published with, K or not, for a teacher seen through a class map. None: `own` if its published
            weights have a segmentation head, else `dataset`; a recipe's trained network without a class map has
            `dataset` for None.

    Attributes:
        normalize: the constants saved with the network, ImageNet's where there are none.
        unreached: names of the parameters no score depends on (layers behind the last one a head reads, ...); they
            are frozen.
        has_published_head: whether its published weights have any of a segmentation head, be it for other classes.
        network: transformers' own module.

    Shapes:
        logits: (B, K, h, w) at the network's own stride. Networks of whole patches (BEiT), of squares (DPT) or of their
            image_size alone (Data2Vec, EoMT) read images with zeros, the mean colour, added at the right and the
            bottom, and so do those that fail at small images, such as SegFormer below 32 pixels; scores and features
            are cut to ceil(H / s), ceil(W / s) again.
        aux: (B, K, h', w') of its auxiliary head.

    Features: `hidden0`, `hidden1`, ... its encoder's hidden states; `head`: what its classifier reads (by mask
        classification: the map the masks are products with); `module:<path>`, see models/README.md, by its path in
        `network`. Sequences of tokens are maps without the class token and its like.

    Raises:
        FileNotFoundError: nothing of that name. ValueError: a network without a segmentation head, weights without one
            with labels own, an image too large for it.
    """

    is_foreign = True

    def __init__(
        self,
        num_classes: int,
        *,
        name: str = "",
        revision: str | None = None,
        pretrained: bool | None = None,
        config: dict | None = None,
        labels: Literal["own", "dataset"] | None = None,
    ):
        super().__init__(num_classes)
        if (config is None) == (not name):
            raise ValueError(
                "huggingface: give a name (a hub id or a local folder) or a config, one of the two; a recipe names such a "
                "network with `source: hf` and, as its model, the name"
            )
        if config is not None and pretrained:
            raise ValueError("huggingface: a config alone has no weights; give a name, or leave pretrained out")
        pretrained = config is None and pretrained is not False
        source = name or "config"
        settings = read_config(name, revision, config)
        kind = architecture(settings, source)
        if labels is None:
            labels = "own" if pretrained and kind.__name__ in (settings.architectures or ()) else "dataset"
        if labels == "dataset" and settings.num_labels != num_classes:
            settings.num_labels = num_classes
        names = own_names(settings, source) if labels == "own" else None
        self.network, fresh = (
            load(kind, settings, name, revision) if pretrained else (build(kind, settings, source), [])
        )
        if labels == "own" and fresh:
            raise ValueError(
                f"{name} has no weights for {shown(fresh)}, so it holds no whole segmentation head and no classes "
                f"of its own: set labels: dataset and train it, or read its features alone (head: null)"
            )

        self.source = source
        self.settings = settings
        self.per_pixel = type(settings) in transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
        self.num_classes = settings.num_labels
        self.class_names = names
        if name:
            self.normalize = read_normalize(name, revision)
            self.published_constants = self.normalize.constants if pretrained else None
        self.extent = "fixed" if getattr(settings, "is_hybrid", False) else EXTENT.get(settings.model_type)
        patch = getattr(settings, "patch_size", None) if self.extent else None
        self.patch = patch if isinstance(patch, (int, type(None))) else patch[0]
        base = self.network.base_model_prefix
        inner = ENCODERS.get(settings.model_type) or ((f"{base}.",) if base and hasattr(self.network, base) else ())
        self.backbone_prefixes = tuple(f"network.{prefix}" for prefix in inner)
        self.head_tap = before_classifier(self.network, self.num_classes) if self.per_pixel else None
        if hasattr(self.network, "upscale_block"):  # EoMT's, whose last output the masks are products with
            self.head_tap = ("upscale_block", "output")
        self.has_aux = getattr(self.network, "auxiliary_head", None) is not None
        self.own_heads = {"aux": "network.auxiliary_head"} if self.has_aux else {}
        self.forms: dict[str, Form] = {}
        self.least = 1  # pixels a side has at least, once it is padded
        self.unreached = self._probe()
        if self.extent != "fixed":
            self.least = self._find_least()
        self.fresh = [key for key in fresh if f"network.{key}" not in self.unreached]
        of_head = (
            x for x, _ in self.network.named_parameters() if not f"network.{x}".startswith(self.backbone_prefixes)
        )
        is_whole = kind.__name__ in (settings.architectures or ())  # whatever classifier it was published with
        self.has_published_head = pretrained and (is_whole or not {*of_head} <= {*fresh})
        self.network.train()

    def arguments_without_files(self, arguments: dict) -> dict:
        """Its whole configuration, in place of the folder or the hub it came from."""
        return {"config": self.settings.to_dict()}

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of ours, or of transformers: as it saves them, or as the network has them in memory."""
        if any(key.startswith("network.") for key in state):
            return state
        if not self.network.state_dict().keys() <= state.keys():
            state = under_names_in_memory(type(self.network), self.settings, state)
        return {f"network.{key}": value for key, value in state.items()}

    def name_classes(self, names: Sequence[str]) -> None:
        """Writes the K names into the configuration, which goes wherever the network goes."""
        if len(names) == self.num_classes:
            for settings in (self.settings, self.network.config):
                settings.id2label = dict(enumerate(names))
                settings.label2id = {name: index for index, name in enumerate(names)}

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor]:
        features = wanted - {"aux"}
        logits, aux, seen = self._run(x, features, "aux" in wanted)
        found = {name: as_feature(seen[name], self.forms[name], (x.shape[-2], x.shape[-1])) for name in features}
        return found | ({"logits": logits} if aux is None else {"logits": logits, "aux": aux})

    def read_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        if self.extent is None and (self.least == 1 or (size[0] >= self.least and size[1] >= self.least)):
            return None
        if self.extent == "fixed":
            height, width = self._only_size()
            if size[0] > height or size[1] > width:
                raise ValueError(
                    f"{self.source} reads images of {height} x {width} pixels, got {size[0]} x {size[1]}: train with "
                    f"crops of that size at most and evaluate with mode: slide and window: [{height}, {width}]"
                )
            return height, width
        size = max(size[0], self.least), max(size[1], self.least)
        if self.extent is None:
            return size
        # DPT halves its map of patches once and doubles it back
        step = self.patch * 2 if self.extent == "square" else self.patch
        height, width = (cells * step for cells in grid(size, step))
        return (max(height, width),) * 2 if self.extent == "square" else (height, width)

    def _only_size(self) -> tuple[int, int]:
        """(H, W) of a network that reads images of one size."""
        side = self.settings.image_size
        return (side, side) if isinstance(side, int) else tuple(side)

    @property
    def tapped(self) -> nn.Module:
        return self.network

    def probe_sizes(self) -> list[tuple[int, int]]:
        return [self._only_size()] if self.extent == "fixed" else super().probe_sizes()

    def _run(self, pixels: Tensor, wanted: set[str], with_aux: bool) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Scores, scores of the auxiliary head, and the wanted tensors as the network leaves them."""
        taps = {"head": self.head_tap} if "head" in wanted and self.head_tap is not None else {}
        if with_aux and self.settings.model_type != "upernet":
            taps["aux"] = ("auxiliary_head", "output")
        keep = any(name.startswith("hidden") for name in wanted)
        with watched(self.network, taps) as seen:
            if self.settings.model_type == "upernet":
                # its parts one by one: as a whole it resizes both heads' scores to the image, K full maps a copy
                output = self.network.backbone.forward_with_filtered_kwargs(pixels, output_hidden_states=keep)
                if with_aux:
                    seen["aux"] = self.network.auxiliary_head(output.feature_maps)
                logits, hidden = self.network.decode_head(output.feature_maps), output.hidden_states
            elif self.per_pixel:
                output = self.network(pixels, output_hidden_states=keep)
                logits, hidden = output.logits, output.get("hidden_states")
            else:
                logits, hidden, head = universal_scores(self.network, pixels, keep)
                seen |= {} if head is None else {"head": head}
        found = {f"hidden{i}": tensor for i, tensor in enumerate(hidden or ())} | seen
        return logits, found.pop("aux", None), found

    def _probe(self) -> list[str]:
        """One look at a small empty image: the forms of the named features, and the parameters no score needs."""
        size = self.probe_sizes()[0]
        pixels = torch.zeros(1, 3, *size)
        with as_in_inference(self.network), torch.enable_grad():
            try:
                logits, aux, seen = self._run(pixels, {"hidden", "head"}, self.has_aux)
            except Exception as error:  # whatever transformers' own code stumbles on
                raise ValueError(
                    f"{self.source}: {type(self.network).__name__} does not run on an image of {size[0]} x {size[1]}: "
                    f"{first_line(error)}"
                ) from error
        for name, tensor in seen.items():
            form = form_of(tensor, size, self.patch)
            if form is not None:
                self._list(name, form)
        used = reached([logits] if aux is None else [logits, aux])
        unused = {name: x for name, x in self.network.named_parameters() if x.requires_grad and x not in used}
        for parameter in unused.values():
            parameter.requires_grad_(False)
        if unused:
            logger.info(
                "%s: %d parameters no score depends on are frozen: %s", self.source, len(unused), shown([*unused])
            )
        return [f"network.{name}" for name in unused]

    def _find_least(self) -> int:
        """The first of SMALL that is a side of images which the network reads; else that of PROBES."""
        for side in SMALL:
            pixels = torch.zeros(1, 3, *(self.read_size((side, side)) or (side, side)))
            try:
                with as_in_inference(self.network), torch.no_grad():
                    self._run(pixels, set(), False)
            except Exception:  # whatever transformers' own code stumbles on
                continue
            return side
        return min(PROBES[0])

    def _list(self, name: str, form: Form) -> None:
        self.forms[name] = form
        self.add_features([name], form.channels, form.stride)
