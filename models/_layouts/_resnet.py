"""Names of a ResNet's entries: every code names the blocks alike, and the stem in its own way."""

import re
from typing import Literal

from torch import Tensor

# codes -> (theirs, ours) of the stem; ours is timm's: a deep one is a sequence under conv1 with its last norm in bn1
STEMS = {
    "plain": [("conv1.weight", "conv1.weight"), ("bn1.*", "bn1.*")],
    "mmseg": [("stem.7.*", "bn1.*"), ("stem.#.*", "conv1.#.*")],
    "cirkd": [
        ("conv1.*", "conv1.0.*"),
        ("bn1.*", "conv1.1.*"),
        ("conv2.*", "conv1.3.*"),
        ("bn2.*", "conv1.4.*"),
        ("conv3.*", "conv1.6.*"),
        ("bn3.*", "bn1.*"),
    ],
}

# (bottleneck, blocks of layer3) -> name
NAMES = {(False, 2): "resnet18", (False, 6): "resnet34", (True, 6): "resnet50", (True, 23): "resnet101"}


def resnet_pairs(
    stem: Literal["plain", "mmseg", "cirkd"], theirs: str = "backbone.", ours: str = "backbone."
) -> list[tuple[str, str]]:
    """(theirs, ours) for Renaming: torchvision's plain stem, mmsegmentation's deep one or CIRKD's deep one."""
    pairs = STEMS[stem] + [("layer#.#.*", "layer#.#.*")]
    return [(theirs + their_key, ours + our_key) for their_key, our_key in pairs]


def resnet_name(state: dict[str, Tensor], prefix: str = "backbone.") -> str:
    """Which ResNet stands under the prefix, in whose names ever. ValueError: none of ours."""
    blocks = {found[1] for key in state if (found := re.match(re.escape(prefix) + r"layer3\.(\d+)\.", key))}
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    if (bottleneck, len(blocks)) not in NAMES:
        kind = "bottleneck" if bottleneck else "basic"
        raise ValueError(
            f"the ResNet of this checkpoint has {len(blocks)} {kind} blocks in layer3; "
            f"ours are {', '.join(NAMES.values())}"
        )
    return NAMES[bottleneck, len(blocks)]


def stem_of(state: dict[str, Tensor], prefix: str = "backbone.") -> str:
    """`plain`, `v1c` or `v1s`, in whose names ever; by the width of the first convolution of a deep stem."""
    first = state.get(f"{prefix}stem.0.weight", state.get(f"{prefix}conv1.0.weight"))
    if first is None and f"{prefix}conv3.weight" in state:
        first = state[f"{prefix}conv1.weight"]
    if first is None:
        return "plain"
    return "v1c" if first.shape[0] == 32 else "v1s"
