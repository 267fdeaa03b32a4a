"""Frozen networks in a precision of their own, compiled, or on smaller images, and what cannot be frozen."""

import functools

import pytest
import torch
import torch.nn.functional as F
import transformers
from accelerate import Accelerator

from segkd.runner.building.device import prepare_for_device
from segkd.runner.building.frozen import Cheaper, as_it_is, cheaper, gains_nothing, takes_longer
from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import build_network, build_networks
from segkd.runner.building.shapes import shape_graph, shape_predictions
from segkd.runner.recipe import parts
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.network import Network
from segkd.runner.recipe.read import read
from segkd.runner.scoring.cost import told_gain

RECIPE = """\
name: cheaper
data: {dataset: synthetic, args: {size: [64, 96], length: 4}, crop_size: [64, 96], batch_size: 2}
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035, width: 8}}
  teacher: {model: pspnet, args: {backbone: mobilenetv2_035, width: 8}, train: false, weights: random}
losses: [{loss: cross_entropy}, {loss: kl, from: teacher}, {loss: fitnet, from: teacher, args: {feature: stage2}}]
schedule: {iterations: 10}
"""
IMAGES = torch.randint(256, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = IMAGES.permute(0, 3, 1, 2)  # as they are loaded


@pytest.fixture
def recipe(tmp_path):
    """recipe("teacher.compile=true", ...) is RECIPE with these changes of its networks."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda *changes: read(tmp_path / "recipe.yaml", [f"networks.{change}" for change in changes])


@pytest.fixture
def network():
    torch.manual_seed(0)
    built = parts.build("models", "pspnet", {"backbone": "mobilenetv2_035", "width": 8}, 8).eval()
    built.features_wanted = {"stage2", "stage4"}
    return built


def maps_of(prediction):
    return {"logits": prediction.logits, **prediction.features}


@torch.no_grad()
def made_by(network, images=IMAGES):
    network.features_wanted = {"stage2", "stage4"}
    return maps_of(network.eval()(images))


@pytest.mark.parametrize("scale, size", [(0.5, (32, 48)), (0.75, (48, 72)), (0.7, (45, 67))])
def test_smaller_images_make_smaller_maps_and_larger_strides(network, scale, size):
    small = Cheaper(network, scale=scale)
    found = made_by(small)
    normalised = F.interpolate(network.normalize(IMAGES), size=size, mode="bilinear", antialias=True)
    network.normalize = torch.nn.Identity()
    torch.testing.assert_close(found, made_by(network, normalised))
    for name in ("stage2", "stage4"):
        assert small.strides[name] == network.strides[name] / scale
        assert found[name].shape[-2:] == tuple(-(-side // network.strides[name]) for side in size)
    exact = {name: maps for name, maps in found.items() if name in small.strides and scale != 0.7}
    for name, maps in exact.items():
        assert abs(maps.shape[-2] * small.strides[name] - 64) < small.strides[name]


def test_another_precision_changes_no_type_that_losses_see(network):
    plain, half = made_by(network), made_by(Cheaper(network, "bf16"))
    for name, maps in half.items():
        assert maps.dtype == torch.float32 and not torch.equal(maps, plain[name])
        assert (maps - plain[name]).norm() < 0.1 * plain[name].norm()
    with torch.autocast("cpu", torch.bfloat16):  # loop.precision
        assert made_by(network)["logits"].dtype == torch.bfloat16
        torch.testing.assert_close(made_by(Cheaper(network, "fp32")), plain, rtol=0, atol=0)


def test_what_is_asked_for_nothing_is_the_network_itself(network, recipe):
    entry = recipe().networks["teacher"]
    assert cheaper(network, entry) is network and as_it_is(network) is network
    made = cheaper(network, entry.model_copy(update={"input_scale": 0.5}))
    made.features_wanted, made.aux_wanted = {"stage1"}, True
    assert as_it_is(made) is network and network.features_wanted == {"stage1"} and network.aux_wanted


def test_the_graph_of_a_run_and_its_shapes_have_the_cheaper_network(recipe):
    recipe = recipe("teacher.input_scale=0.75", "teacher.precision=bf16")
    dataset = type("dataset", (), {"num_classes": 8, "class_names": tuple("abcdefgh")})
    graph = build_graph(recipe, build_networks(recipe, dataset), 255)
    graph.train()
    found = {name: graph.predict([name], IMAGES)[0] for name in recipe.networks}
    shapes = shape_predictions(shape_graph(recipe), recipe)
    for name, prediction in found.items():
        theirs = maps_of(shapes[name, "labelled"])
        assert {key: maps.shape for key, maps in maps_of(prediction).items()} == {k: m.shape for k, m in theirs.items()}
    assert found["teacher"].features["stage2"].shape[-2:] == (6, 9)
    losses = graph(IMAGES, torch.zeros(2, 64, 96, dtype=torch.int64), 0)
    sum(losses.values()).backward()
    assert losses.keys() == {"cross_entropy", "kl", "fitnet"} and not graph.network("teacher").training


@pytest.fixture
def traced(monkeypatch):
    """torch.compile that traces a network, but makes no code of it, which would take a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    yield
    torch.compiler.reset()


def test_a_compiled_teacher_says_the_same_and_one_that_cannot_be_is_refused(recipe, traced, monkeypatch):
    recipe, accelerator = recipe("teacher.compile=true", "teacher.precision=bf16"), Accelerator(cpu=True)
    dataset = type("dataset", (), {"num_classes": 8, "class_names": tuple("abcdefgh")})
    graph = build_graph(recipe, build_networks(recipe, dataset), 255)
    prepare_for_device(graph, recipe, accelerator)
    teacher = graph.network("teacher")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert "teacher (bf16, compiled): a forward of 2 images takes" in told_gain("teacher", teacher, recipe, accelerator)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1
    found = maps_of(graph.predict(["teacher"], IMAGES)[0])
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 1, "a step needs no other code"
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(found, maps_of(teacher(IMAGES)))

    compute = teacher.network.compute
    monkeypatch.setattr(teacher.network, "compute", lambda *given: torch._dynamo.graph_break() or compute(*given))
    with pytest.raises(ValueError, match=r"^networks.teacher.compile: torch.compile cannot take this .*; leave it out"):
        told_gain("teacher", teacher, recipe, accelerator)


@pytest.mark.parametrize("precision, there, nothing", [
    ("bf16", {"avx512_f": True, "avx512_bf16": False}, True),
    ("bf16", {"avx512_f": True, "amx_bf16": True}, False),
    ("fp16", {"avx512_bf16": True, "avx512_fp16": False, "cpu_name": "fp16"}, True),
    ("fp32", {}, False),
    (None, {}, False),
])  # fmt: skip
def test_a_processor_without_the_instructions_is_known(monkeypatch, precision, there, nothing):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there, raising=False)
    assert gains_nothing(precision, torch.device("cpu")) == nothing
    assert not gains_nothing(precision, torch.device("cuda"))


@pytest.mark.parametrize("has_library, knows", [(True, True), (True, False), (False, False)])
def test_a_half_precision_that_torch_leaves_to_slow_code_is_known(monkeypatch, has_library, knows):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_library)
    for precision in ("bf16", "fp16"):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", lambda: knows, raising=False)
        assert takes_longer(precision, torch.device("cpu")) == (not knows)
        assert not takes_longer(precision, torch.device("cuda"))
    assert not takes_longer("no", torch.device("cpu"))


@pytest.mark.parametrize("change, told", [
    ("student.precision=bf16", "student is trained, and this is for frozen networks .*; loop.precision is for"),
    ("student.compile=true", "student is trained, and this is for frozen networks .*; loop.compile is for"),
    ("student.input_scale=0.5", "student is trained, and this is for frozen networks .*; leave it out"),
    ("average={ema_of: student, train: false, compile: true}", "a moving average is computed as student is"),
    ("teacher={model: sam, train: false, weights: sam.pth, prompted_by: student, input_scale: 0.5}",
     "a prompt has the size of the images"),
    ("teacher.input_scale=1.5", "must be less than or equal to 1; got 1.5"),
])  # fmt: skip
def test_what_cannot_be_made_cheaper_is_a_mistake(recipe, change, told):
    with pytest.raises(RecipeError, match=told):
        recipe(change)


@pytest.mark.parametrize("kind", ["SegformerForImageClassification", "SegformerModel"])
def test_a_network_of_transformers_without_a_head_is_told_so(tmp_path, kind):
    config = transformers.SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4)
    getattr(transformers, kind)(config).save_pretrained(tmp_path)
    given = {"source": "hf", "model": str(tmp_path), "train": False}
    with pytest.raises(ValueError, match="they hold no segmentation head: train it, read .*head: null") as refused:
        build_network("teacher", Network(**given), 3, 0)
    assert "labels: own" not in str(refused.value)
    with pytest.raises(
        ValueError, match="holds no whole segmentation head .*set labels: dataset and train it, or read"
    ):
        build_network("teacher", Network(**given, args={"labels": "own"}), 3, 0)
