"""INT8 files hold 8-bit weights per channel, leave the ends in float, and show which node costs what."""

import numpy as np
import pytest
import torch
from torch import nn

from segkd.models._prediction import Normalize, Prediction
from segkd.runner.exporting.programs import write_onnx
from segkd.runner.loading.data_sets import build_dataset
from segkd.runner.recipe.read import read

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from segkd.runner.exporting.quantization import Quantizer, seen_images  # noqa: E402
from segkd.runner.scoring.program import load_program  # noqa: E402


class Three(nn.Module):
    """Three convolutions, the second of which gives one channel that is ten thousand times as large as the others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.normalize, self.align_corners, self.num_classes = Normalize.named("imagenet"), False, 4
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 1)
        self.third = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.second.weight[0] *= 1e4
            self.third.weight[:, 0] /= 1e4
            self.third.weight[:, 1:] *= 10

    def forward(self, images):
        return Prediction(self.third(self.second(self.first(self.normalize(images)).relu())))


@pytest.fixture(scope="module")
def quantizers(tmp_path_factory):
    """The network, its float file, and symmetric -> what makes INT8 files of it."""
    folder, network = tmp_path_factory.mktemp("int8"), Three().eval()
    write_onnx(network, folder / "float32.onnx", (16, 24))
    generator = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (1, 3, 16, 24), dtype=torch.uint8, generator=generator) for _ in range(3)]
    made = {}
    for symmetric in (False, True):
        (folder / str(symmetric)).mkdir()
        calibration = "percentile" if symmetric else "minmax"
        made[symmetric] = Quantizer(
            folder / "float32.onnx", folder / str(symmetric), images, calibration, symmetric=symmetric
        )
    return images, folder, made


def weight_of(convolution, makers) -> str:
    """The name of the layer whose weight a convolution of an INT8 file reads."""
    return makers[convolution.input[1]].input[0].split(".")[-2]


def noise(folder, file, images):
    """Of a file's scores, as a share of the variance of the float file's."""
    expected, found = (load_program(one)(images).logits for one in (folder / "float32.onnx", file))
    return ((found - expected).square().mean() / expected.var()).item()


@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_are_int8_per_channel_and_the_ends_stay_in_float(quantizers, symmetric):
    images, folder, made = quantizers
    model = onnx.load(made[symmetric].write(folder / "all.onnx"))
    values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for convolution in convolutions:
        weight, scale = (values[name] for name in makers[convolution.input[1]].input[:2])
        assert weight.dtype == np.int8 and scale.shape == (len(weight),)
        # rounded to the nearest of 255 steps: the largest weight of a channel is 127 or -127
        assert (np.abs(weight.reshape(len(weight), -1)).max(1) >= 126).all()
    assert makers["logits"].op_type == "Resize", "nothing is rounded after the last resize"
    before = [node.op_type for node in model.graph.node if node.op_type in ("Cast", "Sub", "Div", "Conv")]
    assert before.index("Conv") == before.index("Div") + 1 or before[:2] == ["Cast", "Sub"]
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    zeros = [values[node.input[2]] for node in pairs]
    assert {zero.dtype for zero in zeros} == {np.dtype(np.int8 if symmetric else np.uint8)}
    assert not symmetric or all((zero == 0).all() for zero in zeros)


def test_the_node_that_costs_most_is_found_and_kept_in_float(quantizers):
    images, folder, made = quantizers
    quantizer = made[False]
    found = quantizer.sensitivities()
    assert len(found) == len(quantizer.nodes) == 3
    # its input or its output is the map whose small channels vanish beside the large one
    assert {one.node for one in found[:2]} == set(quantizer.nodes[1:])
    assert found[0].noise > 10 * found[2].noise and found[0].changed > found[2].changed
    everything = noise(folder, quantizer.write(folder / "a.onnx"), images[0])
    kept = noise(folder, quantizer.write(folder / "b.onnx", kept=[one.node for one in found[:2]]), images[0])
    assert kept < 0.01 < everything


def test_learned_ranges_take_the_place_of_those_of_the_images(quantizers, tmp_path):
    images, folder, _ = quantizers
    learned = {"second": (-1.0, 6.0), "nobody": (0.0, 1.0)}
    quantizer = Quantizer(folder / "float32.onnx", tmp_path, images[:1], "minmax", learned=learned)
    model = onnx.load(quantizer.write(tmp_path / "x.onnx"))
    values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    second = next(node for node in model.graph.node if node.op_type == "Conv" and weight_of(node, makers) == "second")
    scale, zero = (values[name] for name in makers[second.input[0]].input[1:])
    assert (scale, zero) == (pytest.approx(7 / 255), round(255 / 7))


def test_calibration_sees_what_the_protocol_shows_a_network(folder):
    network = Three()
    for words, sizes in (
        (["data.resize=[20,30]"], [(20, 30)] * 2),
        (["evaluate.mode=slide", "evaluate.window=[32,32]", "evaluate.stride=[32,16]"], [(32, 32)] * 4),
        (["evaluate.flip=true"], [(32, 48)] * 4),
    ):
        recipe = read(folder / "tiny.yaml", ["data.args.length=2", *words])
        images = seen_images(network, build_dataset(recipe, "val"), recipe)
        assert [tuple(one.shape[-2:]) for one in images] == sizes
        assert {one.dtype for one in images} == {torch.uint8}


def test_nodes_without_a_name_get_one(quantizers, tmp_path):
    model = onnx.load(quantizers[1] / "float32.onnx")
    for node in model.graph.node:
        node.name = "" if node.op_type == "Conv" else node.name
    onnx.save(model, tmp_path / "nameless.onnx")
    quantizer = Quantizer(tmp_path / "nameless.onnx", tmp_path, quantizers[0][:1], "minmax")
    assert len(set(quantizer.nodes)) == len(quantizer.nodes) == 3 and all(quantizer.nodes)
