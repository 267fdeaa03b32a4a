"""TinyViT encoders against timm's, and the last block against attention written out."""

import pytest
import timm
import torch
import torch.nn.functional as F

from segkd.models._tinyvit import TinyViT

HEIGHT, WIDTH = 65, 97


def encoder(windows=(7, 14, 7), drop_path=0.0, variant="5m"):
    torch.manual_seed(0)
    net = TinyViT(variant, windows, drop_path).eval()
    for module in net.modules():  # what starts at 0 would hide half of the network
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    for key, tensor in net.state_dict().items():
        if key.endswith("attention_biases"):
            torch.nn.init.normal_(tensor)
    return net


def timms(net, windows=(7, 14, 7)):
    """timm's encoder with the same weights."""
    other = timm.create_model("tiny_vit_5m_224", num_classes=0, window_sizes=(1, *windows)).eval()
    found = other.load_state_dict(net.state_dict(), strict=False)
    assert found.unexpected_keys == [] and all(key.startswith("head.") for key in found.missing_keys)
    return other


def images(height=HEIGHT, width=WIDTH, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def scalar(found):
    """A loss of every map, that no norm makes constant."""
    return sum((x * torch.arange(x.numel(), dtype=x.dtype).view(x.shape).cos()).sum() for x in found.values())


@pytest.mark.parametrize("windows", [(7, 14, 7), (3, 4, 5)])
def test_stages_are_timms_but_for_the_last_block(windows):
    net = encoder(windows)
    with torch.no_grad():
        ours = net(images(), set())
        theirs = timms(net, windows).forward_intermediates(images(), intermediates_only=True)
    for number in (1, 2, 3):
        assert (ours[f"stage{number}"] - theirs[number - 1]).abs().max() < 1e-5 * theirs[number - 1].std()
    assert (ours["stage4"] - theirs[3]).abs().max() > 0.01 * theirs[3].std()


def test_one_window_without_biases_is_global_attention():
    net = encoder()
    torch.nn.init.zeros_(net.stages[3].blocks[1].attn.attention_biases)
    with torch.no_grad():
        ours = net(images(224, 224, 1), set())["stage4"]
        theirs = timms(net).forward_intermediates(images(224, 224, 1), intermediates_only=True)[3]
    assert (ours - theirs).abs().max() < 1e-5 * theirs.std()


def test_position_biases_of_the_last_block_change_nothing():
    net = encoder()
    table = net.stages[3].blocks[1].attn.attention_biases
    before = net(images(), {"attention"})
    assert not table.requires_grad
    torch.nn.init.ones_(table)
    after = net(images(), {"attention"})
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_is_what_the_last_block_attends_by(dtype):
    net = encoder().to(dtype)
    attn = net.stages[3].blocks[1].attn
    seen = []
    attn.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        scores = net(images().to(dtype), {"attention"})["attention"]
        ((tokens, output),) = seen
        batch, count, width = tokens.shape
        assert (count, width) == (3 * 4, 320) and scores.shape == (2, 10, count, count)
        mixed = attn.qkv(F.layer_norm(tokens, (width,), attn.norm.weight, attn.norm.bias)).view(batch, count, 10, 3, 32)
        query, key, value = (mixed[:, :, :, i] for i in range(3))  # (B, N, heads, d)
        wanted = torch.einsum("bqhd,bkhd->bhqk", query, key) / 32**0.5
        torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5)
        mean = torch.einsum("bhqk,bkhd->bqhd", wanted.softmax(-1), value).flatten(2)
        torch.testing.assert_close(output, attn.proj(mean), rtol=1e-5, atol=1e-5)


def test_weights_loaded_after_a_forward_count():
    net, other = encoder(), encoder()
    for block in other.stages[1].blocks:
        torch.nn.init.normal_(block.attn.attention_biases)
    with torch.no_grad():
        net(images(), set())
        wanted = other(images(), set())["stage4"]
        net.load_state_dict(other.state_dict())
        assert torch.equal(net(images(), set())["stage4"], wanted)


def test_drop_path_rises_linearly():
    net = encoder(drop_path=0.1)
    rates = [getattr(m, "drop_prob") for name, m in net.named_modules() if name.endswith(("drop_path", "drop_path2"))
             and hasattr(m, "drop_prob")]  # fmt: skip
    assert rates == pytest.approx([0.1 * i / 11 for i in range(1, 12)])


def test_position_biases_of_other_windows_are_resized():
    small, large = encoder((7, 14, 7)), encoder((8, 7, 7))
    state = large.fitted(small.state_dict())
    key = "stages.{}.blocks.1.attn.attention_biases"
    tables = [small.state_dict()[key.format(n)].view(1, -1, side, side) for n, side in ((1, 7), (2, 14))]
    for table, stage, side in zip(tables, (1, 2), (8, 7), strict=True):
        wanted = F.interpolate(table, (side, side), mode="bicubic", align_corners=False)
        torch.testing.assert_close(state[key.format(stage)], wanted.flatten(2)[0])
    assert state[key.format(3)] is not None and torch.equal(state[key.format(3)], small.state_dict()[key.format(3)])
    large.load_state_dict(state)
    assert small.fitted(small.state_dict()).keys() == small.state_dict().keys()


@pytest.mark.parametrize(
    ("variant", "windows", "name"),
    [
        ("11m", (7, 14, 7), "tiny_vit_11m_224.dist_in22k_ft_in1k"),
        ("21m", (16, 32, 16), "tiny_vit_21m_512.dist_in22k_ft_in1k"),
        ("21m", (5, 5, 5), "tiny_vit_21m_224.dist_in22k_ft_in1k"),
    ],
)
def test_published_weights_follow_the_windows(variant, windows, name):
    with torch.device("meta"):
        net = TinyViT(variant, windows, 0.1)
    assert net.imagenet == name and name in timm.list_pretrained("tiny_vit*")
