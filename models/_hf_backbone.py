"""Any encoder of images of Hugging Face's transformers: its own maps under the names that heads and losses read."""

import copy
import inspect
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ._encoder import STAGES, Encoder
from ._hub import build, image_encoder, load, read_config, read_normalize, under_names_in_memory
from ._sam import resize_pos_embed
from ._state_dicts import shown
from ._taps import Form, Tap, as_feature, as_in_inference, form_of, reached, watched
from ._weights import first_line

# what transformers lists as the output of these networks' stages is behind the downsampling after the stage
DOWNSAMPLED = ("swin", "swinv2", "donut-swin", "maskformer-swin", "focalnet", "dinat")
# whose window shrinks, for good, with an image in which the last stage has no whole one
WHOLE_WINDOWS = ("swin", "donut-swin", "maskformer-swin")


class HuggingFaceBackbone(Encoder):
    """A network of transformers without a head; state-dict keys are transformers' own behind `net.`.

    The encoder of images alone is taken out of a network of images and texts (CLIP, SigLIP) or of masks (SAM, SAM2,
    SAM3). Tokens that are no patches (class, registers) are dropped. Tables of positions are interpolated as
    transformers does it, SAM's and SAM3's too, which it keeps to one size. Images whose sides are no multiples of the
    largest stride are padded with zeros, the mean colour, below and to the right, and the maps are cut to
    ceil(side / stride). Networks of one size alone (Hiera, AIMv2) read smaller images padded to it, Swin those in which
    its last stage has no whole window padded to one.

    Args:
        source: an id of the Hugging Face hub, a local folder, or a configuration with `model_type`, as in a
            config.json. No code is ever loaded, and weights by `published` alone.
        output_stride: stride of stage4, which must be the network's own; None: whichever that is.
        alone: without a head on it: it has more features than stage1..stage4.
        last_norm: stage1..stage4 and block<i> go through the norm behind the last block.

    Features:
        see models/bare_encoder.py.

    Raises:
        FileNotFoundError: nothing of that name. ValueError: no encoder of images, fewer than four levels, another
            output stride, no last norm, an image too large for it.
    """

    def __init__(self, source: str | dict, output_stride: int | None, *, alone: bool = False, last_norm: bool = False):
        super().__init__()
        self.hub_network = source if isinstance(source, str) else None
        self.title = f"hf/{source}" if isinstance(source, str) else f"backbone {source.get('model_type')}"
        config = read_config(source, None, None) if isinstance(source, str) else read_config("", None, source)
        kind, self.settings = image_encoder(config, self.title)
        self.config = self.settings.to_dict()
        if self.settings.model_type == "vit_mae":
            self.settings.mask_ratio = 0.0
        self.net = build(kind, self.settings, self.title)
        self.interpolates = "interpolate_pos_encoding" in inspect.signature(self.net.forward).parameters
        patch = getattr(getattr(self.settings, "backbone_config", self.settings), "patch_size", None)
        self.patch: int | None = patch[0] if isinstance(patch, (list, tuple)) else patch

        # (H, W) that smaller images are padded to; whether the network reads images of that size alone
        self.least, self.only_least = (1, 1), False
        if self.settings.model_type in WHOLE_WINDOWS:
            self.least = (32 * self.settings.window_size,) * 2
        self.taps: dict[str, Tap] = {}
        self.reads_hidden = True
        size, hidden = self._first_look()
        # feature -> name of what a forward shows that it is a map of
        self.sources = self._find_stages(hidden)
        norms = self._watched_norms() if last_norm else {}
        seen = self._look(size, norms)
        self.norm = self._find_norm(seen, norms) if last_norm else None
        if alone:
            self.sources |= {name: name for name in seen if name.startswith(("block", "last", "neck"))}
        forms = {name: form_of(seen[source], size, self.patch) for name, source in self.sources.items()}
        self.forms: dict[str, Form] = {name: form for name, form in forms.items() if form is not None}
        self.channels = {name: form.channels for name, form in self.forms.items()}
        self.strides = {name: form.stride for name, form in self.forms.items()}
        own = self.strides["stage4"]
        if output_stride not in (own, None):
            raise ValueError(f"{self.title} has the output stride {own} and takes no other, got {output_stride!r}")
        used = reached([self._raw(name, seen) for name in self.forms])
        # poolers, mask tokens and what lies behind the last map
        self.unreached = {name for name, parameter in self.net.named_parameters() if parameter not in used}
        for name in self.unreached:
            self.net.get_parameter(name).requires_grad_(False)

    def _first_look(self) -> tuple[tuple[int, int], dict[str, Form]]:
        """The size of a small image that the network reads, and its hidden states that are maps there.

        ValueError: it reads none of those that are tried, its own the last of them.
        """
        patch, own, reasons = self.patch or 16, getattr(self.settings, "image_size", None), []
        own = (own, own) if isinstance(own, int) else own and tuple(own)
        free = [(64, 96), (4 * patch, 6 * patch)] if self.least == (1, 1) else [(self.least[0], 2 * self.least[1])]
        for size in [*free, *([own] if own else [])]:
            try:
                seen = self._look(size)
            except Exception as error:  # whatever transformers' own code stumbles on
                reasons.append(first_line(error))
                continue
            found = {name: form_of(x, size, self.patch) for name, x in seen.items() if name.startswith("hidden")}
            found = {name: form for name, form in found.items() if form is not None}
            if len(found) >= 4:
                if size not in free:
                    self.least, self.only_least = own, True
                return size, found
        raise self._no_backbone(*reasons[:1])

    def _find_stages(self, hidden: dict[str, Form]) -> dict[str, str]:
        """stage1..stage4 by the names of what a forward shows, and the taps that show it."""
        if len({form.stride for form in hidden.values()}) == 1:
            depth = len(hidden) - 1  # the first is of the embeddings
            rows = [path for path, row in self.net.named_modules() if isinstance(row, nn.ModuleList)]
            rows = [path for path in rows if len(self.net.get_submodule(path)) == depth]
            if depth < 4 or not rows:
                raise self._no_backbone()
            # a list of hidden states would keep all of them alive, and the last may be behind the norm
            self.taps = {f"block{index}": (f"{rows[0]}.{index}", "output") for index in range(depth)}
            self.reads_hidden = False
            return {stage: f"block{depth * number // 4 - 1}" for number, stage in enumerate(STAGES, start=1)}
        last_of = {form.stride: name for name, form in hidden.items()}
        if len(last_of) < 4:
            raise self._no_backbone()
        found = dict(zip(STAGES, [last_of[stride] for stride in sorted(last_of)[-4:]]))
        if self.settings.model_type in DOWNSAMPLED:
            paths = [path for path, _ in self.net.named_modules() if path.endswith(".downsample")]
            self.taps = {stage: (path, "input") for stage, path in zip(STAGES, paths)}
            found |= {stage: stage for stage in self.taps}
        return found

    def _no_backbone(self, reason: str = "") -> ValueError:
        reason = f" ({reason})" if reason else ""
        return ValueError(f"{self.title} does not give the four feature levels a backbone needs{reason}")

    def _watched_norms(self) -> dict[str, Tap]:
        """Taps on both ends of every norm."""
        paths = [path for path, part in self.net.named_modules() if "Norm" in type(part).__name__]
        return {f"{end} of {path}": (path, end) for path in paths for end in ("input", "output")}

    def _find_norm(self, seen: dict[str, object], norms: dict[str, Tap]) -> str:
        """Path of the norm that makes the last hidden state of what the last block puts out. ValueError: none does."""
        for path, _ in () if self.reads_hidden else norms.values():
            ends = seen.get(f"input of {path}"), seen.get(f"output of {path}")
            if ends[0] is seen[self.sources["stage4"]] and ends[1] is seen["last"]:
                return path
        raise ValueError(f"{self.title} has no norm behind its last block; leave last_norm out")

    def _look(self, size: tuple[int, int], further: dict[str, Tap] | None = None) -> dict[str, object]:
        """What a forward of an empty image shows."""
        with as_in_inference(self.net), torch.enable_grad():
            return self._run(torch.zeros(1, 3, *size), self.taps | (further or {}))

    def published(self) -> dict[str, Tensor]:
        """The published weights of the hub or the folder. ValueError: they lack some that its maps depend on."""
        with torch.random.fork_rng(devices=[]):
            net, fresh = load(type(self.net), self.settings, self.hub_network, None)
        lacking = [name for name in fresh if name not in self.unreached]
        if lacking:
            raise ValueError(f"{self.title} has no weights for {shown(lacking)} of {type(net).__name__}")
        return net.state_dict()

    def constants(self) -> str | dict:
        """What the preprocessor beside its weights does to images."""
        return read_normalize(self.hub_network, None).constants if self.hub_network else "imagenet"

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under transformers' keys, of this encoder or of a network it is a part of.

        In files some are called otherwise than in memory.
        """
        found = self._own(state)
        if len(found) < len(self.net.state_dict()):
            renamed = self._own(under_names_in_memory(type(self.net), self.settings, state))
            found = max(found, renamed, key=len)
        return found

    def _own(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those entries of this encoder that a state has under the names in memory, with any one beginning."""
        own = list(self.net.state_dict())
        before = next((key.removesuffix(own[0]) for key in state if key.endswith(own[0])), "")
        return {f"net.{key}": state[before + key] for key in own if before + key in state}

    def forward(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        names = [name for name in self.forms if name in wanted or name in STAGES]
        seen = self._run(
            x, {source: tap for source, tap in self.taps.items() if source in map(self.sources.get, names)}
        )
        return {name: as_feature(self._raw(name, seen), self.forms[name], (x.shape[-2], x.shape[-1])) for name in names}

    def read_size(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = self.least
        if not self.only_least:
            multiple = math.lcm(*self.strides.values())
            return tuple(-(-max(sides) // multiple) * multiple for sides in zip(size, self.least))
        if size[0] > height or size[1] > width:
            raise ValueError(
                f"{self.title} reads images of {height} x {width} pixels, got {size[0]} x {size[1]}: train with crops "
                f"of that size at most and evaluate with mode: slide and window: [{height}, {width}]"
            )
        return height, width

    def _raw(self, name: str, seen: dict[str, object]) -> Tensor:
        """The tensor that a feature is a map of, after the last norm if all maps are to go through it."""
        source = self.sources[name]
        if self.norm is not None and source.startswith("block"):
            return self.net.get_submodule(self.norm)(seen[source])
        return seen[source]

    def _run(self, x: Tensor, taps: dict[str, Tap]) -> dict[str, object]:
        """One forward: what the taps see, and by name what the network gives: hidden<i>, neck<i> and last.

        Shapes:
            x: (B, 3, H, W), whole patches.
        """
        given, tables = self._inputs(x), self._tables(x)
        with watched(self.net, taps) as seen:
            output = functional_call(self.net, tables, (), given) if tables else self.net(**given)
        hidden = output.get("reshaped_hidden_states") or output.get("hidden_states") or ()
        neck = output.get("fpn_hidden_states") or ()
        seen |= {f"hidden{index}": state for index, state in enumerate(hidden)}
        seen |= {f"neck{level}": maps for level, maps in enumerate(neck, start=1)}
        return seen | {"last": output.get("last_hidden_state")}

    def _inputs(self, x: Tensor) -> dict[str, object]:
        """The arguments of the network's forward."""
        given: dict[str, object] = {"pixel_values": x}
        if self.reads_hidden:
            given["output_hidden_states"] = True
        if self.interpolates:
            given["interpolate_pos_encoding"] = True
        if self.settings.model_type not in ("siglip2_vision_model", "vit_mae"):
            return given
        grid = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        if self.settings.model_type == "vit_mae":  # which takes the patches in the order of a noise, at random without
            return given | {"noise": torch.arange(grid[0] * grid[1], device=x.device).expand(len(x), -1)}
        # SigLIP2 takes patches as its processor cuts them, (B, 3, h p, w p) -> (B, 3, h, p, w, p) -> (B, h w, p p 3)
        patches = x.unflatten(3, (grid[1], self.patch)).unflatten(2, (grid[0], self.patch))
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=x.device)
        shapes = torch.tensor(grid, device=x.device).expand(len(x), -1)
        return given | {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}

    def _tables(self, x: Tensor) -> dict[str, Tensor]:
        """Tables of positions that the network itself would not fit to the image, by their path in it."""
        kind = self.settings.model_type
        if kind in ("sam_vision_model", "sam_hq_vision_model"):
            encoder = self.net.vision_encoder
            encoder.patch_embed.image_size = tuple(x.shape[-2:])  # which it checks
            grid = x.shape[-2] // self.patch, x.shape[-1] // self.patch
            return {"vision_encoder.pos_embed": resize_pos_embed(encoder.pos_embed, grid)}
        layers = {path: part for path, part in self.net.named_modules() if hasattr(part, "precompute_positions")}
        if not kind.startswith("sam3") or not layers:
            return {}
        found = {}
        for path, layer in layers.items():
            if layer.window_size == 0:
                settings = copy.copy(layer.config)
                settings.image_size = (x.shape[-1], x.shape[-2])  # width first, as it reads them
                found[f"{path}.position_ids"] = layer.precompute_positions(settings, 0).to(x.device)
        return found
