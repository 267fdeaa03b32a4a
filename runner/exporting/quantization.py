"""A network in INT8: weights and activations in 8 bits wherever that costs little, as one ONNX file.

Static quantisation of Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018: r = scale (q - zero point); weights per output channel, symmetric, int8;
activations per map, uint8, their ranges from images of training. The file holds int8 weights and pairs of
QuantizeLinear and DequantizeLinear, of which each runtime makes what its processor has. Normalisation and the last
resize stay in float32.
"""

import copy
import io
import itertools
import logging
from collections.abc import Iterable
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from segkd.models._int8 import Range
from segkd.models._prediction import Prediction
from segkd.runner.console import percent, progress_bar
from segkd.runner.loading.data_sets import fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.recipe.schema import Recipe
from segkd.runner.scoring.evaluation import label_map
from segkd.runner.scoring.program import session_options

COMPARED = 4  # images that a node's loss is looked for on
# what computes; whatever else is quantised moves values only, and is as good as what it moves
COMPUTING = {"Conv", "ConvTranspose", "MatMul", "Gemm", "Add", "Mul", "Sigmoid", "Softmax", "Concat", "Resize",
             "LeakyRelu", "AveragePool", "GlobalAveragePool", "InstanceNormalization",
             "LayerNormalization"}  # fmt: skip
LAYERS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


@dataclass(frozen=True)
class Sensitivity:
    """What a node costs that alone is quantised: share of the pixels that get another class, and the noise in the
    scores as a share of their variance.
    """

    node: str
    changed: float
    noise: float

    def __str__(self) -> str:
        return (
            f"{self.node} stays in float: alone in INT8 it changes the class of {percent(self.changed)} % of the pixels"
        )


class _Seen(nn.Module):
    """In the place of a network: keeps the images that a protocol shows it."""

    def __init__(self, like: nn.Module):
        super().__init__()
        self.num_classes, self.normalize, self.images = like.num_classes, like.normalize, []

    def forward(self, images: Tensor) -> Prediction:
        self.images.append(images.round().clamp(0, 255).to(torch.uint8).cpu())
        return Prediction(torch.zeros(len(images), self.num_classes, 1, 1, device=images.device))


def seen_images(network: nn.Module, dataset: Dataset, recipe: Recipe) -> list[Tensor]:
    """Images of a data set as a network sees them when it is scored: (1, 3, H, W) uint8, views and windows too."""
    seen = _Seen(network)
    for batch in evaluation_batches(dataset, resize=fixed_resize(recipe, scoring=True)):
        label_map(seen, batch, recipe)
    return seen.images


class Quantizer:
    """Makes INT8 files of one float32 ONNX file.

    Args:
        file: the float32 file. folder: for what is written on the way.
        images: what ranges are found on, each (B, 3, H, W) uint8. calibration: how; minmax takes the largest and the
            smallest value of a map, percentile all but one of 100 000, entropy those whose histogram loses least.
        symmetric: activations as int8 around zero.
        learned: ranges of layers' inputs, by the layer's name in the network, in place of those found on the images.

    Attributes:
        nodes: those that compute in INT8 unless they are kept in float, in the order of the graph.
    """

    def __init__(
        self,
        file: Path,
        folder: Path,
        images: list[Tensor],
        calibration: Literal["minmax", "entropy", "percentile"],
        *,
        symmetric: bool = False,
        learned: dict[str, Range] = {},
    ):
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self.folder, self.images, self.symmetric = folder, images, symmetric
        prepared = folder / "prepared.onnx"
        with quiet():
            quant_pre_process(file, prepared, skip_symbolic_shape=True)  # folds batch norms, finds the maps' types
        name_nodes(prepared)
        self.ranges = self._calibrate(prepared, calibration)
        self._take(file, learned)
        self.model = load_model_with_shape_infer(prepared)
        graph = self.model.graph
        first = next((index for index, node in enumerate(graph.node) if node.op_type in LAYERS), 0)
        self.always_float = [*(node.name for node in graph.node[:first]), *_last_resizes(graph)]
        # what has no range is no map but its size
        computing = [node.name for node in graph.node if node.op_type in COMPUTING and node.output[0] in self.ranges]
        self.nodes = [name for name in computing if name not in self.always_float]

    def _calibrate(self, file: Path, calibration: str):
        """The range of every map."""
        from onnxruntime.quantization import CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        methods = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
        method = getattr(CalibrationMethod, methods[calibration])
        calibrator = create_calibrator(file, None, str(self.folder / "augmented.onnx"), calibrate_method=method)
        for images in progress_bar(self.images, total=len(self.images), title="calibrating", unit="images"):
            with quiet():  # one at a time: all maps of all images take many gigabytes
                calibrator.collect_data(_Reader([images]))
        with quiet():
            return calibrator.compute_data()

    def _take(self, file: Path, learned: dict[str, Range]) -> None:
        """Puts learned ranges in the place of those of the maps that the layers read."""
        import onnx
        from onnxruntime.quantization.calibrate import TensorData

        weights = {f"network.{name}.weight": span for name, span in learned.items()}
        for node in onnx.load(file).graph.node if learned else ():
            span = next((weights[name] for name in node.input if name in weights), None)
            if span is not None and node.input[0] in self.ranges:
                low, high = (np.array(side, np.float32) for side in span)
                self.ranges[node.input[0]] = TensorData(lowest=low, highest=high)

    def write(self, path: Path, *, kept: Iterable[str] = (), only: Iterable[str] = ()) -> Path:
        """Writes an INT8 file.

        Args:
            kept: nodes that stay in float. only: nodes that are quantised, none else; none given: all that can be.
        """
        import onnx
        from onnxruntime.quantization import QDQQuantizer, QuantType
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        left = [*self.always_float, *kept]
        types = sorted({*QDQRegistry, *QLinearOpsRegistry})
        activations = QuantType.QInt8 if self.symmetric else QuantType.QUInt8
        options = {"WeightSymmetric": True, "ActivationSymmetric": self.symmetric}
        with quiet():
            quantizer = QDQQuantizer(  # per channel; all 8 bits of a weight
                copy.deepcopy(self.model), True, False, QuantType.QInt8, activations, self.ranges, [*only], left, types,
                options,
            )  # fmt: skip
            quantizer.quantize_model()
        model = quantizer.model.model
        shorten(model.graph)
        onnx.save(model, path)
        return path

    def sensitivities(self) -> list[Sensitivity]:
        """Each node with what it costs if it alone is quantised, the worst first."""
        images = [image[:1] for image in self.images[:: max(1, len(self.images) // COMPARED)][:COMPARED]]
        expected = [_scores(self.folder / "prepared.onnx", image) for image in images]
        found = []
        for name in progress_bar(self.nodes, total=len(self.nodes), title="looking for what INT8 costs", unit="nodes"):
            file = self.write(self.folder / "one.onnx", only=[name])
            scores = [_scores(file, image) for image in images]
            pairs = list(zip(expected, scores))
            changed = np.mean([(a.argmax(1) != b.argmax(1)).mean() for a, b in pairs])
            noise = np.mean([((a - b) ** 2).mean() / max(a.var(), 1e-12) for a, b in pairs])
            found.append(Sensitivity(name, float(changed), float(noise)))
        return sorted(found, key=lambda one: (-one.changed, -one.noise))


class _Reader:
    """Batches in the form in which onnxruntime's calibration asks for them."""

    def __init__(self, batches: list[Tensor]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch.numpy()}


def _scores(file: Path, images: Tensor) -> np.ndarray:
    """(B, K, H, W) of a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, session_options(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images.numpy()})[0]


def name_nodes(file: Path) -> None:
    """Names for the nodes of a file that have none, as those that came of others: it is by names that they are kept."""
    import onnx

    model = onnx.load(file)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{node.op_type}_{number}"
    onnx.save(model, file)


def shorten(graph) -> None:
    """Numbers for names, but those of the weights and of what goes in and out: a tenth of a small file."""
    del graph.value_info[:]
    kept = {one.name for one in (*graph.input, *graph.output)}
    weights = {one.name for one in graph.initializer if one.name.endswith("_quantized")}
    numbers = itertools.count()
    short = {name: name for name in kept | weights}

    def named(name: str) -> str:
        if name and name not in short:
            short[name] = f"m{next(numbers)}"
        return short.get(name, name)

    for one in graph.initializer:
        one.name = named(one.name)
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.name = ""
        for names in (node.input, node.output):
            names[:] = [named(name) for name in names]


def _last_resizes(graph) -> list[str]:
    """The nodes between the last scores and the output: the resize to the images' size."""
    makers = {output: node for node in graph.node for output in node.output}
    names, node = [], makers.get(graph.output[0].name)
    while node is not None and node.op_type in ("Resize", "Cast", "Identity"):
        names.append(node.name)
        node = makers.get(node.input[0])
    return names


@contextmanager
def quiet():
    """onnxruntime's quantiser tells at length what it does."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
