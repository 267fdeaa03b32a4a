"""Whole-image and sliding-window scores against naive versions of themselves."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segkd.models._prediction import Normalize, Prediction
from segkd.runner.scoring import inference
from segkd.runner.scoring.inference import predict


class Strided(nn.Module):
    """A stride-4 convolution after the normalisation: windows' borders and the padding both show in its scores."""

    def __init__(self, align_corners=False, normalize="none"):
        super().__init__()
        torch.manual_seed(0)
        self.normalize = Normalize.named(normalize)
        self.conv = nn.Conv2d(3, 5, 5, stride=4, padding=2)
        self.align_corners = align_corners
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        return Prediction(self.conv(self.normalize(images)), self.align_corners)


def photo(height, width, batch=2):
    return torch.randint(256, (batch, 3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def resized(logits, size, align_corners):
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)


def slide_by_loop(network, images, window, stride):
    """Overlap-averaged scores at image size, one dictionary entry per pixel sum."""
    height, width = images.shape[-2:]
    total, count = torch.zeros(len(images), 5, height, width), torch.zeros(height, width)
    for i in range(math.ceil((height - window[0]) / stride[0]) + 1):
        for j in range(math.ceil((width - window[1]) / stride[1]) + 1):
            y, x = min(i * stride[0], height - window[0]), min(j * stride[1], width - window[1])
            area = (slice(y, y + window[0]), slice(x, x + window[1]))
            logits = network(images[..., area[0], area[1]]).logits
            total[..., area[0], area[1]] += resized(logits, window, network.align_corners)
            count[area] += 1
    assert count.min() > 0
    return total / count


@pytest.mark.parametrize("align_corners", [False, True])
def test_whole_is_one_resize(align_corners):
    network, images = Strided(align_corners), photo(17, 25)
    result = predict(network, images, (34, 50))
    assert result.dtype == torch.float32 and not result.requires_grad
    torch.testing.assert_close(result, resized(network(images).logits, (34, 50), align_corners).detach())


def test_softmax_average():
    network, images = Strided(), photo(17, 25)
    result = predict(network, images, (17, 25), average="softmax")
    torch.testing.assert_close(result, predict(network, images, (17, 25)).softmax(1))
    torch.testing.assert_close(result.sum(1), torch.ones(2, 17, 25))


@pytest.mark.parametrize("size, window, stride", [((20, 33), (12, 16), (8, 11)), ((16, 16), (16, 16), (4, 4))])
def test_slide_is_the_loop(size, window, stride):
    network, images = Strided(True), photo(*size)
    wanted = slide_by_loop(network, images, window, stride).detach()
    torch.testing.assert_close(predict(network, images, size, mode="slide", window=window, stride=stride), wanted)
    larger = (size[0] * 2, size[1] * 2)
    result = predict(network, images, larger, mode="slide", window=window, stride=stride)
    torch.testing.assert_close(result, resized(wanted, larger, True))


def test_default_stride_is_two_thirds_rounded_up():
    network = Strided()
    predict(network, photo(32, 32), (32, 32), mode="slide", window=(16, 15))
    # strides 11 and 10: ceil(16 / 11) + 1 rows, ceil(17 / 10) + 1 columns
    assert network.seen == [(16, 15)] * 3 * 3


@pytest.mark.parametrize("normalize", ["imagenet", "cirkd", "none"])
def test_small_images_are_padded_with_the_mean_colour(normalize):
    network, images = Strided(normalize=normalize), photo(9, 20)
    result = predict(network, images, (9, 20), mode="slide", window=(16, 16), stride=(16, 16))
    normalised = F.pad(network.normalize(images), (0, 0, 3, 4))
    network.normalize = nn.Identity()
    wanted = slide_by_loop(network, normalised, (16, 16), (16, 16))[:, :, 3:12]
    torch.testing.assert_close(result, wanted.detach(), rtol=1e-4, atol=1e-3)


def test_scales_and_flip_are_averaged():
    network, images = Strided(), photo(16, 24)
    views = []
    for scale in (0.5, 1.0, 1.5):
        shape = (int(16 * scale), int(24 * scale))
        view = F.interpolate(images.float(), size=shape, mode="bilinear", align_corners=False)
        for mirrored in (False, True):
            logits = network(view.flip(-1) if mirrored else view).logits
            logits = resized(logits, (16, 24), False)
            views.append(logits.flip(-1) if mirrored else logits)
    result = predict(network, images, (16, 24), scales=(0.5, 1.0, 1.5), flip=True)
    torch.testing.assert_close(result, torch.stack(views).mean(0).detach())


def test_a_symmetric_image_scores_symmetrically_under_flip():
    network, images = Strided(), photo(16, 24)
    images = torch.cat([images, images.flip(-1)], dim=-1)
    result = predict(network, images, (16, 48), mode="slide", window=(16, 16), flip=True)
    torch.testing.assert_close(result, result.flip(-1))


def test_the_network_output_is_not_written_to():
    class Constant(nn.Module):
        logits = torch.ones(1, 2, 8, 8)

        def forward(self, images):
            return Prediction(self.logits)

    predict(Constant(), photo(8, 8, batch=1), (8, 8), flip=True)
    assert torch.equal(Constant.logits, torch.ones(1, 2, 8, 8))


@pytest.mark.parametrize("align_corners", [False, True, None])
def test_two_resizes_go_by_way_of_the_image_size(align_corners):
    network, images = Strided(True), photo(17, 25)
    aligned = True if align_corners is None else align_corners
    wanted = resized(resized(network(images).logits, (17, 25), aligned), (40, 60), aligned).detach()
    torch.testing.assert_close(predict(network, images, (40, 60), resizes=2, align_corners=align_corners), wanted)
    once = predict(network, images, (40, 60), align_corners=align_corners)
    torch.testing.assert_close(once, resized(network(images).logits, (40, 60), aligned).detach())
    assert not torch.allclose(once, wanted)


def test_halves_are_put_together_before_the_resize():
    network, images = Strided(True), photo(16, 32)
    halves = torch.cat([network(images[..., :16]).logits, network(images[..., 16:]).logits], dim=-1)
    result = predict(network, images, (32, 64), mode="halves")
    assert network.seen[2:] == [(16, 16)] * 2
    torch.testing.assert_close(result, resized(halves, (32, 64), True).detach())
    assert not torch.allclose(result, predict(network, images, (32, 64)))


def test_windows_shrink_to_a_small_image():
    network, images = Strided(normalize="imagenet"), photo(9, 20)
    slide = {"mode": "slide", "window": (16, 12), "stride": (16, 8), "smaller": "shrink"}
    wanted = slide_by_loop(network, images, (9, 12), (16, 8)).detach()
    torch.testing.assert_close(predict(network, images, (9, 20), **slide), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("at_once", [1, 2 * 2 * 61 * 90, 2**21], ids=["one class", "two classes", "all"])
def test_classes_are_the_argmax_of_resized_logits_to_the_pixel(monkeypatch, at_once, align_corners):
    monkeypatch.setattr(inference, "AT_ONCE", at_once)
    network, images = Strided(align_corners), photo(17, 25)
    logits = torch.randn(2, 5, 5, 7, generator=torch.Generator().manual_seed(0))
    logits[:, 3] = logits[:, 1]  # a tie is the first one's
    given = logits.to(memory_format=torch.channels_last)
    monkeypatch.setattr(network, "forward", lambda images: Prediction(given, align_corners))
    found = predict(network, images, (61, 90), classes=True)
    assert found.dtype == torch.int64 and found.unique().tolist() == [0, 1, 2, 4]
    assert torch.equal(found, resized(logits, (61, 90), align_corners).argmax(1))
    twice = resized(resized(logits, (17, 25), align_corners), (61, 90), align_corners)
    assert torch.equal(predict(network, images, (61, 90), resizes=2, classes=True), twice.argmax(1))


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "halves"},
        {"mode": "slide", "window": (16, 12)},
        {"scales": (1.5,)},
        {"scales": (0.5, 1.0), "flip": True},
        {"average": "softmax"},
    ],
    ids=str,
)
def test_classes_are_those_of_the_scores_however_they_are_made(monkeypatch, settings):
    monkeypatch.setattr(inference, "AT_ONCE", 1)
    network, images = Strided(), photo(17, 25).contiguous(memory_format=torch.channels_last)
    scores = predict(network.to(memory_format=torch.channels_last), images, (34, 50), **settings)
    assert torch.equal(predict(network, images, (34, 50), classes=True, **settings), scores.argmax(1))


def test_errors():
    network, images = Strided(), photo(16, 16)
    with pytest.raises(ValueError, match="mode slide needs a window"):
        predict(network, images, (16, 16), mode="slide")
    with pytest.raises(ValueError, match=r"stride \(9, 4\) must lie in 1..window \(8, 8\)"):
        predict(network, images, (16, 16), mode="slide", window=(8, 8), stride=(9, 4))
