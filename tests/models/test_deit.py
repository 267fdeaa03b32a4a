"""DeiT encoders against timm's transformer without a class token."""

import pytest
import timm
import torch
import torch.nn.functional as F

from segkd.models._deit import IMAGENET, DeiT


def encoder(image_size=(64, 96), drop_path=0.0):
    torch.manual_seed(0)
    net = DeiT("tiny", image_size, drop_path).eval()
    torch.nn.init.normal_(net.pos_embed)
    return net


def images(height=64, width=96, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_blocks_are_timms():
    net = encoder()
    other = timm.create_model(
        "deit_tiny_patch16_224", num_classes=0, img_size=(64, 96), class_token=False, global_pool="avg"
    ).eval()
    state = net.state_dict()
    state["pos_embed"] = state["pos_embed"][:, 1:]
    state.pop("cls_token")
    other.load_state_dict(state, strict=False)
    with torch.no_grad():
        ours = net(images(), set())
        theirs = other.forward_intermediates(images(), indices=[2, 5, 8, 11], intermediates_only=True)
    for number, wanted in enumerate(theirs, start=1):
        torch.testing.assert_close(ours[f"stage{number}"], wanted, rtol=1e-5, atol=1e-5)


def test_attention_is_what_the_last_block_attends_by():
    net = encoder()
    attn = net.blocks[11].attn
    seen = []
    attn.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        scores = net(images(), {"attention"})["attention"]
        ((tokens, output),) = seen
        assert scores.shape == (2, 3, 24, 24)
        query, key, value = (x.unflatten(2, (3, 64)) for x in attn.qkv(tokens).chunk(3, dim=2))  # (B, N, heads, d)
        wanted = torch.einsum("bqhd,bkhd->bhqk", query, key) / 8
        torch.testing.assert_close(scores, wanted, rtol=1e-5, atol=1e-5)
        mean = torch.einsum("bhqk,bkhd->bqhd", wanted.softmax(-1), value).flatten(2)
        torch.testing.assert_close(output, attn.proj(mean), rtol=1e-5, atol=1e-5)


def test_another_grid_reads_the_table_resized():
    net, larger = encoder((64, 96)), encoder((80, 112))
    larger.load_state_dict(larger.fitted(net.state_dict() | {"pos_embed": larger.pos_embed.detach()}))
    table = net.pos_embed.detach()[:, 1:].reshape(1, 4, 6, 192).permute(0, 3, 1, 2)
    grid = F.interpolate(table, (5, 7), mode="bilinear", align_corners=True).permute(0, 2, 3, 1).reshape(1, 35, 192)
    with torch.no_grad():
        larger.pos_embed[:, 1:] = grid
        ours = net(images(80, 112), set())["stage4"]
        torch.testing.assert_close(ours, larger(images(80, 112), set())["stage4"])


def test_sides_that_are_no_multiples_are_resized_up():
    net = encoder()
    enlarged = F.interpolate(images(65, 97), (80, 112), mode="bilinear", align_corners=False)
    with torch.no_grad():
        ours, wanted = net(images(65, 97), set()), net(enlarged, set())
    assert ours["stage1"].shape == (2, 192, 5, 7)
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("others", [1, 2])
def test_published_tables_are_resized(others):
    net = encoder()
    table = torch.randn(1, others + 24 * 24, 192, generator=torch.Generator().manual_seed(2))
    fitted = net.fitted({"pos_embed": table, "cls_token": net.cls_token})["pos_embed"]
    patches = table[:, others:].reshape(1, 24, 24, 192).permute(0, 3, 1, 2)
    wanted = F.interpolate(patches, (4, 6), mode="bilinear", align_corners=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(fitted, torch.cat([table[:, :1], wanted], dim=1))
    assert torch.equal(net.fitted(net.state_dict())["pos_embed"], net.pos_embed)
    with pytest.raises(ValueError, match="a position table of 20 rows is for no square grid"):
        net.fitted({"pos_embed": table[:, :20]})


def test_drop_path_is_off_unless_asked_for():
    net = encoder().train()
    assert torch.equal(net(images(), set())["stage4"], net(images(), set())["stage4"])
    net = encoder(drop_path=0.5).train()
    assert not torch.equal(net(images(), set())["stage4"], net(images(), set())["stage4"])


def test_published_weights_are_known_to_timm():
    assert set(IMAGENET.values()) <= set(timm.list_pretrained("deit*"))
