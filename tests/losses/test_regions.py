"""Labels at the size of a map, and the classes as regions of it."""

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._regions import class_centres, class_masks, labels_at


def labels(height, width):
    """Class 3 is absent, 255 is ignored."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(3, (2, height, width), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return target


@pytest.mark.parametrize("size", [(4, 5), (9, 13), (20, 13), (1, 1)])
def test_labels_are_those_of_interpolate(size):
    target = labels(9, 13)[:, None].double()
    nearest, bilinear = (F.interpolate(target, size=size, mode=mode)[:, 0].long() for mode in ("nearest", "bilinear"))
    assert torch.equal(labels_at(labels(9, 13), size), nearest)
    assert torch.equal(labels_at(labels(9, 13), size, "bilinear_trunc"), bilinear)


def test_masks_and_centres():
    target, features = labels(4, 5), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    masks = class_masks(target, features, 4, ignore_index=1)
    assert masks.shape == (2, 4, 20) and masks.dtype == torch.float64
    for k in range(4):
        assert torch.equal(masks[:, k].unflatten(1, (4, 5)).bool(), (target == k) & (target != 1))
    centres = class_centres(features.flatten(2), masks)
    assert not centres[:, 3].any() and not centres[:, 1].any()
    torch.testing.assert_close(centres[0, 2], features[0][:, target[0] == 2].mean(1), rtol=1e-5, atol=0)
