"""SAM: Segment Anything's image encoder as a teacher, of features or with TSIC's head of scores."""

import logging
from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Interval, Len, MultipleOf
from torch import Tensor

from ._checkpoints import guess, read
from ._heads import add_classifiers, classify
from ._lora import Third, add_lora, folded, merge_lora, wrapped
from ._mask_prompt import PromptAttention, decode_masks, embed_mask, freeze_unused
from ._network import Count, Network, Positive, Ratio, Share
from ._sam import PATCH, PUBLISHED, REPOSITORY, Arch, build_encoder, build_prompter, encode, fitted_tables
from ._upernet_head import SCALES, MultiLevelNeck, UPerHead
from ._weights import fill, published_file, read_weights

logger = logging.getLogger(__name__)

# parts of a file that a network without a head, or one whose guidance reads no masks, has no use for
HEAD_PARTS = ("neck.", "head.", "classifier.", "prompt_attention.")
PROMPT_PARTS = ("prompt_encoder.", "mask_decoder.")

Block = Annotated[int, Interval(ge=0, le=255)]  # number of a block


class SAM(Network):
    """neck_j = neck(block_j) for the tapped blocks; with a head logits = classifier(dropout(guided(UPer(levels)))).

    Encoder: see models/_sam.py; its one neck serves all tapped blocks. Head: TSIC's teacher (Li et al., IEEE TCSVT
    2026): the four maps become a pyramid of strides 4, 8, 16, 32 for a UPer head. LoRA: see models/_lora.py. Prompt:
    see models/_mask_prompt.py.

    Args:
        num_classes: K; without a head it means nothing.
        arch: sizes of the encoder; embed_dim, depth, num_heads, global_blocks (which attend over the whole image),
            window_size, out_channels and mlp_ratio replace single ones of them, see models/_sam.py.
        head: `uper`, or None for a teacher of features alone, whose predictions have no logits.
        lora_rank: r > 0 freezes the encoder and trains updates of rank r of its projections `lora_targets`.
        lora_alpha: the updates are multiplied by alpha / r; None: by 1, as in TSIC.
        prompt_guidance: what a mask prompt does to the scores: nothing and none is taken (none), nothing though one is
            taken (released), it weighs channels (channel) or places (spatial) of what the classifier reads.
        image_size: side in pixels of the squares the position tables are for. Those of a file are resized to it once,
            those of the network to each image's grid. 1024 are the published tables, TSIC has its crop's height.
        taps: blocks whose maps are given, rising; None: the last four that attend over the whole image.
        neck_width: channels of the pyramid. head_width: of the UPer head.
        dropout: share of whole channels dropped before the classifier.
        pretrained: start from Hugging Face's copy of the published weights of `arch`.
        backbone_weights: start from this local file of SAM (Meta's, OpenMMLab's, Hugging Face's or timm's) instead.

    Shapes:
        prompt: (B, 1, H, W), class indices, see models/_mask_prompt.py:mask_prompt.
        logits: (B, K, 4 ceil(H / 16), 4 ceil(W / 16)): images are padded to whole patches, and the scores cover the
        padding. Maps of the other strides s >= 4 are 16 / s times the grid of patches, rounded down.

    Features:
        block<i>: what the tapped block i puts out; neck1, neck2, ...: the tapped blocks' maps through SAM's neck; sam:
        the last of these. With a head level1..level4: the pyramid; decoder: the fused map; head: what the classifier
        reads; with a guidance masks: SAM's three masks for the prompt, logits.

    Raises:
        ValueError: a prompt that is missing or of another size.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        arch: Arch = "vit_b",
        head: Literal["uper"] | None = "uper",
        lora_rank: Annotated[int, Interval(ge=0, le=8192)] = 0,
        lora_alpha: Positive | None = None,
        lora_targets: Annotated[tuple[Third, ...], Len(1, 3)] = ("q", "v"),
        prompt_guidance: Literal["none", "released", "channel", "spatial"] = "none",
        image_size: Annotated[int, Interval(ge=PATCH, le=8192), MultipleOf(PATCH)] = 1024,
        taps: tuple[Block, ...] | None = None,
        neck_width: Count = 768,
        head_width: Count = 512,
        dropout: Share = 0.1,
        embed_dim: Count | None = None,
        depth: Annotated[int, Interval(ge=1, le=256)] | None = None,
        num_heads: Count | None = None,
        global_blocks: tuple[Block, ...] | None = None,
        window_size: Annotated[int, Interval(ge=0, le=8192)] | None = None,
        out_channels: Count | None = None,
        mlp_ratio: Ratio | None = None,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        super().__init__(num_classes, normalize="sam")
        given = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "global_blocks": global_blocks,
                 "window_size": window_size, "out_channels": out_channels, "mlp_ratio": mlp_ratio}  # fmt: skip
        sizes = replace(PUBLISHED[arch], **{name: size for name, size in given.items() if size is not None})
        self.taps = tuple(sizes.global_blocks[-4:] if taps is None else taps)
        if not self.taps or list(self.taps) != sorted(set(self.taps) & set(range(sizes.depth))):
            raise ValueError(f"SAM: taps must be rising numbers of its {sizes.depth} blocks, got {list(self.taps)}")
        if head is not None and len(self.taps) != len(SCALES):
            raise ValueError(f"SAM: the head reads {len(SCALES)} tapped blocks, got {list(self.taps)}")
        if head is None and prompt_guidance != "none":
            raise ValueError("SAM: prompt_guidance acts on the head; give head: uper or prompt_guidance: none")
        self.gives_logits, self.takes_prompt = head is not None, prompt_guidance != "none"
        self.prompt_guidance, self.lora_rank = prompt_guidance, lora_rank

        self.backbone = build_encoder(sizes, image_size)
        self.add_features([f"block{index}" for index in self.taps], sizes.embed_dim, PATCH)
        self.add_features([f"neck{j + 1}" for j in range(len(self.taps))] + ["sam"], sizes.out_channels, PATCH)
        if self.gives_logits:
            self.head = UPerHead((neck_width,) * 4, head_width)
            add_classifiers(self, head_width, None, dropout, "channels", "kaiming")
            self.neck = MultiLevelNeck(sizes.out_channels, neck_width)
            for j, scale in enumerate(SCALES, start=1):
                self.add_features([f"level{j}"], neck_width, int(PATCH / scale))
            self.add_features(["decoder", "head"], head_width, 4)
        if self.takes_prompt:
            self.prompt_encoder, self.mask_decoder = build_prompter(sizes.out_channels)
            self.prompt_attention = PromptAttention(head_width, prompt_guidance)
            self.add_features(["masks"], 3, 1)
        self._start(arch, pretrained, backbone_weights)
        self._choose_trained(lora_rank, lora_targets, lora_alpha)

    def _start(self, arch: Arch, pretrained: bool, file: str | None) -> None:
        """Published weights for the encoder and, where they are part of the network, SAM's two other modules."""
        if pretrained and file is not None:
            raise ValueError(f"pretrained and backbone_weights ({file}) exclude each other: drop one of them")
        if not pretrained and file is None:
            return
        source = file or published_file(REPOSITORY[arch], "model.safetensors")
        state = read_weights(source)
        state = self.fitted(read(state, guess(state)))
        for name in ("backbone", "prompt_encoder", "mask_decoder") if self.takes_prompt else ("backbone",):
            own = {key.removeprefix(f"{name}."): x for key, x in state.items() if key.startswith(f"{name}.")}
            fill(self.get_submodule(name), own, f"{name} in {source}")

    def _choose_trained(self, rank: int, targets: tuple[Third, ...], alpha: float | None) -> None:
        """Freezes what cannot learn or is not to: blocks behind the last tap, SAM under LoRA, what no mask reaches."""
        if rank:
            add_lora(self.backbone, rank, targets, alpha)
        self.backbone.blocks[self.taps[-1] + 1 :].requires_grad_(False)
        if self.prompt_guidance == "released":
            logger.info(
                "SAM: prompt_guidance released has no influence on scores or gradients, as in TSIC's released code; "
                "the masks are made only where the feature `masks` is read"
            )
            for part in (self.prompt_encoder, self.mask_decoder, self.prompt_attention):
                part.requires_grad_(False)
        elif self.prompt_guidance != "none":
            freeze_unused(self.prompt_encoder, self.mask_decoder)

    def merge_lora(self) -> None:
        """Adds the low-rank updates to the weights they update; the encoder stays frozen."""
        if self.lora_rank:
            merge_lora(self.backbone)
            self.lora_rank = 0

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Entries of a SAM under our names as this network takes them.

        Position tables are resized to its `image_size`. Plain projections are named as the frozen part of this
        network's low-rank updates, updates it does not have are added to the weights. Parts it does not have are left
        out: the head of scores where it gives features alone, and what makes masks of prompts where it takes none.
        """
        unused = () if self.gives_logits else HEAD_PARTS
        if not self.takes_prompt:
            unused += ("prompt_attention.", *PROMPT_PARTS)
        elif self.prompt_guidance == "spatial":
            unused += ("prompt_attention.",)
        state = {key: value for key, value in state.items() if not key.startswith(unused)}
        own = self.state_dict()
        has_lora = "backbone.blocks.0.attn.qkv.qkv.weight" in own
        return fitted_tables(wrapped(state) if has_lora else folded(state), own)

    def compute(self, x: Tensor, wanted: set[str], prompt: Tensor | None) -> dict[str, Tensor | None]:
        needs_masks = self._needs_masks(x, wanted, prompt)
        blocks = encode(self.backbone, x, self.taps)
        found = {f"block{index}": tokens for index, tokens in blocks.items()}
        for j, (index, tokens) in enumerate(blocks.items(), start=1):
            names = [f"neck{j}"] + ["sam"] * (index == self.taps[-1])
            if self.gives_logits or not wanted.isdisjoint(names):
                found |= dict.fromkeys(names, self.backbone.neck(tokens))  # (B, out_channels, h, w)
        if needs_masks:
            prompt = prompt.to(self.classifier.weight.dtype)
            embedded = embed_mask(self.prompt_encoder, prompt, (prompt.shape[-2] // 4, prompt.shape[-1] // 4))
            found["masks"] = decode_masks(self.mask_decoder, found["sam"], *embedded)  # (B, 3, 4 (H // 4), 4 (W // 4))
        if not self.gives_logits:
            return found | {"logits": None}
        levels = self.neck([found[f"neck{j + 1}"] for j in range(len(self.taps))])
        found |= {f"level{j}": level for j, level in enumerate(levels, start=1)}
        found["decoder"] = fused = self.head(levels)  # (B, head_width, 4h, 4w)
        if self.takes_prompt:
            fused = self.prompt_attention(fused, found.get("masks"))
        return classify(self, fused, found, wanted)

    def _needs_masks(self, images: Tensor, wanted: set[str], prompt: Tensor | None) -> bool:
        """Whether this forward makes masks. ValueError for a prompt that is missing or of another size."""
        if not self.takes_prompt:
            return False
        # as released the masks change nothing, so only who reads them has them made
        needs_masks = self.prompt_guidance != "released" or "masks" in wanted
        shape = (images.shape[0], 1, *images.shape[-2:])
        if prompt is not None and tuple(prompt.shape) != shape:
            raise ValueError(f"SAM: the prompt must be a mask of {shape} for these images, got {tuple(prompt.shape)}")
        if prompt is None and needs_masks:
            raise ValueError(
                f"SAM: prompt_guidance {self.prompt_guidance} needs a mask with the images; "
                "name the network that makes it: prompted_by"
            )
        return needs_masks
