"""mmsegmentation's names of the entries of DeepLabV3, DeepLabV3+ and PSPNet, and ours."""

import re

RENAMES = [
    (r"^backbone\.stem\.7\.", "backbone.bn1."),
    (r"^backbone\.stem\.", "backbone.conv1."),
    (r"^backbone\.conv1\.conv\.", "backbone.conv_stem."),
    (r"^backbone\.conv1\.bn\.", "backbone.bn1."),
    (r"^decode_head\.image_pool\.1\.", "aspp.image_pool.conv."),
    (r"^decode_head\.aspp_modules\.", "aspp.branches."),
    (r"^decode_head\.psp_modules\.(\d)\.1\.", r"pyramid.levels.\1.conv."),
    (r"^decode_head\.c1_bottleneck\.", "low_level."),
    (r"^decode_head\.sep_bottleneck\.", "decoder."),
    (r"^decode_head\.conv_seg\.", "classifier."),
    (r"^auxiliary_head\.convs\.0\.", "aux_head.conv."),
    (r"^auxiliary_head\.conv_seg\.", "aux_head.classifier."),
    (r"(depthwise|pointwise)_conv\.", r"\1."),
]


def our_key(key: str, context: str) -> str:
    """Our name of an entry; `context` is the part that pools context: aspp or pyramid."""
    block = re.match(r"backbone\.layer(\d)\.(\d)\.conv\.(\d)\.(conv|bn)\.(.*)", key)
    if block:  # MobileNetV2: the first layer has no expansion, the others begin with one
        layer, index, part, kind, rest = block.groups()
        names = ("conv_dw", "conv_pw") if layer == "1" else ("conv_pw", "conv_dw", "conv_pwl")
        name = names[int(part)] if kind == "conv" else f"bn{int(part) + 1}"
        return f"backbone.blocks.{int(layer) - 1}.{index}.{name}.{rest}"
    for pattern, ours in RENAMES:
        key = re.sub(pattern, ours, key)
    return key.replace("decode_head.bottleneck.", f"{context}.project.")
