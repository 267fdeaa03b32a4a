"""The UPer head in both arrangements, against transformers' and against its definition written out; the network."""

import torch
import torch.nn.functional as F
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetHead

from segkd.models._layouts._layout import Renaming
from segkd.models._upernet_head import UPerHead
from segkd.models.upernet import UPerNet

CHANNELS = (3, 4, 5, 6)
SIZES = ((17, 25), (9, 13), (9, 13), (5, 7))


def maps():
    generator = torch.manual_seed(3)
    return [torch.randn(2, c, *s, dtype=torch.float64, generator=generator) for c, s in zip(CHANNELS, SIZES)]


def filled(module):
    """In double precision, with no parameter or buffer left at a special value."""
    generator = torch.manual_seed(1)
    for tensor in (*module.double().parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = 0.1 + torch.rand(tensor.shape, dtype=torch.float64, generator=generator)
            if tensor.ndim == 4:
                tensor.data -= 0.6
    return module.eval()


def small(**args):
    torch.manual_seed(0)
    return UPerNet(5, **({"backbone": "mobilenetv2_035", "width": 16} | args))


def test_head_is_that_of_transformers():
    head = filled(UPerHead(CHANNELS, 8))
    theirs = UperNetHead(UperNetConfig(hidden_size=8, num_labels=2, backbone_config={"model_type": "resnet"}), CHANNELS)
    names = [
        ("psp_modules.#.1.batch_norm.*", "pyramid.levels.#.conv.bn.*"),
        ("psp_modules.#.1.*", "pyramid.levels.#.conv.*"),
        ("bottleneck.batch_norm.*", "pyramid.project.bn.*"),
        ("bottleneck.*", "pyramid.project.*"),
        ("lateral_convs.#.batch_norm.*", "laterals.#.bn.*"),
        ("lateral_convs.#.*", "laterals.#.*"),
        ("fpn_convs.#.batch_norm.*", "outputs.#.bn.*"),
        ("fpn_convs.#.*", "outputs.#.*"),
        ("fpn_bottleneck.batch_norm.*", "fuse.bn.*"),
        ("fpn_bottleneck.*", "fuse.*"),
    ]
    theirs.classifier = torch.nn.Identity()
    theirs.double().eval().load_state_dict(Renaming(names).to_theirs(head.state_dict()))
    expected, found = theirs(maps()), head(maps())
    assert (expected - found).abs().max() < 1e-12 * expected.std()


def test_head_in_cirkds_arrangement():
    """Pool, resize, then 1x1; the last 3x3 with stride 2: step by step with plain functions."""
    head = filled(UPerHead(CHANNELS, 8, arrangement="cirkd", align_corners=True))
    state = head.state_dict()

    def cbr(x, conv, bn, stride=1):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        norm = [state[f"{bn}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return F.relu(F.batch_norm(x, *norm))

    def to(x, size):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    f1, f2, f3, f4 = maps()
    pooled = [f4]
    for i, bins in enumerate((1, 2, 3, 6)):
        level = to(F.adaptive_avg_pool2d(f4, bins), SIZES[3])
        pooled.append(cbr(level, f"pyramid.levels.{i}.conv", f"pyramid.levels.{i}.bn"))
        assert pooled[-1].shape[1] == 512
    level = cbr(torch.cat(pooled, 1), "pyramid.project.conv", "pyramid.project.bn")
    levels = [to(level, SIZES[0])]
    for i, x in ((2, f3), (1, f2), (0, f1)):
        level = cbr(x, f"laterals.{i}.conv", f"laterals.{i}.bn") + to(level, SIZES[i])
        levels = [to(cbr(level, f"outputs.{i}.conv", f"outputs.{i}.bn"), SIZES[0])] + levels
    expected = cbr(torch.cat(levels, 1), "fuse.conv", "fuse.bn", stride=2)
    found = head(maps())
    assert found.shape == (2, 8, 9, 13)
    assert (expected - found).abs().max() < 1e-12 * expected.std()


def test_cirkd_drops_before_the_auxiliary_classifier_only(images):
    net = small(dropout=0.5, arrangement="cirkd", dropout_kind="elements").train()
    net.features_wanted = {"decoder", "head"}
    features = net(images()).features
    assert torch.equal(features["head"], features["decoder"])
    assert isinstance(net.aux_head.dropout, torch.nn.Dropout) and net.aux_head.dropout.p == 0.5


def test_published_widths():
    """ResNet-50 as in mmsegmentation, layer by layer, and CIRKD's lite network."""
    with torch.device("meta"):
        net = UPerNet(19, backbone="resnet50", stem="v1c")
        lite = UPerNet(19, output_stride=8, stem="v1s", arrangement="cirkd", width=128)
    pyramid = 4 * 2048 * 512 + 9 * (2048 + 4 * 512) * 512
    levels = (256 + 512 + 1024) * 512 + 3 * 9 * 512 * 512
    norms = 2 * 512 * (4 + 1 + 3 + 3 + 1)
    assert sum(p.numel() for p in net.head.parameters()) == pyramid + levels + 9 * 2048 * 512 + norms
    assert net.aux_head.conv.conv.out_channels == 256
    assert lite.aux_head.conv.conv.out_channels == 64 and lite.channels["head"] == 128
