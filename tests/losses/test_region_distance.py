"""Inter-class distances far from the origin."""

import torch

from segkd.losses.region_distance import distances


def test_distances_keep_small_differences_far_from_the_origin():
    centres = 100 + 1e-3 * torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    wanted = torch.stack([(centres.double()[0, i] - centres.double()[0] + 1e-6).norm(dim=-1) for i in range(5)])
    torch.testing.assert_close(distances(centres)[0].double(), wanted, rtol=1e-3, atol=2e-4)
