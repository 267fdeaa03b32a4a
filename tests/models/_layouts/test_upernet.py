"""UPerNet's entries in mmsegmentation and CIRKD: their names and shapes, and both ways."""

import pytest
import torch

from segkd.models._checkpoints import write
from segkd.models.upernet import UPerNet

OWN = {
    "mmseg": {"dilation_rule": "mmseg", "stem": "v1c", "width": 24},
    "cirkd": {"arrangement": "cirkd", "stem": "v1s", "width": 24, "output_stride": 8},
}


def built(layout, num_classes=5, **args):
    torch.manual_seed(0)
    return UPerNet(num_classes, **(OWN[layout] | args)).eval()


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def shapes(state):
    return {key: tuple(value.shape) for key, value in state.items()}


def test_entries_of_cirkds_lite_network():
    """Its head with ResNet-18 and 19 classes, entry by entry."""
    state = shapes(write(built("cirkd", num_classes=19, width=128, aux_width=64).state_dict(), "cirkd"))
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"head.conv_last.1.weight": (19, 128, 1, 1), "head.conv_last.1.bias": (19,)}
    blocks = {
        "head.ppm_last_conv.0": (128, 2560, 3, 3),
        "head.conv_last.0.0": (128, 512, 3, 3),
        "auxlayer.block.0": (64, 256, 3, 3),
    }
    for i, channels in enumerate((64, 128, 256)):
        blocks[f"head.fpn_in.{i}.0"] = (128, channels, 1, 1)
        blocks[f"head.fpn_out.{i}.0.0"] = (128, 128, 3, 3)
    for i in range(4):
        blocks[f"head.ppm_conv.{i}.0"] = (512, 512, 1, 1)
    for name, shape in blocks.items():
        expected[f"{name}.weight"] = shape
        expected |= {f"{name[:-1]}1.{part}": shape[:1] if part != norm[-1] else () for part in norm}
    expected |= {"auxlayer.block.4.weight": (19, 64, 1, 1), "auxlayer.block.4.bias": (19,)}
    assert {key: shape for key, shape in state.items() if not key.startswith("pretrained.")} == expected


def test_entries_of_mmsegmentations_head():
    state = shapes(write(built("mmseg", num_classes=19, width=512).state_dict(), "mmseg"))
    expected = {
        "decode_head.psp_modules.3.1.conv.weight": (512, 512, 1, 1),
        "decode_head.psp_modules.0.1.bn.running_var": (512,),
        "decode_head.bottleneck.conv.weight": (512, 2560, 3, 3),
        "decode_head.lateral_convs.2.conv.weight": (512, 256, 1, 1),
        "decode_head.fpn_convs.0.bn.weight": (512,),
        "decode_head.fpn_bottleneck.conv.weight": (512, 2048, 3, 3),
        "decode_head.conv_seg.weight": (19, 512, 1, 1),
        "auxiliary_head.convs.0.conv.weight": (256, 256, 3, 3),
    }
    assert {key: state[key] for key in expected} == expected


def test_the_other_arrangement_is_refused():
    with pytest.raises(ValueError):
        write(built("cirkd", width=512).state_dict(), "mmseg")
    with pytest.raises(ValueError):
        write(built("mmseg", width=512).state_dict(), "cirkd")
