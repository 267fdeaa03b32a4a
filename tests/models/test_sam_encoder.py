"""SAM's encoder on any size: position embeddings against bare loops, attention and maps against the package's."""

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch import nn

from segkd.models._sam import (
    PUBLISHED,
    FactoredAttention,
    Sizes,
    build_encoder,
    build_prompter,
    encode,
    fitted_tables,
    relative_positions,
    resize_pos_embed,
    resize_rel_pos,
)

SMALL = Sizes(24, 4, 3, (1, 3), window_size=3, out_channels=8)


def encoder_of(size=64):
    """A small encoder whose position embeddings are not zero, as they are at first."""
    torch.manual_seed(0)
    encoder = build_encoder(SMALL, size)
    for name, weight in encoder.named_parameters():
        if "pos" in name:
            nn.init.normal_(weight)
    return encoder.eval()


def packages_own(encoder, size):
    """The package's encoder with the same weights."""
    theirs = ImageEncoderViT(
        size, 16, 3, 24, 4, 3, 4, 8, use_rel_pos=True, window_size=3, global_attn_indexes=(1, 3),
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
    )  # fmt: skip
    theirs.load_state_dict(encoder.state_dict())
    return theirs.eval()


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


def test_tables_of_global_blocks_only_are_fitted():
    state = encoder_of().state_dict()
    smaller = fitted_tables(state, build_encoder(SMALL, 96).state_dict())
    changed = {key for key in state if not torch.equal(smaller[key], state[key])}
    tables = {f"blocks.{i}.attn.rel_pos_{axis}" for i in (1, 3) for axis in "hw"}
    assert changed == tables | {"pos_embed"}
    assert smaller["pos_embed"].shape == (1, 6, 6, 24) and len(smaller["blocks.1.attn.rel_pos_h"]) == 11
    assert fitted_tables(state, state) == state


@torch.no_grad()
def test_two_stages_equal_one_where_the_first_changes_nothing_and_differ_elsewhere():
    images = torch.randn(1, 3, 48, 80)
    one = encoder_of()
    plain = encode(one, images, (3,))[3]
    for size, same in ((64, True), (48, False)):
        two = build_encoder(SMALL, size).eval()
        two.load_state_dict(fitted_tables(one.state_dict(), two.state_dict()))
        assert torch.allclose(encode(two, images, (3,))[3], plain, atol=1e-5) == same


def test_the_last_map_and_its_gradients_are_the_packages_own_at_its_own_size():
    encoder = encoder_of().double()
    images = torch.randn(2, 3, 64, 64).double()
    maps = encode(encoder, images, (0, 3))
    assert [x.shape for x in maps.values()] == [(2, 24, 4, 4)] * 2
    theirs = packages_own(encoder, 64).double()
    ours, wanted = encoder.neck(maps[3]), theirs(images)
    assert torch.allclose(ours, wanted, rtol=1e-10, atol=1e-10)
    for x in (ours, wanted):
        x.pow(3).sum().backward()
    for (name, mine), its in zip(encoder.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine.grad, its.grad, rtol=1e-9, atol=1e-9 * its.grad.abs().max()), name


@torch.no_grad()
def test_other_sizes_are_padded_to_whole_patches():
    encoder = encoder_of()
    images = torch.randn(2, 3, 40, 70)
    padded = torch.zeros(2, 3, 48, 80)
    padded[:, :, :40, :70] = images
    ours = encode(encoder, images, (2,))[2]
    assert ours.shape == (2, 24, 3, 5) and torch.equal(ours, encode(encoder, padded, (2,))[2])


def test_blocks_behind_the_last_tap_do_not_run():
    encoder = encoder_of()
    encoder.blocks[2] = encoder.blocks[3] = None
    assert list(encode(encoder, torch.randn(1, 3, 32, 32), (0, 1))) == [0, 1]


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)])
def test_attention_from_factors_is_the_packages_own(grid):
    torch.manual_seed(0)
    theirs = Attention(12, 3, use_rel_pos=True, input_size=(4, 4)).double()
    for table in (theirs.rel_pos_h, theirs.rel_pos_w):
        nn.init.normal_(table)
    ours = FactoredAttention(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, *grid, 12, dtype=torch.float64, requires_grad=True)
    draw = torch.randn_like(x)
    found = []
    for attention in (theirs, ours):
        output = attention(x)
        leaves = [x, *dict(theirs.named_parameters()).values()]
        found.append([output, *torch.autograd.grad((output * draw).sum(), leaves)])
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(("arch", "entries"), [("vit_b", 314), ("vit_l", 482), ("vit_h", 594)])
def test_published_sizes(arch, entries):
    with torch.device("meta"):
        encoder = build_encoder(PUBLISHED[arch], 1024)
        prompter = build_prompter(256)
    assert sum(len(part.state_dict()) for part in (encoder, *prompter)) == entries
    theirs = {"vit_b": 93.74, "vit_l": 312.3, "vit_h": 641.1}[arch]
    ours = sum(p.numel() for part in (encoder, *prompter) for p in part.parameters())
    assert ours / 1e6 == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        (Sizes(25, 4, 3, (1,)), "embed_dim 25 is no multiple of num_heads 3"),
        (Sizes(24, 4, 3, (1, 4)), r"global_blocks \[1, 4\] are not all among the 4 blocks"),
    ],
)
def test_impossible_sizes(sizes, told):
    with pytest.raises(ValueError, match=f"sam: {told}"):
        build_encoder(sizes, 64)
