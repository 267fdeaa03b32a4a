"""SAM's encoder on any size: position embeddings against bare loops, maps against the package's and recorded ones."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch import nn

from segkd.models._lora import add_lora
from segkd.models._sam import (
    GlobalAttention,
    adapt_positions,
    build_sam,
    encode,
    global_blocks,
    relative_positions,
    resize_pos_embed,
    resize_rel_pos,
    use_global_attention,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


def encoder_of(size=64, width=24, depth=4, heads=3, out=8, window=3, whole=(1, 3)):
    """A small encoder whose position embeddings are not zero, as they are at first."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        size, 16, 3, width, depth, heads, 4, out, use_rel_pos=True, window_size=window, global_attn_indexes=whole
    )
    for name, weight in encoder.named_parameters():
        if "pos" in name:
            nn.init.normal_(weight)
    return encoder.eval()


def cubic_weights(length, target):
    """(target, length) matrix of cubic convolution with a = -0.75, pixel centres at half, borders repeated."""
    matrix = np.zeros((target, length))
    for i in range(target):
        centre = (i + 0.5) * length / target - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x = abs(centre - j)
            near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[i, min(max(j, 0), length - 1)] += near if x <= 1 else far
    return matrix


@pytest.mark.parametrize("grid", [(3, 9), (8, 4), (5, 6)])
def test_absolute_positions_are_resized_bicubically(grid):
    table = torch.randn(1, 5, 7, 2, dtype=torch.float64)
    rows, columns = cubic_weights(5, grid[0]), cubic_weights(7, grid[1])
    expected = np.einsum("Yy,Xx,yxc->YXc", rows, columns, table[0].numpy())
    assert np.allclose(resize_pos_embed(table, grid)[0].numpy(), expected, atol=1e-12)
    assert resize_pos_embed(table, (5, 7)) is table


@pytest.mark.parametrize("tokens", [2, 4, 9])
def test_relative_positions_are_resized_linearly_and_looked_up_by_distance(tokens):
    table = torch.randn(9, 2, dtype=torch.float64)
    rows = 2 * tokens - 1
    centres = (np.arange(rows) + 0.5) * 9 / rows - 0.5
    resized = np.stack([np.interp(centres, np.arange(9), column) for column in table.numpy().T], axis=1)
    assert np.allclose(resize_rel_pos(table, tokens).numpy(), resized, atol=1e-12)
    found = relative_positions(table, tokens).numpy()
    for i in range(tokens):
        for j in range(tokens):
            assert np.allclose(found[i, j], resized[i - j + tokens - 1], atol=1e-12)
    assert resize_rel_pos(table, 5) is table


def test_adapting_resizes_the_tables_of_global_blocks_only():
    encoder = encoder_of()
    encoder.requires_grad_(False)
    window_tables = [encoder.blocks[i].attn.rel_pos_h for i in (0, 2)]
    adapt_positions(encoder, 6)
    assert encoder.pos_embed.shape == (1, 6, 6, 24) and not encoder.pos_embed.requires_grad
    assert [len(block.attn.rel_pos_w) for block in encoder.blocks] == [5, 11, 5, 11]
    assert all(encoder.blocks[i].attn.rel_pos_h is table for i, table in zip((0, 2), window_tables))
    with pytest.raises(ValueError, match="sam: the grid of tokens must be at least 1 wide, got 0"):
        adapt_positions(encoder, 0)


def test_two_stages_equal_one_where_the_first_changes_nothing_and_differ_elsewhere():
    images = torch.randn(1, 3, 48, 80)
    plain = encode(encoder_of(), images, [3])[0]
    for grid, same in ((4, True), (3, False)):
        encoder = encoder_of()
        adapt_positions(encoder, grid)
        assert torch.allclose(encode(encoder, images, [3])[0], plain, atol=1e-5) == same


@torch.no_grad()
def test_the_last_map_is_the_packages_own_at_its_own_size():
    encoder = encoder_of()
    images = torch.randn(2, 3, 64, 64)
    maps = encode(encoder, images, global_blocks(encoder))
    assert [m.shape for m in maps] == [(2, 8, 4, 4)] * 2
    assert torch.equal(maps[1], encoder(images)) and not torch.equal(maps[0], maps[1])


@torch.no_grad()
def test_other_sizes_are_padded_to_whole_patches():
    encoder = encoder_of()
    images = torch.randn(2, 3, 40, 70)
    padded = torch.zeros(2, 3, 48, 80)
    padded[:, :, :40, :70] = images
    (ours,) = encode(encoder, images, [2])
    assert ours.shape == (2, 8, 3, 5) and torch.equal(ours, encode(encoder, padded, [2])[0])


def test_blocks_behind_the_last_tap_do_not_run():
    encoder = encoder_of()
    encoder.blocks[2] = encoder.blocks[3] = None
    assert len(encode(encoder, torch.randn(1, 3, 32, 32), [0, 1])) == 2


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)])
def test_attention_from_factors_is_the_packages_own(grid):
    torch.manual_seed(0)
    theirs = Attention(12, 3, use_rel_pos=True, input_size=(4, 4)).double()
    for table in (theirs.rel_pos_h, theirs.rel_pos_w):
        nn.init.normal_(table)
    ours = GlobalAttention(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, *grid, 12, dtype=torch.float64, requires_grad=True)
    draw = torch.randn_like(x)
    found = []
    for attention in (theirs, ours):
        output = attention(x)
        leaves = [x, *dict(theirs.named_parameters()).values()]
        found.append([output, *torch.autograd.grad((output * draw).sum(), leaves)])
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(*found, strict=True))


def test_global_blocks_get_it_and_adapt_and_take_lora_like_the_others():
    plain, lean = encoder_of(), encoder_of()
    keys = list(lean.state_dict())
    use_global_attention(lean)
    assert [type(block.attn) for block in lean.blocks] == [Attention, GlobalAttention] * 2
    assert list(lean.state_dict()) == keys
    images = torch.randn(1, 3, 48, 80)
    for encoder in (plain, lean):
        adapt_positions(encoder, 5)
        add_lora(encoder, 2)
    for (_, theirs), (_, ours) in zip(plain.named_parameters(), lean.named_parameters(), strict=True):
        ours.data.copy_(theirs)
    assert torch.allclose(encode(plain, images, [3])[0], encode(lean, images, [3])[0], atol=1e-5)


def test_every_published_size_is_known():
    with torch.device("meta"):
        sam = build_sam("vit_b")
    assert len(sam.state_dict()) == 314
    assert global_blocks(sam.image_encoder) == [2, 5, 8, 11]


def recorded(name):
    """A case of the original's maps, its arrays, and its weights as a state dict without their common prefix."""
    spec = importlib.util.spec_from_file_location("fill", GOLDEN / "fill.py")
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    case = next(c for c in json.loads((GOLDEN / "tsic/parity.json").read_text()) if c["case"] == name)
    state = fill.fill_state(case["entries"] + case["lora_entries"])
    for key, change in case["overrides"].items():
        state[key] = state[key] * np.float32(change["multiply"])
    images = torch.from_numpy(fill.fill_input(case["input_shape"]))
    weights = {key.removeprefix("image_encoder."): torch.from_numpy(value) for key, value in state.items()}
    return case["params"], weights, images, np.load(GOLDEN / f"tsic/{name}.npz")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not here")
@pytest.mark.parametrize(
    "name", ["sam_tiny_one_stage", "sam_tiny_lora_two_stage", "sam_vitb_96x72_two_stage", "sam_vitb_64x96_plain"]
)
@torch.no_grad()
def test_recorded_maps(name):
    params, weights, images, expected = recorded(f"parity_{name}")
    if "embed_dim" in params:
        whole = params["global_attn_indexes"]
        sizes = ("meta_img_size", "embed_dim", "depth", "num_heads", "out_chans", "window_size")
        encoder = encoder_of(*(params[size] for size in sizes), whole)
        use_global_attention(encoder)
        for module in encoder.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = params["layer_norm_eps"]
    else:
        with torch.device("meta"):
            encoder = build_sam("vit_b").image_encoder
    lora = {key: value for key, value in weights.items() if ".linear_" in key}
    encoder.load_state_dict({key: value for key, value in weights.items() if key not in lora}, assign=True)
    adapt_positions(encoder, params["grid_at_load"][0])
    if params["lora_rank"]:
        add_lora(encoder, params["lora_rank"])
        assert not encoder.load_state_dict(lora, strict=False).unexpected_keys
    maps = encode(encoder, images, params["out_indices"])
    for index, found in zip(params["out_indices"], maps, strict=True):
        wanted = expected[f"expected:feat_{index}"]
        step = found.shape[1] // wanted.shape[1]
        assert np.abs(found[:, ::step].numpy() - wanted).max() < 2e-5
