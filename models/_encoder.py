"""What every encoder of this room has, and the rules by which the strides of a classifier become its dilations."""

from typing import Literal

from torch import Tensor, nn

Stride = Literal[8, 14, 16, 32]
STAGES = ("stage1", "stage2", "stage3", "stage4")
# timm: also torchvision's and UniMatch's; each family of encoders has a table of what the rules mean for it
DilationRule = Literal["timm", "mmseg", "cirkd", "aicsd"]


class Encoder(nn.Module):
    """What heads are put on: normalised images (B, 3, H, W) and a set of names to a map for each name.

    `encoder(x, wanted)` has stage1..stage4 always, and those of its other features that are in `wanted`. Where timm's
    batch norm and activation are one module (MobileNet, MobileViT), it is synchronised with
    timm.layers.convert_sync_batchnorm: torch's own converter silently drops the activation.
    """

    # of every feature: channels, and pixels of the image per pixel
    channels: dict[str, int]
    strides: dict[str, int]
    # feature -> weight and bias, each (C,), of the batch norm it comes from, where it comes from one
    norms: dict[str, tuple[Tensor, Tensor]] = {}
    # side in pixels of a plain transformer's patches, which alone has tokens that are no patches
    patch: int | None = None
    # where its published weights are: timm's name of them, or else repository and file on the Hugging Face hub
    imagenet: str | None = None
    hub_file: tuple[str, str] | None = None
    # or else the id or folder of the network of transformers that it is
    hub_network: str | None = None
    # what builds it again in place of its name, where that stands for a folder or the hub
    config: dict | None = None
    # how the keys of such a file begin that the encoder has no use for
    dropped: tuple[str, ...] = ()

    def read_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """(H, W) that images of `size` are padded to for it, below and to the right; None: it takes them as they are."""
        return None

    def published(self) -> dict[str, Tensor]:
        """The weights of `hub_network`."""
        raise NotImplementedError

    def constants(self) -> str | dict | None:
        """Those that the weights of `hub_network` were trained with."""
        return None

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A file's entries as this encoder takes them, such as tables of positions resized to its grid."""
        return dict(state)


def set_dilation(conv: nn.Conv2d, dilation: int) -> None:
    """Dilates a convolution of odd kernel in place, its padding with it, so that the size stays."""
    height, width = conv.kernel_size
    assert height == width and height % 2 == 1, conv
    conv.dilation = (dilation, dilation)
    conv.padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
