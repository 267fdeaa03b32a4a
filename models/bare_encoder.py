"""An encoder without a head: a teacher of features alone."""

from torch import Tensor

from ._backbones import Backbone, DilationRule, Stem, Stride, build_backbone
from ._checkpoints import read_backbone
from ._network import Network


class BareEncoder(Network):
    """The maps of an encoder by name; its predictions have no logits.

    For foundation models, whose features say more than any head published with them: DINOv2, DINOv3, SigLIP2, CLIP,
    SAM2, SAM3, ... of transformers or timm. Images may be of any size: they are padded to whole patches, and the maps
    cut to ceil(side / stride).

    Args:
        num_classes: means nothing here.
        output_stride: None: the encoder's own.
        last_norm: stage1..stage4 and block<i> of a plain transformer go through the norm behind its last block, as in
            DINOv2's get_intermediate_layers(norm=True), and timm's and transformers' likes of it.
        backbone, stem, dilation_rule, pretrained, backbone_weights: see models/_network.py.

    Features:
        stage1..stage4: of a plain transformer what is put out after each quarter of its depth, else the last map of
        each of the last four strides; our own encoders have theirs. Of timm's and transformers' networks, where they
        are maps, too: block0, block1, ...: what each block of a plain transformer puts out; last: what the encoder as a
        whole puts out, behind its last norm or neck, if it has one; neck1, neck2, ...: SAM2's and SAM3's pyramid, the
        finest first. Class and register tokens are dropped.
    """

    gives_logits = False

    def __init__(
        self,
        num_classes: int,
        *,
        backbone: Backbone = "resnet18",
        output_stride: Stride | None = None,
        stem: Stem = "plain",
        dilation_rule: DilationRule = "timm",
        last_norm: bool = False,
        pretrained: bool = False,
        backbone_weights: str | None = None,
    ):
        encoder = build_backbone(backbone, output_stride, stem, dilation_rule, alone=True, last_norm=last_norm)
        super().__init__(num_classes, encoder, pretrained, backbone_weights)

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The encoder's entries, of a file of it alone or of a whole network."""
        own = {key: value for key, value in state.items() if key.startswith("backbone.")}
        return own or {f"backbone.{key}": value for key, value in self.backbone.fitted(read_backbone(state)).items()}

    def compute(self, x: Tensor, wanted: set[str], prompt: None) -> dict[str, Tensor | None]:
        return self.backbone(x, wanted) | {"logits": None}
