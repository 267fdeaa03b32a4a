"""Normalisation by hand, and what a prediction does with its own scores."""

import pytest
import torch
import torch.nn.functional as F

from segkd.models._prediction import CONSTANTS, Normalize, Prediction, resize

PIXEL = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1)  # red, green, blue


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet", [(10 - 123.675) / 58.395, (100 - 116.28) / 57.12, (200 - 103.53) / 57.375]),
        ("cirkd", [200 - 104.00698793, 100 - 116.66876762, 10 - 122.67891434]),
        ("unit", [10 / 255, 100 / 255, 200 / 255]),
        ("none", [10.0, 100.0, 200.0]),
    ],
)
def test_normalize_by_hand(name, expected):
    normalize = Normalize.named(name)
    for image in (PIXEL, PIXEL.float()):
        out = normalize(image)
        assert out.dtype == torch.float32
        assert out.flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert normalize.double()(PIXEL).dtype == torch.float64


def test_normalize_leaves_no_keys_and_its_input_alone():
    normalize = Normalize.named("cirkd")
    image = PIXEL.float()
    normalize(image)
    assert torch.equal(image, PIXEL.float())
    assert normalize.state_dict() == {}


def test_normalize_errors():
    with pytest.raises(ValueError, match=f"no constants called 'coco'; there are: {', '.join(CONSTANTS)}"):
        Normalize.named("coco")
    with pytest.raises(ValueError, match="order must be rgb or bgr, got 'grb'"):
        Normalize((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "grb")
    with pytest.raises(ValueError, match="std above 0"):
        Normalize((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="three values each"):
        Normalize((0.0,), (1.0,))


@pytest.mark.parametrize("align_corners", [False, True])
def test_resized_logits(align_corners):
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    prediction = Prediction(logits, align_corners)
    expected = F.interpolate(logits, (9, 7), mode="bilinear", align_corners=align_corners)
    assert torch.equal(prediction.resized((9, 7)), expected)
    if align_corners:  # the corners of the map are the corners of the image
        rows, columns = [0, 0, -1, -1], [0, -1, 0, -1]
        assert torch.allclose(expected[..., rows, columns], logits[..., rows, columns])
    half = Prediction(logits.bfloat16(), align_corners).resized((9, 7))
    assert half.dtype == torch.float32
    assert torch.equal(half, Prediction(logits.bfloat16().float(), align_corners).resized((9, 7)))


def test_resize_to_the_same_size_is_free():
    x = torch.randn(1, 2, 3, 4)
    assert resize(x, (3, 4), align_corners=True) is x
    assert Prediction(x).resized(x.shape[-2:]) is x
