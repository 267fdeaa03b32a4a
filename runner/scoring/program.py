"""An exported file as a network that is scored like any other, by the file's own runtime."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segkd.models._prediction import Normalize, Prediction
from segkd.runner.recipe.program_file import ProgramFile
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.schema import Recipe
from segkd.runner.scoring.evaluation import Evaluation
from segkd.runner.scoring.torch_archive import refuse_code

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Signature:
    """What a file takes and gives: batch, height and width where it takes no other, how many classes it scores."""

    batch: int | None
    size: tuple[int, int] | None
    num_classes: int


class OtherSize(ValueError):
    """Images of another size than the only one that a file takes. size: theirs, (H, W)."""

    def __init__(self, sentence: str, size: tuple[int, int]):
        super().__init__(sentence)
        self.size = size


class Program(nn.Module):
    """A network in an exported file: forward(images) -> Prediction. It takes bytes and normalises them itself.

    Views of a protocol that are no bytes (other scales, padding with the mean colour) are rounded to them. Its logits
    come at the images' size, as the file resizes them: where labels have another size, they are resized once more.

    Attributes:
        about: what the file says of itself, see ProgramFile.read_about. engine: what computes it.
        signature: what it takes and gives.

    Shapes:
        images: (B, 3, H, W) RGB, uint8 or float in 0..255. logits: (B, K, H, W) float32.
    """

    gives_logits, takes_prompt = True, False

    def __init__(
        self, file: ProgramFile, run: Callable[[Tensor], Tensor], signature: Signature, about: dict, engine: str
    ):
        super().__init__()
        self.file, self.signature, self.about, self.engine = file, signature, about, engine
        self.num_classes = signature.num_classes
        told = [about.get("num_classes"), *(len(about[key]) for key in ("class_names", "palette") if about.get(key))]
        wrong = [count for count in told if count not in (None, self.num_classes)]
        if wrong:
            raise ValueError(
                f"{file.path} says that it has {wrong[0]} classes and gives {self.num_classes}; export it again"
            )
        self.class_names = about.get("class_names") or [str(index) for index in range(self.num_classes)]
        self.align_corners = bool(about.get("align_corners"))
        try:
            self.normalize = Normalize.of(about.get("normalize") or "imagenet")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file.path}: segkd.normalize in it: {error}") from None
        self._run = run

    def forward(self, images: Tensor) -> Prediction:
        size, batch = self.signature.size, self.signature.batch
        if size not in (None, tuple(images.shape[-2:])):
            height, width = images.shape[-2:]
            raise OtherSize(
                f"{self.file.path} takes images of {size[0]}x{size[1]} only, and these are {height}x{width}: resize "
                f"them (score: data.resize=[{size[0]},{size[1]}]; predict: --resize {size[0]} {size[1]}), slide a "
                f"window of this size, or export for another one with --input-size",
                (height, width),
            )
        pixels = images.round().clamp(0, 255).to(torch.uint8) if images.is_floating_point() else images
        parts = pixels.contiguous().split(batch or len(pixels))
        if len(parts[-1]) != (batch or len(pixels)):
            raise ValueError(f"{self.file.path} takes {batch} images at a time only; set evaluate.batch_size={batch}")
        scores = torch.cat([self._run(part) for part in parts])
        return Prediction(scores, self.align_corners)


def load_program(path: Path | str, device: str = "cpu") -> Program:
    """The network in an .onnx or .pt2 file. The file starts no code of its own.

    Raises:
        FileNotFoundError: no such file. ValueError: it cannot be run, or is no network from images to class scores.
    """
    file = ProgramFile(path)
    about = file.read_about()
    load = _load_torch if file.path.suffix.lower() == ".pt2" else _load_onnx
    return load(file, about, device)


def scores_of_file(result: Evaluation, recipe: Recipe) -> dict:
    """What stands beside a file of its evaluation: values, and how and on what they were made."""
    return {
        **result.values,
        "metrics": recipe.evaluate.metrics,
        "protocol": protocol_words(recipe),
        "absent": recipe.evaluate.absent,
        "dataset": recipe.data.dataset,
        "split": recipe.data.val_split,
    }


def _load_onnx(file: ProgramFile, about: dict, device: str) -> Program:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f'{file.path} needs onnxruntime, which is not installed: pip install -e ".[export]"') from None
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise ValueError(f"{file.path}: the onnxruntime that is installed does not compute on {device}")
    try:
        session = onnxruntime.InferenceSession(file.path, session_options(), providers=[PROVIDERS[device]])
    except Exception as error:  # its errors have no common class
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{file.path} cannot be run by onnxruntime {onnxruntime.__version__}: {reason}") from None
    inputs, outputs = session.get_inputs(), session.get_outputs()
    takes, gives = (", ".join(f"{one.type} {one.shape}" for one in side) for side in (inputs, outputs))
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or not _is_rgb(inputs[0].shape):
        raise ValueError(f"{file.path} takes {takes}; {MUST_TAKE}")
    if len(outputs) != 1 or outputs[0].type != "tensor(float)" or len(outputs[0].shape) != 4:
        raise ValueError(f"{file.path} gives {gives}; {MUST_GIVE}")
    name, num_classes = inputs[0].name, outputs[0].shape[1]
    batch, _, *size = (side if isinstance(side, int) else None for side in inputs[0].shape)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.cpu().numpy()})[0]).to(images.device)

    if not isinstance(num_classes, int):
        raise ValueError(f"{file.path} gives {gives}; {MUST_GIVE}")
    signature = Signature(batch, None if None in size else tuple(size), num_classes)
    return Program(file, run, signature, about, f"onnxruntime on {device}")


MUST_TAKE = "what is scored takes images (batch, 3, height, width) as uint8 RGB, as export.py writes it"
MUST_GIVE = "what is scored gives logits (batch, classes, height, width) as float32, as export.py writes it"


def session_options():
    """onnxruntime's, with torch's threads; it says in errors, not beside them, what is wrong.

    Processors of x86 without VNNI add products of INT8 in 16 bits, which overflow, unless they are asked for exact ones.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _is_rgb(shape: list) -> bool:
    return len(shape) == 4 and shape[1] == 3


def _load_torch(file: ProgramFile, about: dict, device: str) -> Program:
    if device != "cpu":
        raise ValueError(f"{file.path} was exported for the CPU; leave --device {device} out")
    refuse_code(file.path)
    try:
        program = torch.export.load(file.path)
        module = program.module()
    except Exception as error:  # a damaged or foreign archive fails in any way
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{file.path} cannot be loaded by torch {torch.__version__}: {reason}") from None
    user, given = program.graph_signature.user_inputs, program.graph_signature.user_outputs
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    images, logits = ([values.get(name) for name in names] for names in (user, given))
    if len(images) != 1 or not isinstance(images[0], Tensor) or not _is_rgb(images[0].shape) or (
        images[0].dtype != torch.uint8
    ):  # fmt: skip
        raise ValueError(f"{file.path} takes {_told(images)}; {MUST_TAKE}")
    if len(logits) != 1 or not isinstance(logits[0], Tensor) or logits[0].ndim != 4 or (
        logits[0].dtype != torch.float32 or not isinstance(logits[0].shape[1], int)
    ):  # fmt: skip
        raise ValueError(f"{file.path} gives {_told(logits)}; {MUST_GIVE}")
    batch, _, *size = (side if isinstance(side, int) else None for side in images[0].shape)
    signature = Signature(batch, None if None in size else tuple(size), logits[0].shape[1])

    def run(images: Tensor) -> Tensor:  # no part of the module: it knows no eval and no train
        return module(images.cpu()).to(images.device)

    return Program(file, run, signature, about, "torch.export on cpu")


def _told(values: list) -> str:
    return ", ".join(
        f"{one.dtype} {list(one.shape)}" if isinstance(one, Tensor) else type(one).__name__ for one in values
    )
