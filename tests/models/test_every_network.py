"""What every public network promises, one table of small ones: sizes, gradients, precisions, names, how it is built."""

import copy
import inspect
import json
import re
import types
import typing
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from segkd.models import _network
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
DINOV2 = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_ratio": 2,
          "image_size": 56, "patch_size": 14}  # fmt: skip


@dataclass(eq=False)
class Case:
    """A network and what is peculiar about it.

    Attributes:
        reads: features a loss has to read besides the scores for every parameter to learn.
        padded: multiple that images are padded to, of which the maps are then the part their stride says.
        sizes: (h, w) of the features that are of another size than their stride says.
        classifier: path of the module that makes the scores of `head`, if one does.
        takes_one: whether it can be trained on one image, which batch norm behind a global pooling cannot.
        resting: what is in the names of parameters whose gradient can be zero.
        on_meta: whether it can be built without memory; transformers' masks are made of real numbers only.
    """

    model: str
    args: dict
    prompted: bool = False
    reads: tuple[str, ...] = ()
    padded: int = 1
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    classifier: str | None = "classifier"
    takes_one: bool = False
    resting: str = "nothing"
    on_meta: bool = True


CASES = {
    "deeplabv3": Case("deeplabv3", RESNET),
    "deeplabv3-stride16": Case("deeplabv3", RESNET | {"output_stride": 16, "stem": "v1c"}),
    "deeplabv3-cirkd": Case(
        "deeplabv3",
        {"backbone": "mobilenetv3_small_100", "width": 8, "projection": "1x1", "dilation_rule": "cirkd"},
    ),
    "deeplabv3-transformers": Case("deeplabv3", {"backbone": DINOV2, "output_stride": 14, "width": 8}),
    "deeplabv3plus": Case("deeplabv3plus", MOBILE),
    "deeplabv3plus-stride32": Case("deeplabv3plus", MOBILE | {"output_stride": 32}),
    "deeplabv3plus-aicsd": Case(
        "deeplabv3plus", MOBILE | {"arrangement": "aicsd", "dilation_rule": "aicsd", "output_stride": 16}
    ),
    "deeplabv3plus-unimatch": Case(
        "deeplabv3plus", RESNET | {"arrangement": "unimatch", "stem": "v1s", "output_stride": 16}
    ),
    "pspnet": Case("pspnet", {"backbone": "mobilevit_xxs", "width": 8, "level_width": 4, "dilation_rule": "cirkd"}),
    "pspnet-timm": Case("pspnet", {"backbone": "timm/test_convnext", "width": 8}),
    "pspnet-stride32": Case("pspnet", MOBILE | {"output_stride": 32, "aux": False}),
    "pidnet": Case("pidnet", {"width": 4}, reads=("boundary",), classifier="head.classifier"),
    "pidnet-large": Case(
        "pidnet",
        {"variant": "l", "width": 4, "aux_reads_relu": False},
        reads=("boundary",),
        classifier="head.classifier",
    ),
    "pidnet-plain": Case("pidnet", {"width": 4, "stem_bias": False, "aux": False}, classifier="head.classifier"),
    "ddrnet": Case("ddrnet", {"width": 4, "pyramid_width": 8, "head_width": 8}, classifier="head.classifier"),
    "stdc": Case("stdc", {"width": 4}, reads=("aux16", "aux32", "detail")),
    "stdc-mmseg": Case(
        "stdc",
        {"width": 4, "variant": 2, "classifier_bias": True, "detail_channels": 2},
        reads=("aux16", "aux32", "detail"),
    ),
    "lraspp": Case("lraspp", {"width": 8}, classifier=None, takes_one=True),
    "lraspp-mmseg": Case("lraspp", {"width": 8, "arrangement": "mmseg"}, takes_one=True),
    "segnext": Case("segnext", {"width": 32}, takes_one=True),
    "bisenetv2": Case("bisenetv2", {"width": 8}, reads=("aux2", "aux3", "aux4", "aux5")),
    "bisenetv2-mmseg": Case("bisenetv2", {"width": 8, "arrangement": "mmseg", "aux": False}),
    "efficientvit_seg": Case("efficientvit_seg", {"width": 8}, takes_one=True),
    "topformer": Case("topformer", {}, takes_one=True),
    "segformer": Case("segformer", {"width": 8}, takes_one=True),
    "segformer-conv": Case("segformer", {"width": 8, "branches": "conv", "fuse_bias": True}, takes_one=True),
    "upernet": Case("upernet", {"backbone": "mit_b0", "width": 8, "aux_width": 8}),
    "upernet-stride8": Case("upernet", RESNET | {"output_stride": 8}),
    "upernet-timm": Case("upernet", {"backbone": "timm/test_convnext", "width": 8}),
    "upernet-cirkd": Case("upernet", MOBILE | {"arrangement": "cirkd", "output_stride": 8}, takes_one=True),
    "upernet-cirkd-mit": Case("upernet", {"backbone": "mit_b0", "width": 8, "arrangement": "cirkd"}, takes_one=True),
    "sam": Case("sam", SAM, padded=16, sizes={"level4": (2, 3)}),  # half of a grid of 5 x 7, rounded down
    **{
        f"sam-{guidance}": Case(
            "sam",
            SAM | {"prompt_guidance": guidance} | args,
            prompted=True,
            padded=16,
            sizes={"level4": (2, 3), "masks": (64, 96)},
            # of SAM's three masks the strongest counts, so one that is it nowhere learns nothing at that step
            resting="output_hypernetworks_mlps",
        )
        for guidance, args in {
            "channel": {"lora_rank": 2},
            "released": {"lora_rank": 2, "lora_targets": ("k",), "lora_alpha": 4.0},
            "spatial": {"depth": 5, "window_size": 2},
        }.items()
    },
    "sam-features": Case(
        "sam",
        SAM | {"head": None, "taps": (1, 3)},
        reads=("neck1", "neck2"),
        padded=16,
        classifier=None,
        takes_one=True,
    ),
    "bare_encoder": Case("bare_encoder", {}, reads=("stage4",), classifier=None, takes_one=True),
    "bare_encoder-timm": Case(
        "bare_encoder", {"backbone": "timm/test_vit"}, reads=("last",), classifier=None, takes_one=True
    ),
    "bare_encoder-transformers": Case(
        "bare_encoder", {"backbone": DINOV2, "last_norm": True}, reads=("stage4",), classifier=None, takes_one=True
    ),
    "trikd_tinyvit": Case("trikd_tinyvit", WIDTHS | {"variant": "5m"}, classifier="decoder.cls_seg.1"),
    "trikd_tinyvit-heads": Case(
        "trikd_tinyvit",
        WIDTHS | {"variant": "5m", "distill_heads": True},
        reads=("low", "attention"),
        classifier="decoder.cls_seg.1",
    ),
    "trikd_resnet": Case("trikd_resnet", WIDTHS | {"backbone": "resnet50"}, classifier="decoder.cls_seg.1"),
    "trikd_deit": Case(
        "trikd_deit",
        WIDTHS | {"variant": "tiny", "image_size": (64, 96), "neck_width": 12},
        sizes={"head": (2, 3)},  # half of a grid of 5 x 7, rounded down
        classifier="decoder.cls_seg.1",
    ),
    "huggingface": Case(
        "huggingface", {"config": SEGFORMER}, classifier="network.decode_head.classifier", takes_one=True
    ),
    "huggingface-masks": Case("huggingface", {"config": MASK2FORMER}, classifier=None, takes_one=True, on_meta=False),
}


MODELS = sorted({case.model for case in CASES.values()})


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
    assert set(MODELS) == set(parts.names("models"))


def maps_of(prediction: Prediction) -> list[Tensor]:
    scores = [scores for scores in (prediction.logits, prediction.aux) if scores is not None]
    return scores + list(prediction.features.values())


def test_maps_are_as_announced(case, network):
    network.eval()
    channels, strides, has_aux = dict(network.channels), dict(network.strides), network.has_aux
    generator = torch.get_rng_state()
    with torch.no_grad():
        plain = network(*inputs(case))
        network.features_wanted = {name for i, name in enumerate(channels) if i % 2}
        some = network(*inputs(case)).features
        network.features_wanted, network.aux_wanted = set(channels), has_aux
        prediction = network(*inputs(case))
    assert list(some) == list(channels)[1::2] and all(torch.equal(some[k], prediction.features[k]) for k in some)
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
    if case.classifier:
        assert torch.equal(network.get_submodule(case.classifier)(prediction.features["head"]), prediction.logits)

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


def test_a_single_image(case, network):
    one = [x[:1] for x in inputs(case)]
    network.eval()(*one)
    network.train()
    if case.takes_one:
        network(*one)
    else:
        with pytest.raises(ValueError, match="batch of 1 in training.* 2 images or more per process"):
            network(*one)


def test_how_it_is_built(case, network):
    assert network.num_classes == K and network.features_wanted == set() and network.aux_wanted is False
    state = network.state_dict()
    if case.on_meta:
        with torch.device("meta"):
            shapes = {key: value.shape for key, value in built(case).state_dict().items() if value.is_meta}
        assert shapes == {key: value.shape for key, value in state.items()}
    other, first, second = built(case, seed=1), built(case).state_dict(), built(case).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in state)
    other.load_state_dict(state)
    with torch.no_grad():
        maps = zip(*(maps_of(net.eval()(*inputs(case))) for net in (network, other)), strict=True)
    assert all(torch.equal(one, two) for one, two in maps)


def as_json(value: object) -> object:
    """An argument as a recipe has it: lists for tuples."""
    return json.loads(json.dumps(value))


def negative(hint: object) -> object:
    """A value of a hint's form whose numbers are all -1; None for a hint without numbers."""
    parts_of, kind = typing.get_args(hint), typing.get_origin(hint)
    if hint in (int, float):
        return hint(-1)
    if kind is typing.Annotated:
        return negative(parts_of[0])
    if kind is tuple:
        inner = negative(parts_of[0])
        return None if inner is None else [inner] * (1 if parts_of[-1] is ... else len(parts_of))
    found = [negative(part) for part in parts_of] if kind in (typing.Union, types.UnionType) else []
    return next((value for value in found if value is not None), None)


@pytest.mark.parametrize("model", MODELS)
def test_no_number_may_be_negative(model):
    hints = typing.get_type_hints(parts.find("models", model).__init__, include_extras=True)
    wrong = {name: value for name, hint in hints.items() if (value := negative(hint)) is not None}
    wrong.pop("num_classes")
    assert {key[0] for key, _ in parts.wrong_arguments("models", model, wrong)} == wrong.keys()
    for case in CASES.values():
        assert case.model != model or parts.wrong_arguments("models", model, as_json(case.args)) == []


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        ("deeplabv3", "width", 0), ("deeplabv3", "output_stride", 4), ("deeplabv3", "dropout", 1.0),
        ("deeplabv3", "backbone", "resnet19"), ("deeplabv3", "projection", "5x5"), ("deeplabv3", "stem", "v1d"),
        ("deeplabv3", "head_init", "zeros"), ("deeplabv3", "dilation_rule", "none"), ("pspnet", "level_width", 0),
        ("deeplabv3plus", "arrangement", "torchvision"), ("deeplabv3plus", "aux_width", 0), ("upernet", "bins", [1, 0]),
        ("upernet", "arrangement", "hf"), ("segformer", "backbone", "mit_b6"), ("segformer", "norm_eps", 0.0),
        ("sam", "image_size", 40), ("sam", "image_size", 0), ("sam", "lora_alpha", 0.0), ("sam", "lora_targets", []),
        ("sam", "lora_targets", ["o"]), ("sam", "depth", 0), ("trikd_tinyvit", "variant", "9m"),
        ("trikd_tinyvit", "windows", [7, 14]), ("trikd_tinyvit", "windows", [7, 14, 0]),
        ("trikd_resnet", "widths", [4, 6, 8]), ("trikd_resnet", "cutoff", 0.0), ("trikd_resnet", "center", "middle"),
        ("trikd_deit", "image_size", [0, 64]), ("trikd_deit", "neck_scales", [1.0, 0.0, 1.0, 1.0]),
        ("trikd_deit", "variant", "huge"), ("trikd_deit", "drop_path", 1.0), ("trikd_deit", "cutoff_unit", "pixels"),
    ],
)  # fmt: skip
def test_what_a_hint_refuses(model, name, value):
    assert [key[0] for key, _ in parts.wrong_arguments("models", model, {name: value})] == [name]


@pytest.mark.parametrize("model", MODELS)
def test_every_argument_is_described(model):
    network = parts.find("models", model)
    arguments = set(inspect.signature(network).parameters)
    described = network.__doc__.partition("Args:")[2].partition("\n\n")[0]
    assert arguments - set(re.findall(r"\w+", described)) == set()
    left = re.search(r"(num_classes[^:]*): see models/_network\.py", described)
    left = set(re.findall(r"\w+", left[1])) if left else set()
    assert arguments & left <= set(re.findall(r"(\w+):", _network.__doc__))
