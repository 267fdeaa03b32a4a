"""ONNX files and torch.export programs compute what the network computes, at any size only where that is right."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkd.models._efficientvit import attend
from segkd.models._prediction import Normalize, Prediction
from segkd.runner.exporting.agreement import PlainScores, compare
from segkd.runner.exporting.programs import write_onnx, write_program


class Small(nn.Module):
    """A network of two layers; `pool` with an adaptive pooling into 2 x 2, which ONNX has for known sizes only."""

    def __init__(self, pool):
        super().__init__()
        torch.manual_seed(0)
        self.normalize = Normalize.named("cirkd")
        self.conv, self.pool = nn.Conv2d(3, 4, 3, stride=4, padding=1), pool

    def forward(self, images):
        x = self.conv(self.normalize(images))
        if self.pool:
            x = x + F.interpolate(F.adaptive_avg_pool2d(x, 2), size=x.shape[-2:], mode="bilinear")
        return Prediction(x, align_corners=True)


def images_of(height, width, batch=2):
    return torch.randint(
        0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def test_torch_program_takes_any_size(tmp_path):
    written = write_program(Small(pool=True), tmp_path / "small.pt2", (32, 48))
    assert written.remark == "any batch size and size" and len(written.agreement.shapes) == 3
    loaded, images = torch.export.load(tmp_path / "small.pt2").module(), images_of(41, 30, batch=1)
    assert torch.allclose(loaded(images), PlainScores(Small(pool=True))(images), atol=1e-4)


def test_a_program_holds_what_its_scores_need_and_no_more(tmp_path):
    whole = Small(pool=False)
    whole.aux_head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))  # runs in training alone
    needed = {f"network.{name}" for name in whole.state_dict() if not name.startswith("aux_head")}
    write_program(whole, tmp_path / "small.pt2", (32, 48))
    program, images = torch.export.load(tmp_path / "small.pt2"), images_of(41, 30)
    assert set(program.state_dict) == needed and "network.conv.weight" in needed
    assert torch.allclose(program.module()(images), PlainScores(whole)(images), atol=1e-4)


def test_onnx_takes_any_size_only_where_that_is_right(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write_onnx(Small(pool=False), tmp_path / "any.onnx", (32, 48))
    session, images = onnxruntime.InferenceSession(tmp_path / "any.onnx"), images_of(41, 30)
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    found = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    assert torch.allclose(found, PlainScores(Small(pool=False))(images), atol=1e-2)  # of scores around 100
    written = write_onnx(Small(pool=True), tmp_path / "one.onnx", (36, 44))
    assert written.remark.startswith("any batch size, this size only (as it cannot be traced for any: ")
    assert onnxruntime.InferenceSession(tmp_path / "one.onnx").get_inputs()[0].shape == ["batch", 3, 36, 44]


class Choosy(Small):
    """A network that does not read some sizes: below 28 pixels, or with `only` another one."""

    def __init__(self, only=None):
        super().__init__(pool=False)
        self.only, self.conv = only, nn.Conv2d(3, 4, 28, stride=2)

    def forward(self, images):
        if self.only and tuple(images.shape[-2:]) != self.only:
            raise AssertionError("is not\nof the size")
        return super().forward(images)


def test_further_sizes_are_those_that_the_network_reads(tmp_path):
    written = write_program(Choosy(), tmp_path / "choosy.pt2", (32, 32))
    assert written.remark == "any batch size and size" and not written.is_fixed
    assert written.agreement.shapes == [(1, 32, 32), (2, 43, 37), (3, 37, 43)]
    written = write_program(Choosy(only=(32, 32)), tmp_path / "only.pt2", (32, 32))
    assert written.remark == (
        "any batch size, this size only (as it cannot be traced for any: the network does not take 43x37: is not)"
    )
    assert written.is_fixed, "whatever was asked for"
    asked = write_program(Choosy(), tmp_path / "asked.pt2", (32, 32), fixed_size=True)
    assert asked.remark.endswith("size only") and asked.is_fixed


class Padding(Choosy):
    """A network that pads images below 28 pixels, which a program traced at larger ones does not."""

    def read_size(self, size):
        return None if size[0] >= 28 and size[1] >= 28 else (max(size[0], 28), max(size[1], 28))

    def forward(self, images):
        padded = self.read_size(images.shape[-2:])
        if padded:
            images = F.pad(images, (0, padded[1] - images.shape[-1], 0, padded[0] - images.shape[-2]))
        return super().forward(images)


def test_a_program_says_from_which_size_on_it_is_right(tmp_path):
    written = write_program(Padding(), tmp_path / "padding.pt2", (32, 32))
    assert written.remark == "any batch size and size of at least 28x28"


class Attention(nn.Module):
    """Attention of maps that have no positive query at all, as a trained network's have here and there."""

    def __init__(self):
        super().__init__()
        self.align_corners = False

    def forward(self, images):
        maps = images.float().flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1, N, 3)
        attended = attend(F.relu(-maps), maps, F.pad(maps, (0, 1), value=1.0))
        return Prediction(attended.squeeze(1).transpose(1, 2).reshape(images.shape), align_corners=False)


def test_attention_without_weights_is_zero_in_onnx_too(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write_onnx(Attention(), tmp_path / "attention.onnx", (8, 8), fixed_size=True)
    session = onnxruntime.InferenceSession(tmp_path / "attention.onnx")
    assert not session.run(["logits"], {"images": images_of(8, 8).numpy()})[0].any()


def test_onnx_without_its_packages_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[export\]"'):
        write_onnx(Small(pool=False), tmp_path / "any.onnx", (32, 48))


def test_a_difference_is_found():
    network = Small(pool=False)
    with pytest.raises(ValueError, match="scores differ"):
        compare(PlainScores(network), lambda images: PlainScores(network)(images) + 10, [(1, 32, 48)])
    with pytest.raises(ValueError, match="nan"):
        compare(PlainScores(network), lambda images: PlainScores(network)(images) * float("nan"), [(1, 32, 48)])
