"""The arrangements of DeepLabV3+: sizes, dropouts, initial weights, and the maps an overhaul reads."""

import pytest
import torch
from torch import nn

from segkd.losses._task import Features, Task
from segkd.losses.overhaul import Overhaul
from segkd.models.deeplabv3plus import DeepLabV3Plus

AICSD = {"arrangement": "aicsd", "output_stride": 16, "dilation_rule": "aicsd"}
UNIMATCH = {"arrangement": "unimatch", "output_stride": 16, "stem": "v1s"}
ENDS = ("aspp_pre", "decoder_pre")
RESNET_FEATURES = ("stage1_pre", "stage2_pre", "stage3_pre", "stage4_pre", *ENDS)
MOBILENET_FEATURES = ("stage1_expand", "stage2_expand", "stage3_expand", "stage4", *ENDS)


def small(**args):
    torch.manual_seed(0)
    return DeepLabV3Plus(5, **({"width": 16} | args))


def test_what_the_arrangements_decide():
    with torch.device("meta"):
        mmseg = DeepLabV3Plus(5)
        aicsd = DeepLabV3Plus(5, **AICSD)
        unimatch = DeepLabV3Plus(5, **UNIMATCH)
    shares = [[net.projection_dropout, net.decoder_dropout, net.dropout] for net in (mmseg, aicsd, unimatch)]
    assert [[dropout.p for dropout in net] for net in shares] == [[0, 0, 0.1], [0.5, 0.5, 0.1], [0, 0, 0]]
    assert {type(dropout) for dropout in shares[0]} == {nn.Dropout2d}
    assert {type(dropout) for dropout in shares[1]} == {nn.Dropout}
    assert [net.align_corners for net in (mmseg, aicsd, unimatch)] == [False, True, True]
    assert [net.has_aux for net in (mmseg, aicsd, unimatch)] == [True, False, False]
    assert [net.aspp.project.conv.kernel_size[0] for net in (mmseg, aicsd, unimatch)] == [3, 1, 1]
    assert [net.channels["head"] for net in (mmseg, aicsd, unimatch)] == [128, 256, 256]


def test_arguments_win_over_the_arrangement(images):
    net = small(**AICSD, separable=True, aux=True, projection_dropout=0.0, dropout=0.3, align_corners=False)
    assert net.has_aux and hasattr(net.decoder[0], "pointwise") and net.channels["decoder"] == 16
    assert (net.projection_dropout.p, net.decoder_dropout.p, net.dropout.p) == (0, 0.5, 0.3)
    assert net.align_corners is False and net.eval()(images()).align_corners is False


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("args", [{}, AICSD, UNIMATCH])
def test_maps_before_relu(args, output_stride, images):
    net = small(**args | {"output_stride": output_stride}).eval()
    plain = net(images()).logits
    net.features_wanted = {*RESNET_FEATURES, *(name.removesuffix("_pre") for name in RESNET_FEATURES)}
    prediction = net(images())
    assert torch.equal(prediction.logits, plain)
    for name in RESNET_FEATURES:
        before = prediction.features[name]
        assert before.min() < 0
        assert torch.equal(prediction.features[name.removesuffix("_pre")], before.clamp(min=0))
        assert net.norms[name][0].shape == (net.channels[name],) == (before.shape[1],)
    assert (net.strides["aspp_pre"], net.strides["decoder_pre"]) == (output_stride, 4)


@pytest.mark.parametrize("args", [{}, AICSD])
def test_norms_are_those_before_the_relus(args, images):
    net = small(**args).eval()
    net.features_wanted = set(ENDS)
    with torch.no_grad():
        for name in ENDS:
            net.norms[name][0].zero_()
            net.norms[name][1].copy_(torch.arange(16) - 8.0)
        features = net(images()).features
    for name in ENDS:
        assert torch.equal(features[name], (torch.arange(16) - 8.0).view(1, -1, 1, 1).expand_as(features[name]))


def test_features_do_not_see_the_dropout_behind_them(images):
    net = small(**AICSD).train()
    net.features_wanted = {"aspp_pre", "aspp"}
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    one, two = net(images()), net(images())
    assert torch.equal(one.features["aspp"], two.features["aspp"])
    assert not torch.equal(one.logits, two.logits)
    for dropout in (net.projection_dropout, net.decoder_dropout, net.dropout):
        dropout.p = 0.0
    assert torch.equal(net(images()).logits, net.eval()(images()).logits)


def test_initial_weights():
    torch.manual_seed(0)
    net = DeepLabV3Plus(50, **AICSD)
    assert net.classifier.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.03)
    assert net.aspp.branches[1].conv.weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.02)
    assert 0 < net.classifier.bias.abs().max() <= 1 / 16
    net = DeepLabV3Plus(50, **UNIMATCH)
    bound = (1 / 256) ** 0.5  # torch's own: uniform, fan in
    assert 0.98 * bound < net.classifier.weight.abs().max() <= bound


def features_of(net):
    return Features(type(net).__name__, net.channels, net.strides, net.features_wanted, norms=net.norms)


@pytest.mark.parametrize(
    ("backbone", "names"), [("resnet18", RESNET_FEATURES), ("mobilenetv2_035", MOBILENET_FEATURES)]
)
def test_overhaul_reads_all_six(backbone, names, images):
    torch.manual_seed(0)
    student = small(**AICSD, backbone=backbone).train()
    teacher = small(**AICSD, backbone="resnet50").eval().requires_grad_(False)
    task = Task(5, 255, features_of(student), features_of(teacher))
    loss = Overhaul(task, features=names, teacher_features=RESNET_FEATURES, divisors=(8.0, 4.0, 2.0, 1.0, 1.0, 16.0))
    target = torch.zeros(2, 65, 97, dtype=torch.long)
    predictions = student(images()), teacher(images())
    for name, teacher_name in zip(names, RESNET_FEATURES):
        # no resize is needed
        assert predictions[0].features[name].shape[-2:] == predictions[1].features[teacher_name].shape[-2:]
    value = loss(*predictions, target)
    value.backward()
    assert value.isfinite() and value > 0
    without = {n.rpartition(".")[0] for n, p in student.named_parameters() if p.grad is None}
    assert without == {"classifier"}
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)
