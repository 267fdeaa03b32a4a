import pytest
import torch

from segkd.models._tokens import resize_positions


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.manual_seed(0))


@pytest.mark.parametrize("extra", [1, 2, 3])
def test_same_grid_keeps_the_patches_and_the_first_row(extra):
    table = rand(1, extra + 12, 5)
    assert torch.equal(resize_positions(table, (3, 4), (3, 4)), torch.cat([table[:, :1], table[:, extra:]], 1))


def test_a_ramp_stays_a_ramp_between_the_same_corners():
    rows, columns = torch.linspace(0, 1, 3, dtype=torch.float64), torch.linspace(0, 1, 5, dtype=torch.float64)
    ramp = (3 * rows[:, None] + columns).reshape(1, 15, 1)
    table = torch.cat([torch.full((1, 2, 1), 9.0, dtype=torch.float64), ramp], 1)
    resized = resize_positions(table, (3, 5), (4, 2))
    rows, columns = torch.linspace(0, 1, 4, dtype=torch.float64), torch.linspace(0, 1, 2, dtype=torch.float64)
    assert resized[0, 0].item() == 9
    assert torch.allclose(resized[0, 1:, 0], (3 * rows[:, None] + columns).flatten(), rtol=1e-12)


def test_without_align_corners_pixel_centres_count():
    table = torch.tensor([7.0, 0.0, 1.0]).view(1, 3, 1)  # class token, a grid of 1 x 2
    resized = resize_positions(table, (1, 2), (1, 4), align_corners=False)
    assert torch.allclose(resized.flatten(), torch.tensor([7.0, 0.0, 0.25, 0.75, 1.0]))
