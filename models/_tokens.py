"""Sequences of a plain ViT's tokens as maps, and its position table for another grid of patches."""

import torch
from torch import Tensor, nn

from ._prediction import resize


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens in row-major order as a map, without a copy.

    Args:
        grid: (h, w) in patches; a sequence does not tell it unless its grid is square.

    Shapes:
        tokens: (B, h * w, C) -> (B, C, h, w).

    Raises:
        ValueError: another number of tokens.
    """
    height, width = grid
    if tokens.shape[1] != height * width:
        raise ValueError(f"a grid of {height} x {width} patches has {height * width} tokens, got {tokens.shape[1]}")
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)  # (B, h, w, C) -> (B, C, h, w)


def resize_positions(
    table: Tensor, source: tuple[int, int], target: tuple[int, int], align_corners: bool = True
) -> Tensor:
    """A position table for another grid: the class token's row, then the patches' rows resized bilinearly.

    As TriKD's code reads DeiT's weights (align_corners there is true). Rows between the first and the patches', such
    as the distillation token's, are dropped.

    Args:
        table: the class token's row comes first, the patches' come last in row-major order.
        source: (h, w) in patches of the table. target: of the result.
        align_corners: of the resize.

    Shapes:
        table: (1, e + h * w, C), e >= 1 -> (1, 1 + h' * w', C).

    Raises:
        ValueError: a table too short for the class token and the source grid.
    """
    patches = source[0] * source[1]
    if table.shape[1] <= patches:
        raise ValueError(
            f"a position table with a class token for {source[0]} x {source[1]} patches has {patches + 1} rows "
            f"or more, got {table.shape[1]}"
        )
    grid = resize(as_map(table[:, -patches:], source), target, align_corners)  # (1, C, h', w')
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)  # (1, 1 + h' * w', C)


def fitted_encoder(backbone: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A whole network's entries with those under `backbone.` as `backbone.fitted` makes them."""
    encoder = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    return state | {f"backbone.{key}": value for key, value in backbone.fitted(encoder).items()}
