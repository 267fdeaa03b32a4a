"""PIDNet, DDRNet and STDC beside their published sizes, and the gates and pyramids that no recorded case shows."""

import pytest
import torch
import torch.nn.functional as F

from segkd.models._pyramid_pooling import PyramidPooling
from segkd.models.ddrnet import DDRNet
from segkd.models.pidnet import PIDNet
from segkd.models.stdc import STDC


@pytest.mark.parametrize(
    ("kind", "args", "with_heads", "alone"),
    [
        (PIDNet, {"variant": "s"}, 7_720_935, 7_625_715),
        (PIDNet, {"variant": "m"}, 28_763_111, 28_538_515),
        (PIDNet, {"variant": "l"}, 37_314_311, 36_939_571),
        (DDRNet, {}, 5_734_342, 5_695_987),
        # the authors' file has three more heads of details, which nothing reads
        (STDC, {"variant": 1}, 8_923_680 - 350_784, 8_275_104),
        (STDC, {"variant": 2}, 12_954_144 - 350_784, 12_305_568),
    ],
)
def test_as_many_parameters_as_published(kind, args, with_heads, alone):
    with torch.device("meta"):
        counts = [sum(weight.numel() for weight in kind(19, **args, aux=aux).parameters()) for aux in (True, False)]
    assert counts == [with_heads, alone]


@torch.no_grad()
def test_pidnet_lets_the_borders_decide_between_details_and_context():
    def random(seed):
        return torch.randn(1, 16, 5, 6, generator=torch.Generator().manual_seed(seed))

    p, i, d = random(0), random(1), torch.full((1, 16, 5, 6), 40.0)
    heavy = PIDNet(3, variant="l", width=4).eval().backbone.fusion
    torch.testing.assert_close(heavy(p, i, d), heavy.f(p))
    torch.testing.assert_close(heavy(p, i, -d), heavy.f(i))
    torch.testing.assert_close(heavy(p, i, 0 * d), heavy.f((p + i) / 2))
    light = PIDNet(3, width=4).eval().backbone.fusion
    torch.testing.assert_close(light(p, i, d), light.f_p(p) + light.f_i(i + p))
    torch.testing.assert_close(light(p, i, -d), light.f_p(i + p) + light.f_i(i))


@torch.no_grad()
@pytest.mark.parametrize("reads_relu", [True, False])
def test_what_pidnets_heads_for_training_read(reads_relu, images):
    network = PIDNet(3, width=4, aux_reads_relu=reads_relu).eval()
    network.features_wanted, network.aux_wanted = {"p3_pre", "p3", "d4_pre", "d4", "boundary"}, True
    found = network(images(2))
    end = "" if reads_relu else "_pre"
    assert torch.equal(found.aux, network.aux_head(found.features[f"p3{end}"]))
    assert torch.equal(found.features["boundary"], network.boundary_head(found.features[f"d4{end}"]))
    for name in ("p3", "d4"):
        assert torch.equal(found.features[name], F.relu(found.features[f"{name}_pre"]))


@torch.no_grad()
@pytest.mark.parametrize("parallel", [True, False])
def test_a_pyramid_of_a_flat_map_is_flat(parallel):
    """Away from the border, whose padding counts in the averages, all windows of a constant map have its mean."""
    pyramid = PyramidPooling(3, 2, 4, parallel).eval()
    for process in pyramid.processes:  # whose 3x3 would read past the border
        process.conv.weight[..., :1], process.conv.weight[..., 2:] = 0, 0
        process.conv.weight[..., :1, :], process.conv.weight[..., 2:, :] = 0, 0
    values = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    found = pyramid(values.expand(1, 3, 64, 64))[..., 24:40, 24:40]

    scales = [scale(values) for scale in pyramid.scales]  # (1, 2, 1, 1) each
    if parallel:
        maps = torch.cat([scale + scales[0] for scale in scales[1:]], dim=1)
        joined = [scales[0], pyramid.processes[0](maps)]
    else:
        joined = scales[:1]
        for process, scale in zip(pyramid.processes, scales[1:]):
            joined.append(process(scale + joined[-1]))
    wanted = pyramid.compression(torch.cat(joined, dim=1)) + pyramid.shortcut(values)
    torch.testing.assert_close(found, wanted.expand_as(found))


@torch.no_grad()
@pytest.mark.parametrize("kind", [PIDNet, DDRNet, STDC])
def test_small_images(kind, images):
    network = kind(3, width=4).eval()
    for height, width in ((1, 1), (7, 130), (66, 9)):
        found = network(images(1, height, width))
        assert found.logits.shape == (1, 3, -(-height // 8), -(-width // 8)) and found.logits.isfinite().all()
