"""Maps as bytes and back, against bare loops."""

import math

import pytest
import torch

from segkd.runner.building.stored_maps import Full, Largest, divergence


def noise(*shape, scale=5.0, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def there_and_back(form, maps):
    """What is read of (B, C, h, w) maps written one view after another."""
    rows = torch.stack([form.write(one[None]) for one in maps])
    assert rows.dtype == torch.uint8 and rows.shape == (len(maps), form.size)
    return form.read(rows)


def test_sixteen_bits_are_float16():
    maps = noise(3, 4, 5, 6).to(memory_format=torch.channels_last)
    found = there_and_back(Full((4, 5, 6), 16), maps)
    assert torch.equal(found, maps.half().float()) and found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    half = maps.bfloat16()
    assert torch.equal(there_and_back(Full((4, 5, 6), 16), half), half.float()), "bfloat16's digits fit"


def test_eight_bits_are_steps_of_each_channel_of_each_view():
    maps = noise(2, 3, 7, 5) * torch.tensor([1.0, 1e3, 1e-3]).view(3, 1, 1)
    maps[1, 0] = 4.25  # a channel that is the same everywhere
    form = Full((3, 7, 5), 8)
    found = there_and_back(form, maps)
    assert form.size == 3 * (8 + 35)
    for image in range(2):
        for channel in range(3):
            values, read = maps[image, channel], found[image, channel]
            step = (values.max() - values.min()) / 255
            assert (read - values).abs().max() <= 0.501 * step + 1e-6 * values.abs().max()
            assert read.min() == values.min() and len(read.unique()) <= 256
    assert (found[1, 0] == 4.25).all()


@pytest.mark.parametrize("classes, k, bits", [(6, 1, 16), (6, 3, 16), (19, 3, 8), (300, 5, 8)])
def test_the_largest_classes_and_the_mass_of_the_rest(classes, k, bits):
    scores, form = noise(2, classes, 2, 3, scale=3.0), Largest((classes, 2, 3), k, bits)
    found = there_and_back(form, scores)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2, 2, 3))
    id_bytes = 1 if classes <= 256 else 2
    assert form.size == 6 * ((k + 1) * bits // 8 + k * id_bytes)

    def kept(p):
        return math.exp(round(-20 * math.log(p)) / -20) if bits == 8 else math.exp(torch.tensor(p).log().half().item())

    for image, y, x in ((image, y, x) for image in range(2) for y in range(2) for x in range(3)):
        p = scores[image, :, y, x].double().softmax(0).tolist()
        chosen = sorted(range(classes), key=lambda c: -p[c])[:k]
        rest = sum(p[c] for c in range(classes) if c not in chosen)
        wanted = [kept(p[c]) if c in chosen else kept(rest) / (classes - k) for c in range(classes)]
        wanted = [value / sum(wanted) for value in wanted]
        torch.testing.assert_close(found[image, :, y, x].exp().double(), torch.tensor(wanted).double(),
                                   rtol=2e-3, atol=1e-7)  # fmt: skip


@pytest.mark.parametrize("form", [
    Full((3, 5, 5), 16), Full((3, 5, 5), 8), Largest((3, 5, 5), 2, 16), Largest((300, 5, 5), 2, 8)
])  # fmt: skip
def test_one_view_is_read_as_it_is_among_others(form):
    """Whatever number of bytes its parts begin at."""
    maps = noise(3, *form.shape)
    together = there_and_back(form, maps)
    for number in range(3):
        assert torch.equal(there_and_back(form, maps[number : number + 1])[0], together[number])


def test_what_is_kept_of_sure_pixels_stays_finite():
    scores = torch.zeros(1, 5, 1, 2)
    scores[0, 2, 0, 0], scores[0, 1, 0, 1] = 200.0, 1e5  # the rest underflows
    for bits in (8, 16):
        found = there_and_back(Largest((5, 1, 2), 2, bits), scores)
        assert found.isfinite().all() and found.argmax(1).tolist() == [[[2, 1]]]


def test_values_that_cannot_be_kept_are_refused():
    for bad, told in ((1e5, "reach 1e\\+05, beyond what 16 bits can keep; bits: 8"), (torch.nan, "reach nan"),
                      (torch.inf, "reach inf")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            Full((1, 1, 2), 16).write(torch.tensor([1.0, bad]).view(1, 1, 1, 2))
    assert there_and_back(Full((1, 1, 2), 8), torch.tensor([1.0, 1e5]).view(1, 1, 1, 2))[0, 0, 0, 1] == 1e5
    with pytest.raises(ValueError, match="not finite"):
        Largest((3, 1, 1), 2, 8).write(torch.tensor([1.0, torch.nan, 0]).view(1, 3, 1, 1))
    with pytest.raises(ValueError, match="logits: 3 are no fewer than all 3 classes; write logits: full"):
        Largest((3, 1, 1), 3, 8)


def test_divergence():
    live, other = noise(2, 4, 3, 2, seed=1), noise(2, 4, 3, 2, seed=2)
    p, q = live.double().softmax(1), other.double().softmax(1)
    assert divergence(live, other) == pytest.approx((p * (p / q).log()).sum(1).mean().item(), rel=1e-5)
    assert divergence(live, live + 7) == pytest.approx(0, abs=1e-6)
