"""Xception-65 against the original's order of steps, with the ReLU that overwrites its input, on the same weights."""

import pytest
import torch
import torch.nn.functional as F

from segkd.models._xception import Xception


def random_backbone(output_stride):
    generator = torch.manual_seed(0)
    backbone = Xception("xception65", output_stride).double().eval()
    for name, tensor in backbone.state_dict().items():
        if tensor.dim() == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5 * ("mean" not in name))
    return backbone


class Original:
    """The steps one by one; maps that the original overwrites are overwritten."""

    def __init__(self, state, dilation):
        self.state, self.dilation = state, dilation

    def norm(self, x, key):
        s = self.state
        stats = s[f"{key}.running_mean"], s[f"{key}.running_var"]
        return F.batch_norm(x, *stats, s[f"{key}.weight"], s[f"{key}.bias"])

    def separable(self, x, key, stride=1, dilation=1, relus=False):
        weight = self.state[f"{key}.depthwise.weight"]
        x = F.conv2d(x, weight, None, stride, dilation, dilation, groups=len(weight))
        x = self.norm(x, f"{key}.bn1")
        x = F.relu(x) if relus else x
        x = self.norm(F.conv2d(x, self.state[f"{key}.pointwise.weight"]), f"{key}.bn2")
        return F.relu(x) if relus else x

    def block(self, x, number, stride):
        """Block 1 to 20, and the map behind its second convolution."""
        key, dilation = f"blocks.{number - 1}", self.dilation if number > 3 else 1
        if f"{key}.skip.weight" in self.state:
            skip = self.norm(F.conv2d(x, self.state[f"{key}.skip.weight"], None, stride), f"{key}.skipbn")
            x = F.relu(x)
        else:
            skip = x
            x = x.relu_()
        x = self.separable(x, f"{key}.sepconv1", 1, dilation)
        middle = self.separable(F.relu(x), f"{key}.sepconv2", 1, dilation)
        x = self.separable(F.relu(middle), f"{key}.sepconv3", stride, dilation)
        return x + skip, middle


@pytest.mark.parametrize("output_stride", [8, 16])
def test_steps(output_stride):
    backbone = random_backbone(output_stride)
    x = torch.randn(1, 3, 17, 33, dtype=torch.float64, generator=torch.manual_seed(1))
    strides = {1: 2, 2: 2, 3: output_stride // 8}
    with torch.no_grad():
        found = backbone(x, set())
        original = Original(backbone.state_dict(), 16 // output_stride)
        x = F.relu(original.norm(F.conv2d(x, original.state["conv1.weight"], None, 2, 1), "bn1"))
        x = F.relu(original.norm(F.conv2d(x, original.state["conv2.weight"], None, 1, 1), "bn2"))
        for number in range(1, 21):
            x, middle = original.block(x, number, strides.get(number, 1))
            if number == 2:
                assert torch.allclose(found["stage1"], middle, rtol=1e-10, atol=1e-10) and middle.min() < 0
        for key in ("conv3", "conv4", "conv5"):
            x = original.separable(x, key, 1, original.dilation, relus=True)
    assert (found["stage4"] - x).abs().max() < 1e-9 * x.std()
    for stage, feature in found.items():
        stride = backbone.strides[stage]
        assert feature.shape == (1, backbone.channels[stage], -(-17 // stride), -(-33 // stride))


def test_batch_norms():
    with torch.device("meta"):
        backbone = Xception("xception65", 32)
    assert {m.momentum for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {3e-4}
    assert backbone.norms["stage1"][0] is backbone.blocks[1].sepconv2.bn2.weight
    assert backbone.strides == {"stage1": 4, "stage2": 8, "stage3": 16, "stage4": 32}
