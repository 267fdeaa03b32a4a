"""A network as one file that needs none of our code: ONNX and torch.export. Normalisation and resizing are inside."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from torch import nn
from torch.export.graph_signature import InputKind

from segkd.runner.building.delivered import Delivered
from segkd.runner.exporting.agreement import Export, PlainScores, Scorer, Shape, compare, other_sizes, reason_of
from segkd.runner.exporting.hub import shareable
from segkd.runner.recipe.program_file import KEY, KNOWN
from segkd.runner.recipe.yaml_file import write
from segkd.runner.scoring.program import session_options

AXES = {0: "batch", 2: "height", 3: "width"}


def told_of(delivered: Delivered) -> dict:
    """What a file says of itself: who made it from what, how its scores are told, and on which data."""
    config = {key: delivered.config[key] for key in KNOWN if key in delivered.config}
    values = shareable(yaml.safe_load(delivered.recipe)) if delivered.recipe else None
    # json: tuples become lists, as they are read again
    told = {"align_corners": delivered.network.align_corners, "precision": "float32"}
    return json.loads(json.dumps(config | told | ({"yaml": write(values)} if values else {})))


def write_program(
    network: nn.Module, path: Path, size: tuple[int, int], *, fixed_size: bool = False, about: dict | None = None
) -> Export:
    """A torch.export program (.pt2): `torch.export.load(path).module()(images)`.

    Args:
        size: height and width it is traced at. fixed_size: take no other one. about: what the file says of itself.

    Raises:
        ValueError: the network cannot be traced, or what was written computes something else.
    """

    def save(program: torch.export.ExportedProgram, dynamic: bool) -> Scorer:
        leave_out_unread(program)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names folders of this machine
        torch.export.save(program, path, extra_files={f"{KEY}.json": json.dumps(about or {})})
        return torch.export.load(path).module()

    return _export(network, size, fixed_size, save, "torch.export")


def leave_out_unread(program: torch.export.ExportedProgram) -> None:
    """Takes out what the network holds and its scores do not need, such as heads for training alone, in place."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    for spec in [spec for spec in specs if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)]:
        if not nodes[spec.arg.name].users:
            program.graph.erase_node(nodes[spec.arg.name])
            specs.remove(spec)
            for held in (program.state_dict, program.constants):
                held.pop(spec.target, None)
    program.graph_module.recompile()


def write_onnx(
    network: nn.Module, path: Path, size: tuple[int, int], *, fixed_size: bool = False, about: dict | None = None
) -> Export:
    """An ONNX file with the input `images` (batch, 3, height, width) uint8 and the output `logits` of that size.

    Args:
        size: height and width it is traced at. fixed_size: take no other one. about: what the file says of itself.

    Raises:
        ValueError: onnx is not installed, the network cannot be traced or written as ONNX, or onnxruntime computes
            something else from the file than torch.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch needs it, and says so less clearly
    except ImportError as error:
        raise ValueError(f'ONNX needs {error.name}, which is not installed: pip install -e ".[export]"') from None

    def save(program: torch.export.ExportedProgram, dynamic: bool) -> Scorer:
        axes = {axis: name for axis, name in AXES.items() if dynamic or name == "batch"}
        written = torch.onnx.export(
            program, input_names=["images"], output_names=["logits"], dynamic_shapes={"images": axes}, verbose=False
        )
        for node in written.model.graph.all_nodes():
            node.metadata_props.clear()  # where in which code it comes from: a third of a small file
        written.model.metadata_props[KEY] = json.dumps(about or {})
        written.save(path)
        session = onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return _export(network, size, fixed_size, save, "onnxruntime")


def _export(
    network: nn.Module,
    size: tuple[int, int],
    fixed_size: bool,
    save: Callable[[torch.export.ExportedProgram, bool], Scorer],
    engine: str,
) -> Export:
    """An export with dynamic sizes if it is right at two further sizes, else with this size alone.

    Args:
        save: writes a program, with dynamic sizes or without, and loads it again.
    """

    def export(shapes: list[Shape], remark: str, dynamic: bool) -> Export:
        images = torch.zeros(2, 3, *size, dtype=torch.uint8)  # batches of 1 are taken for a constant
        axes = {0: torch.export.Dim("batch")}
        if dynamic:
            axes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
        with _quiet(), torch.no_grad():
            program = torch.export.export(PlainScores(network).eval(), (images,), dynamic_shapes={"images": axes})
            scorer = save(program, dynamic)
        agreement = compare(PlainScores(network), scorer, shapes)
        return Export(scorer, agreement, remark, engine, is_fixed=not dynamic)

    remark = "any batch size, this size only"
    if not fixed_size:
        try:
            shapes = [(1, *size), *((2 + index, *other) for index, other in enumerate(other_sizes(network, size)))]
            return export(shapes, f"any batch size and size{_least(network, size)}", dynamic=True)
        except Exception as error:  # exporter, runtime and comparison fail each in their own types
            remark += f" (as it cannot be traced for any: {reason_of(error)})"
    try:
        return export([(1, *size), (3, *size)], remark, dynamic=False)
    except Exception as error:
        raise ValueError(f"{type(network).__name__} cannot be exported this way: {reason_of(error)}") from error


def _least(network: nn.Module, size: tuple[int, int]) -> str:
    """From which size on, in words, where the network pads smaller images and a program traced at this one does not."""
    read_size = getattr(network, "read_size", lambda _: None)
    least = read_size((1, 1)) if read_size(size) is None else None
    return f" of at least {least[0]}x{least[1]}" if least else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracer and exporter tell what they do, of use to those who work on them."""
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
