"""What LR-ASPP, SegNeXt, BiSeNetV2, EfficientViT-Seg and TopFormer do of their own, and their encoders' files."""

import pytest
import torch
import torch.nn.functional as F

from segkd.models._efficientvit import EfficientViT
from segkd.models._hamburger import Factorisation
from segkd.models._layouts import _bisenetv2, _efficientvit, _lraspp, _segnext, _topformer
from segkd.models._layouts._layout import Renaming
from segkd.models._mobilenet import MobileNetV3
from segkd.models._mscan import MSCAN
from segkd.models._token_pyramid import TokenPyramid
from segkd.models._two_branches import TwoBranches
from segkd.models.bisenetv2 import BiSeNetV2
from segkd.models.efficientvit_seg import EfficientViTSeg
from segkd.models.lraspp import LRASPP
from segkd.models.segnext import SegNeXt
from segkd.models.topformer import TopFormer


@pytest.mark.parametrize(
    ("kind", "args", "count"),
    [
        (LRASPP, {}, 3221198),
        (LRASPP, {"arrangement": "mmseg"}, 3284547),
        (BiSeNetV2, {}, 5231487),
        (BiSeNetV2, {"aux": False}, 3358627),
        (BiSeNetV2, {"arrangement": "mmseg"}, 14804255),
        (SegNeXt, {}, 4229747),
        (EfficientViTSeg, {}, 706691),
        (EfficientViTSeg, {"backbone": "efficientvit_b1"}, 4803443),
        (TopFormer, {}, 1389011),
        (TopFormer, {"backbone": "topformer_b"}, 5028979),
    ],
)
def test_parameters_are_those_of_the_published_networks(kind, args, count):
    with torch.device("meta"):
        network = kind(19, **args)
    assert sum(weight.numel() for weight in network.parameters()) == count


def test_bases_are_fixed_but_in_training():
    torch.manual_seed(0)
    one = Factorisation(6)
    torch.manual_seed(1)
    other = Factorisation(6)
    assert torch.equal(one.bases, other.bases) and one.state_dict() == {}
    x = torch.rand(2, 6, 4, 5)
    assert torch.equal(one.eval()(x), other.eval()(x))
    one.train()
    first, second = one(x), one(x)
    assert not torch.equal(first, second)
    torch.manual_seed(2)
    again = one(x)
    torch.manual_seed(2)
    assert torch.equal(one(x), again)
    # images do not see each other, and a map of few factors is rebuilt as it is
    alone = torch.cat([one.eval()(image[None]) for image in x])
    torch.testing.assert_close(one(x), alone)
    outer = torch.rand(1, 6, 1, 1) * torch.rand(1, 1, 4, 5)
    assert (one(outer) - outer).norm() < 0.02 * outer.norm()


def test_factors_are_as_exact_under_autocast():
    factors, x = Factorisation(6).eval(), torch.rand(1, 6, 4, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = factors(x)
    assert found.dtype == torch.bfloat16 and torch.equal(found, factors(x.float()).bfloat16())


def test_gates_of_lraspp_are_averages_of_windows_where_there_is_room(images):
    torch.manual_seed(0)
    network = LRASPP(3, arrangement="mmseg", width=8).eval()
    seen = {}
    network.gate.register_forward_hook(lambda module, given, found: seen.update(mean=given[0], gate=found))
    with torch.no_grad():
        network(images(1, 33, 41))
        assert seen["gate"].shape == (1, 8, 1, 1)
        high = torch.rand(1, 960, 50, 70)
        network.backbone.forward = lambda x, wanted: {"stage0": high, "stage1": high, "stage4": high}
        network.levels[0], network.levels[1] = torch.nn.Conv2d(960, 32, 1), torch.nn.Conv2d(960, 64, 1)
        network(images(1, 33, 41))
    assert seen["gate"].shape == (1, 8, 1, 2)
    torch.testing.assert_close(seen["mean"][0, :, 0, 1], high[0, :, :49, 20:69].mean((1, 2)))


@pytest.mark.parametrize("arrangement", ["original", "mmseg"])
def test_bisenetv2_takes_images_of_any_size(arrangement, images):
    network = BiSeNetV2(3, arrangement=arrangement, width=8, aux=False).eval()
    with torch.no_grad():
        for size in ((1, 1), (8, 9), (33, 40), (20, 70)):
            assert network(images(1, *size)).logits.shape[2:] == tuple(-(-side // 8) for side in size)
    assert network.normalize.constants == ("bisenetv2" if arrangement == "original" else "imagenet")


def test_efficientvit_seg_enlarges_its_scores_if_told_to(images):
    torch.manual_seed(0)
    small = EfficientViTSeg(3, width=8).eval()
    large = EfficientViTSeg(3, width=8, full_size=True).eval()
    large.load_state_dict(small.state_dict())
    with torch.no_grad():
        coarse, fine = (network(images(1, 40, 72)).logits for network in (small, large))
    assert coarse.shape == (1, 3, 5, 9)
    torch.testing.assert_close(fine, F.interpolate(coarse, (40, 72), mode="bicubic", align_corners=False))


MSCAN_FILE, BISENET_FILE = _segnext.encoder_pairs("segnext", "", ""), _bisenetv2.original_encoder()
# encoder, (theirs, ours) of its file's entries, what else the file holds, what stands before all names
FILES = {
    "mobilenetv3": (
        lambda: MobileNetV3("mobilenetv3_large_100", 16, "torchvision"),
        _lraspp.mobilenetv3_pairs("mobilenetv3_large_100", "torchvision", "features.", ""),
        ("classifier.0.weight",),
        "",
    ),
    "mscan": (lambda: MSCAN("mscan_t", 0.0), MSCAN_FILE, ("head.weight",), ""),
    "bisenetv2": (lambda: TwoBranches("original"), BISENET_FILE, (), ""),
    "efficientvit": (
        lambda: EfficientViT("efficientvit_b0"),
        _efficientvit.ENCODER,
        ("head.op_list.0.weight",),
        "backbone.",
    ),
    "topformer": (
        lambda: TokenPyramid("topformer_t", 0.0),
        _topformer.encoder_pairs("", ""),
        ("classifier.weight",),
        "",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_encoders_alone(name, same):
    build, pairs, others, prefix = FILES[name]
    with torch.device("meta"):
        ours = build().state_dict()
    ours = {key: torch.full((1,), float(i)) for i, key in enumerate(ours)}
    file = {prefix + key: value for key, value in Renaming(pairs).to_theirs(ours).items()}
    file |= {key: torch.ones(1) for key in others}
    assert not file.keys() & ours.keys()
    readers = (_lraspp, _segnext, _bisenetv2, _efficientvit, _topformer)
    (read,) = [found for reader in readers if (found := reader.backbone(file)) is not None]
    assert same(read, ours)


def test_bisenetv2s_file_is_a_dict_of_its_parts(tmp_path, same, caplog):
    network = BiSeNetV2(3, width=8, aux=False)
    state = network.backbone.state_dict()
    file = {}
    for key, value in Renaming(BISENET_FILE).to_theirs(state).items():
        part, _, name = key.partition(".")
        file.setdefault(part, {})[name] = value
    torch.save(file, tmp_path / "backbone.pth")
    other = BiSeNetV2(5, width=8, aux=False, backbone_weights=str(tmp_path / "backbone.pth"))
    assert same(other.backbone.state_dict(), state)
    del file["bga"]
    torch.save(file, tmp_path / "backbone.pth")
    other = BiSeNetV2(5, width=8, aux=False, backbone_weights=str(tmp_path / "backbone.pth")).backbone
    assert same(other.stages.state_dict(), network.backbone.stages.state_dict())
    assert "no ImageNet weights for the aggregation" in caplog.text


def test_bisenetv2_keeps_its_constants_with_its_file(tmp_path):
    """Nobody publishes others for this encoder, and the original code starts from this file with these constants."""
    for arrangement, constants in (("original", "bisenetv2"), ("mmseg", "imagenet")):
        encoder = BiSeNetV2(3, width=8, aux=False, arrangement=arrangement).backbone
        torch.save(encoder.state_dict(), tmp_path / "backbone.pth")
        options = {"arrangement": arrangement, "backbone_weights": str(tmp_path / "backbone.pth")}
        assert BiSeNetV2(3, width=8, aux=False, **options).normalize.constants == constants


def test_segnexts_files_of_other_sizes_are_told(same):
    with torch.device("meta"):
        state = SegNeXt(3, backbone="mscan_t", width=32).state_dict()
    theirs = _segnext.MMSEG.write(state)
    theirs |= {f"backbone.block1.{i}.layer_scale_1": theirs["backbone.block1.0.layer_scale_1"] for i in range(7)}
    with pytest.raises(ValueError, match=r"\(7, 3, 5, 2\) blocks; ours are mscan_t"):
        _segnext.MMSEG.describe(theirs)
