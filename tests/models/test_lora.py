"""Low-rank updates against the published form written out, and their way into an encoder and out of it."""

import math

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import nn

from segkd.models._lora import LoRAQKV, add_lora, folded, merge_lora, wrapped


def layer(width=6, rank=2, targets=("q", "v"), bias=True, alpha=None):
    torch.manual_seed(0)
    made = LoRAQKV(nn.Linear(width, 3 * width, bias=bias), rank, targets, alpha).double()
    for name, weight in made.named_parameters():
        if "linear_b" in name:
            nn.init.normal_(weight)
    return made


@pytest.mark.parametrize("targets", [("q", "v"), ("k",), ("v", "k", "q")])
def test_the_update_is_added_to_its_thirds_only(targets):
    lora = layer(targets=targets)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    expected = lora.qkv(x).clone()
    for third in targets:
        start = 6 * "qkv".index(third)
        down, up = lora.get_submodule(f"linear_a_{third}"), lora.get_submodule(f"linear_b_{third}")
        expected[..., start : start + 6] += up(down(x))
    assert torch.allclose(lora(x), expected, rtol=1e-12, atol=1e-12)


def test_the_start_changes_nothing_and_is_drawn_as_published():
    base = nn.Linear(300, 900)
    lora = LoRAQKV(base, rank=4)
    x = torch.randn(7, 300)
    assert torch.equal(lora(x), base(x))
    bound = 1 / math.sqrt(300)
    assert 0.98 * bound < lora.linear_a_q.weight.abs().max() <= bound
    assert not torch.equal(lora.linear_a_q.weight, lora.linear_a_v.weight)


def test_only_the_update_is_trained_and_the_keys_are_the_published_ones():
    lora = layer()
    lora(torch.randn(2, 6, dtype=torch.float64)).square().sum().backward()
    trained = {name for name, weight in lora.named_parameters() if weight.requires_grad}
    assert trained == {f"linear_{part}_{third}.weight" for part in "ab" for third in "qv"}
    assert all(lora.get_parameter(name).grad.abs().max() > 0 for name in trained)
    assert set(lora.state_dict()) == trained | {"qkv.weight", "qkv.bias"}


def test_gradients():
    lora = layer(width=3)
    names = [name for name, weight in lora.named_parameters() if weight.requires_grad]

    def output(x, *weights):
        return torch.func.functional_call(lora, dict(zip(names, weights, strict=True)), (x,))

    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, *(lora.get_parameter(name) for name in names)))


def test_alpha_scales_the_update_by_alpha_over_rank():
    plain, scaled = layer(), layer(alpha=5.0)
    x = torch.randn(3, 6, dtype=torch.float64)
    base = plain.qkv(x)
    assert torch.allclose(scaled(x) - base, 2.5 * (plain(x) - base), rtol=1e-12, atol=1e-12)
    assert set(scaled.state_dict()) - set(plain.state_dict()) == {"factor"}


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("bias", [True, False])
def test_merged_is_the_same_map(bias, alpha):
    lora = layer(targets=("q", "k"), bias=bias, alpha=alpha)
    before = lora.qkv.weight.clone()
    plain = lora.merged()
    x = torch.randn(4, 6, dtype=torch.float64)
    assert torch.allclose(plain(x), lora(x), rtol=1e-12, atol=1e-12)
    assert type(plain) is nn.Linear and torch.equal(lora.qkv.weight, before)


def test_no_target_twice():
    with pytest.raises(ValueError, match=r"lora: targets must be some of q, k, v, each once, got \['q', 'q'\]"):
        LoRAQKV(nn.Linear(4, 12), targets=("q", "q"))


def test_into_an_encoder_and_out_of_it():
    torch.manual_seed(0)
    encoder = ImageEncoderViT(32, 16, 3, 12, depth=2, num_heads=2, out_chans=4, window_size=2, global_attn_indexes=(1,))
    keys = list(encoder.state_dict())
    images = torch.randn(1, 3, 32, 32)
    plain = encoder(images)
    add_lora(encoder, rank=3)
    assert torch.equal(encoder(images), plain)
    trained = {name: weight for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * 4 and all(".attn.qkv.linear_" in name for name in trained)
    assert sum(weight.numel() for weight in trained.values()) == 2 * 2 * 2 * 3 * 12
    for name, weight in trained.items():
        if "linear_b" in name:
            nn.init.normal_(weight)
    changed = encoder(images)
    merge_lora(encoder)
    assert list(encoder.state_dict()) == keys
    assert torch.allclose(encoder(images), changed, atol=1e-5) and not torch.allclose(plain, changed, atol=1e-3)


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_entries_are_folded_as_the_module_is_merged_and_wrapped_back(alpha):
    torch.manual_seed(0)
    encoder = ImageEncoderViT(32, 16, 3, 12, depth=2, num_heads=2, out_chans=4, window_size=2, global_attn_indexes=(1,))
    plain = encoder.state_dict()
    add_lora(encoder, 2, ("k", "v"), alpha)
    for name, weight in encoder.named_parameters():
        if "linear_b" in name:
            nn.init.normal_(weight)
    entries = dict(encoder.state_dict())
    merge_lora(encoder)
    merged, by_entries = encoder.state_dict(), folded(entries)
    assert by_entries.keys() == merged.keys()
    assert all(torch.allclose(by_entries[key], merged[key], atol=1e-6) for key in merged)
    assert folded(by_entries) == by_entries
    frozen = {key for key in entries if "linear_" not in key and not key.endswith(".factor")}
    assert wrapped(plain).keys() == frozen and wrapped(entries) == entries
