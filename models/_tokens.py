"""Sequences of a transformer's tokens as maps and back, and a plain ViT's position table for another grid."""

import torch
from torch import Tensor

from ._encoder import Encoder
from ._prediction import resize


def to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h * w, C), rows first, as a view (B, C, h, w), channels last in memory."""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) as (B, h * w, C), a view if channels are last in memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


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
    """
    patches = source[0] * source[1]
    assert table.shape[1] > patches, (table.shape, source)
    grid = resize(to_map(table[:, -patches:], source), target, align_corners)  # (1, C, h', w')
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)  # (1, 1 + h' * w', C)


def fitted_encoder(backbone: Encoder, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A whole network's entries with those under `backbone.` as `backbone.fitted` makes them."""
    encoder = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    return state | {f"backbone.{key}": value for key, value in backbone.fitted(encoder).items()}
