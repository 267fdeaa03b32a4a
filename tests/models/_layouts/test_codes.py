"""Names of other codes: networks of ours written, told, described and read back."""

import pytest
import torch

from segkd.models import _checkpoints
from segkd.models._layouts import aicsd, unimatch
from segkd.models.bisenetv2 import BiSeNetV2
from segkd.models.ddrnet import DDRNet
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.deeplabv3plus import DeepLabV3Plus
from segkd.models.efficientvit_seg import EfficientViTSeg
from segkd.models.lraspp import LRASPP
from segkd.models.pidnet import PIDNet
from segkd.models.pspnet import PSPNet
from segkd.models.segnext import SegNeXt
from segkd.models.stdc import STDC
from segkd.models.topformer import TopFormer
from segkd.models.upernet import UPerNet

CLASSES = {"deeplabv3": DeepLabV3, "deeplabv3plus": DeepLabV3Plus, "pspnet": PSPNet, "upernet": UPerNet}
CLASSES |= {"pidnet": PIDNet, "ddrnet": DDRNet, "stdc": STDC, "lraspp": LRASPP, "segnext": SegNeXt}
CLASSES |= {"bisenetv2": BiSeNetV2, "efficientvit_seg": EfficientViTSeg, "topformer": TopFormer}
CIRKD = {"dilation_rule": "cirkd", "align_corners": True, "dropout_kind": "elements", "head_init": "torch"}
CIRKD_V3 = CIRKD | {"projection": "1x1"}
# encoder -> a quarter of its channels, the width of CIRKD's pyramid levels
MOBILE = {"mobilenetv3_small_100": 144, "mobilenetv3_large_100": 240,
          "mobilevit_xxs": 80, "mobilevit_xs": 96, "mobilevit_s": 160}  # fmt: skip
CIRKD_UPER = CIRKD | {"arrangement": "cirkd", "stem": "v1s"}
MMSEG = {"dilation_rule": "mmseg"}
AICSD = {"arrangement": "aicsd", "output_stride": 16, "dilation_rule": "aicsd"}
UNIMATCH = {"arrangement": "unimatch", "output_stride": 16, "dilation_rule": "timm"}
NOT_AICSD = r"the layout aicsd \(DeepLabV3.* has (no name|a pyramid of)"
NOT_UNIMATCH = r"the layout unimatch \(DeepLabV3.* has (no name|a \S+ of another shape)"
TORCHVISION = {"projection": "1x1", "dropout_kind": "elements", "head_init": "torch"}


def entries(model, num_classes, args):
    """Another number in each entry, in no memory: built on the meta device."""
    with torch.device("meta"):
        state = CLASSES[model](num_classes, **args).state_dict()
    return {key: torch.tensor(float(i)).expand(value.shape) for i, (key, value) in enumerate(state.items())}


@pytest.mark.parametrize(
    ("layout", "model", "num_classes", "args"),
    [
        ("mmseg", "deeplabv3", 7, MMSEG | {"backbone": "resnet34", "stem": "v1c", "width": 64, "aux": False}),
        ("mmseg", "deeplabv3", 19, MMSEG | {"backbone": "mobilenetv2_100", "width": 512}),
        ("mmseg", "pspnet", 150, MMSEG | {"backbone": "resnet50", "stem": "v1c"}),
        ("mmseg", "pspnet", 21, MMSEG | {"backbone": "resnet18", "width": 8, "aux_width": 5}),
        ("mmseg", "deeplabv3plus", 19, MMSEG | {"backbone": "resnet101", "stem": "v1c"}),
        ("mmseg", "deeplabv3plus", 3, MMSEG | {"backbone": "mobilenetv2_050", "width": 24}),
        ("mmseg", "upernet", 5, MMSEG | {"backbone": "resnet50", "stem": "v1c", "width": 512, "output_stride": 32}),
        ("mmseg", "upernet", 3, MMSEG | {"stem": "v1c", "width": 24, "aux_width": 7, "arrangement": "mmseg"}),
        ("mmseg", "upernet", 5, MMSEG | {"width": 24, "aux": False}),
        ("cirkd", "upernet", 5, CIRKD_UPER | {"backbone": "resnet50", "width": 512, "output_stride": 8}),
        ("cirkd", "upernet", 3, CIRKD_UPER | {"width": 24, "aux_width": 7}),
        ("cirkd", "upernet", 5, CIRKD_UPER | {"width": 24, "aux": False}),
        ("cirkd", "deeplabv3", 7, CIRKD_V3 | {"backbone": "resnet50", "stem": "v1s", "width": 64}),
        ("cirkd", "deeplabv3", 11, CIRKD_V3 | {"stem": "plain", "width": 16, "aux_width": 64}),
        ("cirkd", "deeplabv3", 19, CIRKD_V3 | {"backbone": "mobilenetv2_100", "width": 32, "aux": False}),
        *(("cirkd", "deeplabv3", 171, CIRKD_V3 | {"backbone": name, "aux": False}) for name in MOBILE),
        ("cirkd", "pspnet", 19, CIRKD | {"backbone": "resnet101", "stem": "v1s", "width": 512, "level_width": 512}),
        *(
            ("cirkd", "pspnet", 2, CIRKD | {"backbone": name, "level_width": width, "aux": False})
            for name, width in MOBILE.items()
        ),
        ("aicsd", "deeplabv3plus", 19, AICSD | {"backbone": "resnet18"}),
        ("aicsd", "deeplabv3plus", 21, AICSD | {"backbone": "resnet101"}),
        ("aicsd", "deeplabv3plus", 5, AICSD | {"backbone": "mobilenetv2_100"}),
        ("unimatch", "deeplabv3plus", 19, UNIMATCH | {"backbone": "resnet50", "stem": "v1s"}),
        ("unimatch", "deeplabv3plus", 21, UNIMATCH | {"backbone": "resnet101", "stem": "v1s"}),
        ("unimatch", "deeplabv3plus", 5, UNIMATCH | {"backbone": "xception65"}),
        ("pidnet", "pidnet", 19, {"variant": "m", "stem_bias": True, "aux_reads_relu": True, "align_corners": True}),
        ("pidnet", "pidnet", 7, {"variant": "s", "width": 8, "aux": False}),
        ("pidnet", "pidnet", 3, {"variant": "l", "width": 64}),
        ("mmseg", "pidnet", 19, {"variant": "s", "stem_bias": False, "aux_reads_relu": False}),
        ("mmseg", "pidnet", 2, {"variant": "l", "width": 8, "stem_bias": False}),
        ("ddrnet", "ddrnet", 19, {"width": 32, "stem_bias": True, "align_corners": False}),
        ("ddrnet", "ddrnet", 5, {"width": 8, "pyramid_width": 6, "head_width": 4, "aux": False}),
        ("mmseg", "ddrnet", 11, {"width": 32, "stem_bias": False}),
        ("mmseg", "stdc", 19, {"variant": 2, "classifier_bias": True, "detail_channels": 2, "align_corners": True}),
        ("mmseg", "stdc", 3, {"variant": 1, "width": 8, "classifier_bias": True, "aux": False}),
        ("torchvision", "lraspp", 21, {"arrangement": "torchvision", "norm_eps": 1e-3, "norm_momentum": 0.01}),
        ("torchvision", "lraspp", 4, {"backbone": "mobilenetv3_small_100", "width": 8}),
        ("mmseg", "lraspp", 19, {"arrangement": "mmseg", "norm_eps": 1e-3, "norm_momentum": 0.1}),
        ("mmseg", "lraspp", 4, {"arrangement": "mmseg", "backbone": "mobilenetv3_small_100", "width": 8}),
        ("segnext", "segnext", 19, {"backbone": "mscan_t", "width": 256}),
        ("segnext", "segnext", 3, {"backbone": "mscan_t", "width": 32}),
        ("mmseg", "segnext", 150, {"backbone": "mscan_s", "width": 256}),
        ("bisenetv2", "bisenetv2", 19, {"arrangement": "original", "width": 1024, "aux": True}),
        ("bisenetv2", "bisenetv2", 7, {"width": 8, "aux": False}),
        ("mmseg", "bisenetv2", 19, {"arrangement": "mmseg", "width": 1024, "aux": True}),
        ("mmseg", "bisenetv2", 2, {"arrangement": "mmseg", "width": 8, "aux": False}),
        ("efficientvit", "efficientvit_seg", 19, {"backbone": "efficientvit_b1", "depth": 3, "full_size": True}),
        ("efficientvit", "efficientvit_seg", 5, {"backbone": "efficientvit_b0", "width": 8, "depth": 2, "expand": 0}),
        ("topformer", "topformer", 19, {"backbone": "topformer_b", "depthwise_fuse": False}),
        ("topformer", "topformer", 150, {"backbone": "topformer_t", "depthwise_fuse": True}),
        ("torchvision", "deeplabv3", 21, TORCHVISION | {"backbone": "resnet101", "width": 256, "aux_width": 256}),
        ("torchvision", "deeplabv3", 4, TORCHVISION | {"backbone": "resnet50", "width": 256, "aux": False}),
    ],
)
def test_written_told_described_and_read(layout, model, num_classes, args, same):
    ours = entries(model, num_classes, args)
    theirs = _checkpoints.write(ours, layout)
    # the encoder's names and the classifier's are those of other codes too
    assert not theirs.keys() & ours.keys() - {key for key in ours if key.startswith(("backbone.", "classifier."))}
    assert _checkpoints.guess(theirs) == layout != _checkpoints.guess(ours)
    # no other layout takes it, ours aside
    assert {name for name, other in _checkpoints.LAYOUTS.items() if other.fits(theirs)} - {"segkd"} == {layout}
    found = _checkpoints.describe(theirs, layout)
    assert (found.model, found.num_classes) == (model, num_classes)
    told = {name: value for name, value in args.items() if found.args.get(name) == value}
    assert told == args
    assert {key: value.shape for key, value in entries(model, found.num_classes, found.args).items()} == {
        key: value.shape for key, value in ours.items()
    }
    read = _checkpoints.read(theirs, layout)
    assert same(read, ours)
    assert same(_checkpoints.write(read, layout), theirs)


@pytest.mark.parametrize(
    ("layout", "model", "args", "error"),
    [
        ("mmseg", "deeplabv3", {"projection": "1x1"}, "mmsegmentation's ASPP ends with a 3x3"),
        ("mmseg", "pspnet", {"level_width": 32}, "levels as wide as its output"),
        ("mmseg", "deeplabv3plus", {"separable": False}, "has no name for the entries .*decoder.0.conv.weight"),
        ("mmseg", "deeplabv3", {"backbone": "mobilenetv3_small_100"}, "mmsegmentation has no name for the entries"),
        ("mmseg", "upernet", {"arrangement": "cirkd"}, "mmsegmentation has no such network"),
        ("cirkd", "upernet", {"stem": "v1s"}, "CIRKD has no such network"),
        ("cirkd", "deeplabv3", {}, "CIRKD has no such network"),
        ("cirkd", "pspnet", {"width": 64}, "set level_width"),
        ("cirkd", "pspnet", {"level_width": 128, "stem": "v1c"}, "stem must be v1s"),
        ("cirkd", "pspnet", {"backbone": "mobilenetv2_100", "level_width": 80}, "set aux: false"),
        *(
            ("aicsd", "deeplabv3plus", AICSD | args, NOT_AICSD)
            for args in (
                {"aux": True}, {"separable": True}, {"width": 128}, {"stem": "v1c"},
                {"arrangement": "mmseg", "aux": False},
            )
        ),
        *(
            ("unimatch", "deeplabv3plus", UNIMATCH | {"backbone": "resnet50", "stem": "v1s"} | args, NOT_UNIMATCH)
            for args in (
                {"aux": True}, {"separable": True}, {"backbone": "resnet18"}, {"stem": "v1c"}, {"stem": "plain"},
            )
        ),
        ("pidnet", "ddrnet", {"width": 8}, "the layout pidnet has no such network"),
        ("ddrnet", "deeplabv3", {}, "the layout ddrnet has no such network"),
        ("stdc", "pspnet", {}, "the layout stdc has no such network"),
        ("bisenetv2", "bisenetv2", {"arrangement": "mmseg"}, "the layout bisenetv2 has no name for the entries"),
        ("mmseg", "lraspp", {}, "mmsegmentation has no such network"),
        ("topformer", "segnext", {}, "the layout topformer has no such network"),
        ("torchvision", "deeplabv3", {}, "projection: 1x1"),
        ("torchvision", "pspnet", {}, "projection: 1x1"),
        ("torchvision", "deeplabv3", {"projection": "1x1", "backbone": "mobilenetv2_100"}, "no name for the entries"),
    ],
)  # fmt: skip
def test_networks_a_code_does_not_have(layout, model, args, error):
    with pytest.raises(ValueError, match=error):
        _checkpoints.write(entries(model, 5, args), layout)


def test_checkpoints_of_networks_we_do_not_have():
    state = {"backbone.layer1.0.conv1.weight": torch.ones(1), "decode_head.conv_seg.weight": torch.ones(1)}
    with pytest.raises(ValueError, match="none of our networks has a decode_head of conv_seg; there are"):
        _checkpoints.describe(state, "mmseg")
    theirs = _checkpoints.write(entries("pspnet", 5, {"stem": "v1c"}), "mmseg")
    theirs |= {f"backbone.layer3.{block}.conv1.weight": torch.ones(1) for block in range(36)}
    with pytest.raises(ValueError, match="has 36 basic blocks in layer3; ours are resnet18"):
        _checkpoints.describe(theirs, "mmseg")
    for layout, backbones in ((aicsd, "ResNet or MobileNetV2"), (unimatch, "ResNet or Xception-65")):
        with pytest.raises(ValueError, match=f"{backbones} backbone only"):
            layout.describe({"backbone.block1.rep.0.conv1.weight": torch.zeros(1)})


def test_aicsds_file_holds_the_mobilenetv2_twice():
    theirs = _checkpoints.write(entries("deeplabv3plus", 5, AICSD | {"backbone": "mobilenetv2_100"}), "aicsd")
    assert len(theirs) == 668
    for alias, key in {
        "backbone.low_level_features.3.conv.0.weight": "backbone.features.3.conv.0.weight",
        "backbone.high_level_features.17.conv.7.bias": "backbone.features.17.conv.7.bias",
    }.items():
        assert theirs[alias] is theirs[key]
    # as their code, which loads both into the same tensor one after the other
    theirs["backbone.high_level_features.17.conv.7.bias"] = torch.full((320,), -7.0)
    assert aicsd.read(theirs)["backbone.blocks.6.0.bn3.bias"].unique() == -7


def test_unimatchs_xception_and_its_imagenet_file(same):
    ours = entries("deeplabv3plus", 5, UNIMATCH | {"backbone": "xception65"})
    encoder = {k.removeprefix("backbone."): x for k, x in unimatch.write(ours).items() if k.startswith("backbone.")}
    assert {"block20.skipbn.weight", "block1.sepconv3.pointwise.weight"} <= encoder.keys()
    assert not any("blocks" in name for name in encoder)
    found = unimatch.backbone(encoder | {"itr": torch.zeros(1), "fc.weight": torch.zeros(1000, 2048)})
    own = {k.removeprefix("backbone."): x for k, x in ours.items() if k.startswith("backbone.")}
    assert same(found, {key: x for key, x in own.items() if not key.endswith("num_batches_tracked")})
    assert unimatch.backbone({"conv1.weight": torch.zeros(1)}) is None


def written(layout, args):
    """The shapes of a UPerNet's entries under another code's names."""
    theirs = _checkpoints.write(entries("upernet", 19, args), layout)
    return {key: tuple(value.shape) for key, value in theirs.items()}


def test_entries_of_cirkds_lite_upernet():
    """Its head with ResNet-18 and 19 classes, entry by entry."""
    state = written("cirkd", CIRKD_UPER | {"width": 128, "aux_width": 64})
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


def test_entries_of_mmsegmentations_uper_head():
    state = written("mmseg", MMSEG | {"stem": "v1c", "width": 512})
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
