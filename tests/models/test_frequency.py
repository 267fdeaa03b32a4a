"""The band filter against a transform written out, waves it is known on, and the gradient where its modulus is 0."""

import numpy as np
import pytest
import torch
from torch import nn

from segkd.models._frequency import BandFilter, FrequencyAttention, FrequencySqueeze


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(0))


def dft(side):
    """(side, side) matrix of the transform whose rows are frequencies -side // 2 ... in rising order."""
    place = np.arange(side)
    return np.exp(-2j * np.pi * np.outer(place - side // 2, place) / side)


def written_out(x, band, cutoff, center="released"):
    """The filter on one map (h, w): centred spectrum, centre at (side - 1) // 2 as in the released source, or at 0."""
    height, width = x.shape
    y0, z0 = ((side - 1) // 2 if center == "released" else side // 2 for side in x.shape)
    rows, columns = dft(height), dft(width)
    spectrum = rows @ x @ columns.T
    for y in range(height):
        for z in range(width):
            low = np.exp(-((y - y0) ** 2 + (z - z0) ** 2) / (2 * cutoff**2))
            spectrum[y, z] *= low if band == "low" else 1 - low
    return np.abs(rows.conj().T @ spectrum @ columns.conj()) / (height * width)


@pytest.mark.parametrize("center", ["released", "dc"])
@pytest.mark.parametrize("band", ["low", "high"])
@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 5), (7, 9), (1, 2)])
def test_filter_is_the_written_out_one(band, size, center):
    x = rand(2, 3, *size)
    r = BandFilter(band, cutoff=2.0, center=center)(x)
    for image in range(2):
        for channel in range(3):
            expected = written_out(x[image, channel].numpy(), band, 2.0, center)
            np.testing.assert_allclose(r[image, channel], expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("size", [(8, 6), (7, 10), (8, 5), (9, 7)])
def test_a_wave_keeps_the_share_of_its_frequency(size):
    height, width = size
    y = torch.arange(height, dtype=torch.float64)[:, None] / height
    z = torch.arange(width, dtype=torch.float64) / width
    wave = (2 * torch.pi * (2 * y - z)).cos()[None, None]
    low = np.exp(-(2**2 + 1**2) / (2 * 3.0**2))
    for band, share in (("low", low), ("high", 1 - low)):
        r = BandFilter(band, cutoff=3.0, center="dc")(wave)
        assert torch.allclose(r, share * wave.abs(), rtol=1e-12, atol=1e-13)


def test_units_of_the_cutoff():
    x = rand(1, 2, 8, 8)
    assert torch.equal(BandFilter("low", 0.25, "cycles_per_pixel")(x), BandFilter("low", 2.0)(x))
    # the same texture, a cycle per 8 pixels, on a map and on one of twice its side
    passed = {unit: [] for unit in ("cycles_per_pixel", "cycles_per_map")}
    for side in (16, 32):
        wave = (2 * torch.pi * torch.arange(side, dtype=torch.float64) / 8).cos().expand(1, 1, side, side)
        for unit, cutoff in (("cycles_per_pixel", 0.1), ("cycles_per_map", 1.6)):
            passed[unit].append(BandFilter("low", cutoff, unit, "dc")(wave).max().item())
    assert passed["cycles_per_pixel"] == pytest.approx([np.exp(-((1 / 8) ** 2) / 0.02)] * 2)
    assert passed["cycles_per_map"] == pytest.approx([np.exp(-(2**2) / 5.12), np.exp(-(4**2) / 5.12)])


@pytest.mark.parametrize("center", ["released", "dc"])
@pytest.mark.parametrize("band", ["low", "high"])
def test_gradient_is_finite_where_nothing_passes(band, center):
    x = torch.zeros(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(BandFilter(band, center=center)(x).sum(), x)
    assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("center", ["released", "dc"])
def test_gradient(center):
    x = rand(1, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(BandFilter("high", 2.0, center=center), x)


@pytest.mark.parametrize("center", ["released", "dc"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_raised(center, dtype):
    x = rand(1, 2, 6, 6).to(dtype)
    r = BandFilter("low", 2.0, center=center)(x)
    assert r.dtype == torch.float32
    assert torch.equal(r, BandFilter("low", 2.0, center=center)(x.float()))
    attention = FrequencyAttention(2, 3, BandFilter("low", center=center)).to(dtype)
    assert attention(x).dtype == dtype


def test_no_cutoff_above_half_a_cycle_per_pixel():
    with pytest.raises(ValueError, match="cutoff must be at most 0.5 cycles_per_pixel, got 10.0"):
        BandFilter("low", 10.0, "cycles_per_pixel")


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_attention_is_its_formula(skip, norm):
    module = FrequencyAttention(4, 3, BandFilter("high", 2.0), skip=skip, norm=norm).double().eval()
    x = rand(2, 4, 6, 5)
    r = np.array([[written_out(channel.numpy(), "high", 2.0) for channel in image] for image in x])
    mean = torch.from_numpy(r.mean(axis=(2, 3)))
    a = 1 / (1 + (-mean @ module.conv_atten.weight[:, :, 0, 0].T).exp())
    chosen = x * a[..., None, None] + (x if skip else 0)
    weight = (module.conv.conv if norm else module.conv).weight[:, :, 0, 0]
    expected = torch.einsum("oc,bchw->bohw", weight, chosen)
    if norm:
        expected = (expected / (1 + 1e-5) ** 0.5).clamp(min=0)
    assert torch.allclose(module(x), expected, rtol=1e-10, atol=1e-12)


def test_squeeze_is_its_formula():
    module = FrequencySqueeze(8, BandFilter("low", 2.0, center="dc"), reduction=4).double()
    x = rand(2, 8, 5, 4)
    mean = module.band_filter(x).mean(dim=(2, 3))
    hidden = (mean @ module.fc[0].weight.T).clamp(min=0)
    expected = x / (1 + (-hidden @ module.fc[2].weight.T).exp())[..., None, None]
    assert torch.allclose(module(x), expected, rtol=1e-12, atol=1e-14)
    assert [*module.state_dict()] == ["fc.0.weight", "fc.2.weight"]


def test_keys_and_initial_weights():
    torch.manual_seed(0)
    attention = FrequencyAttention(256, 64, BandFilter("low"))
    assert [*attention.state_dict()] == ["conv_atten.weight", "conv.weight"]
    for weight in attention.parameters():  # Kaiming normal of gain 1 over 256 inputs
        assert weight.std().item() == pytest.approx(1 / 16, rel=0.03)
    block = FrequencyAttention(4, 3, BandFilter("low"), norm=True)
    assert isinstance(block.conv.bn, nn.BatchNorm2d)


def test_autocast_runs_forward_and_backward():
    attention = FrequencyAttention(4, 3, BandFilter("high"))
    x = rand(2, 4, 6, 6).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attention(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), attention(x), rtol=0.05, atol=0.05)
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in attention.parameters())
