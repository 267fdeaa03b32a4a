"""What every public network promises, one table of small ones: sizes, gradients, precisions, names, how it is built."""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from segkd.models._prediction import Normalize, Prediction
from segkd.runner.recipe import parts

K, SIZE = 5, (65, 97)
RESNET = {"backbone": "resnet18", "width": 8}
MOBILE = {"backbone": "mobilenetv2_035", "width": 8}
SAM = {"embed_dim": 16, "depth": 4, "num_heads": 2, "global_blocks": (0, 1, 2, 3), "window_size": 3,
       "out_channels": 16, "image_size": 64, "neck_width": 8, "head_width": 8}  # fmt: skip
SEGFORMER = {"model_type": "segformer", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
             "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 16}  # fmt: skip
SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
        "out_features": ["stage1", "stage2", "stage3", "stage4"]}  # fmt: skip
MASK2FORMER = {"model_type": "mask2former", "num_queries": 6, "hidden_dim": 32, "encoder_feedforward_dim": 16,
               "encoder_layers": 1, "dim_feedforward": 16, "num_attention_heads": 2, "backbone_config": SWIN,
               "feature_size": 32, "mask_feature_size": 32, "decoder_layers": 2,
               "use_auxiliary_loss": False}  # fmt: skip
WIDTHS = {"widths": (4, 6, 8, 10)}


@dataclass(eq=False)
class Case:
    """A network and what is peculiar about it.

    Attributes:
        reads: features a loss has to read besides the scores for every parameter to learn.
        padded: multiple that images are padded to, of which the maps are then the part their stride says.
        sizes: (h, w) of the features that are of another size than their stride says.
        resting: what is in the names of parameters whose gradient can be zero.
        on_meta: whether it can be built without memory; transformers' masks are made of real numbers only.
    """

    model: str
    args: dict
    prompted: bool = False
    reads: tuple[str, ...] = ()
    padded: int = 1
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    resting: str = "nothing"
    on_meta: bool = True


CASES = {
    "deeplabv3": Case("deeplabv3", RESNET),
    "deeplabv3-cirkd": Case(
        "deeplabv3",
        {"backbone": "mobilenetv3_small_100", "width": 8, "projection": "1x1", "dilation_rule": "cirkd"},
    ),
    "deeplabv3plus": Case("deeplabv3plus", MOBILE),
    "deeplabv3plus-aicsd": Case(
        "deeplabv3plus", MOBILE | {"arrangement": "aicsd", "dilation_rule": "aicsd", "output_stride": 16}
    ),
    "deeplabv3plus-unimatch": Case(
        "deeplabv3plus", RESNET | {"arrangement": "unimatch", "stem": "v1s", "output_stride": 16}
    ),
    "pspnet": Case("pspnet", {"backbone": "mobilevit_xxs", "width": 8, "level_width": 4, "dilation_rule": "cirkd"}),
    "pspnet-timm": Case("pspnet", {"backbone": "timm/test_convnext", "width": 8}),
    "segformer": Case("segformer", {"width": 8}),
    "segformer-conv": Case("segformer", {"width": 8, "branches": "conv", "fuse_bias": True}),
    "upernet": Case("upernet", {"backbone": "mit_b0", "width": 8, "aux_width": 8}),
    "upernet-cirkd": Case("upernet", MOBILE | {"arrangement": "cirkd", "output_stride": 8}),
    "sam": Case("sam", SAM, padded=16, sizes={"level4": (2, 3)}),  # half of a grid of 5 x 7, rounded down
    "sam-prompted": Case(
        "sam",
        SAM | {"lora_rank": 2, "prompt_guidance": "channel"},
        prompted=True,
        padded=16,
        sizes={"level4": (2, 3), "masks": (64, 96)},
        # of SAM's three masks the strongest counts, so one that is it nowhere learns nothing at that step
        resting="output_hypernetworks_mlps",
    ),
    "sam-features": Case("sam", SAM | {"head": None, "taps": (1, 3)}, reads=("neck1", "neck2"), padded=16),
    "trikd_tinyvit": Case("trikd_tinyvit", WIDTHS | {"variant": "5m"}),
    "trikd_tinyvit-heads": Case(
        "trikd_tinyvit", WIDTHS | {"variant": "5m", "distill_heads": True}, reads=("low", "attention")
    ),
    "trikd_resnet": Case("trikd_resnet", WIDTHS | {"backbone": "resnet50"}),
    "trikd_deit": Case(
        "trikd_deit",
        WIDTHS | {"variant": "tiny", "image_size": (64, 96), "neck_width": 12},
        sizes={"head": (2, 3)},  # half of a grid of 5 x 7, rounded down
    ),
    "huggingface": Case("huggingface", {"config": SEGFORMER}),
    "huggingface-masks": Case("huggingface", {"config": MASK2FORMER}, on_meta=False),
}


def built(case: Case, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return parts.find("models", case.model)(K, **case.args)


@torch.no_grad()
def shaken(network: nn.Module) -> nn.Module:
    """With nothing left at a start, such as zeros, from which gradients or differences cannot come."""
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        if weight.ndim == 1 or not weight.any():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return network


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def prototype(request) -> tuple[Case, nn.Module]:
    """Built once for all tests of a case."""
    return request.param, shaken(built(request.param))


@pytest.fixture
def case(prototype) -> Case:
    return prototype[0]


@pytest.fixture
def network(prototype) -> nn.Module:
    return copy.deepcopy(prototype[1])


def inputs(case: Case) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8, generator=generator)
    return (images, torch.randint(K, (2, 1, *SIZE), generator=generator)) if case.prompted else (images,)


def wanted_shape(case: Case, network: nn.Module, name: str) -> tuple[int, ...]:
    stride = network.strides[name]
    rounded = (-(-side // case.padded) * case.padded for side in SIZE)
    size = case.sizes.get(name) or tuple(-(-side // stride) for side in rounded)
    if name == "attention":  # between all pairs of tokens
        size = (size[0] * size[1],) * 2
    return (2, network.channels[name], *size)


def test_the_table_names_every_file():
    assert {case.model for case in CASES.values()} == set(parts.names("models"))


def maps_of(prediction: Prediction) -> list[Tensor]:
    scores = [scores for scores in (prediction.logits, prediction.aux) if scores is not None]
    return scores + list(prediction.features.values())


def test_maps_are_as_announced(case, network):
    network.eval()
    channels, strides, has_aux = dict(network.channels), dict(network.strides), network.has_aux
    generator = torch.get_rng_state()
    with torch.no_grad():
        plain = network(*inputs(case))
        network.features_wanted, network.aux_wanted = set(channels), has_aux
        prediction = network(*inputs(case))
    assert torch.equal(generator, torch.get_rng_state())
    assert plain.features == {} and plain.aux is None and prediction.align_corners == network.align_corners
    assert list(prediction.features) == list(channels) == list(strides)
    for name, feature in prediction.features.items():
        assert tuple(feature.shape) == wanted_shape(case, network, name), name
    assert network.norms.keys() <= channels.keys()
    for name, norm in network.norms.items():
        assert [len(values) for values in norm] == [channels[name]] * 2, name

    assert (prediction.aux is not None) == has_aux and (not has_aux or prediction.aux.shape[:2] == (2, K))
    if network.gives_logits:
        assert torch.equal(plain.logits, prediction.logits)
        assert prediction.logits.shape == (2, K, *wanted_shape(case, network, "head")[2:])
        assert prediction.resized(SIZE).shape == (2, K, *SIZE)

    network.features_wanted = {"stage9"}
    with pytest.raises(ValueError, match=f"{type(network).__name__} has no feature 'stage9'; it has: "):
        network(*inputs(case))
    if not case.prompted:
        with pytest.raises(ValueError, match=f"{type(network).__name__} takes no prompt"):
            network(*inputs(case), torch.zeros(2, 1, *SIZE))


def test_precision_memory_format_and_normalisation_change_little(case, network):
    network.eval()
    network.features_wanted, network.aux_wanted = set(network.channels), network.has_aux
    images, *prompt = inputs(case)
    with torch.no_grad():
        found = maps_of(network(images, *prompt))
        exact = maps_of(network.double()(images, *prompt))
        network.float().to(memory_format=torch.channels_last)
        normalised = network.normalize(images).contiguous(memory_format=torch.channels_last)
        network.normalize = Normalize.named("none")
        turned = maps_of(network(normalised, *prompt))
    for one, two, wanted in zip(found, turned, exact, strict=True):
        assert wanted.dtype == torch.float64
        for x in (one, two):
            assert (x - wanted).abs().max() < 1e-3 * wanted.std()


def backward(case: Case, network: nn.Module) -> None:
    """One backward pass of all that a training step reads."""
    network.features_wanted = set(case.reads)
    generator = torch.Generator().manual_seed(2)
    maps = maps_of(network(*inputs(case)))
    sum((x * torch.randn(x.shape, generator=generator)).sum() for x in maps).backward()


def test_every_trained_parameter_learns(case, network):
    network.train()
    backward(case, network)
    for name, weight in network.named_parameters():
        assert weight.requires_grad == (weight.grad is not None), name
        assert weight.grad is None or case.resting in name or weight.grad.any(), name
    assert any(name.startswith(network.backbone_prefixes) for name, _ in network.named_parameters())
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        backward(case, network)
    assert all(weight.grad.isfinite().all() for weight in network.parameters() if weight.requires_grad)


def test_how_it_is_built(case, network):
    assert network.num_classes == K and network.features_wanted == set() and network.aux_wanted is False
    state = network.state_dict()
    if case.on_meta:
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in built(case).state_dict().items() if value.is_meta}
        assert shapes == {key: value.shape for key, value in state.items()}
    other = built(case, seed=1)
    other.load_state_dict(state)
    with torch.no_grad():
        maps = zip(*(maps_of(net.eval()(*inputs(case))) for net in (network, other)), strict=True)
    assert all(torch.equal(one, two) for one, two in maps)
