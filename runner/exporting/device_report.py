"""The page beside an exported file, for whoever puts it on a device: what it is, scores, costs, and how it is run."""

from collections.abc import Iterator
from pathlib import Path

from segkd.runner.building.delivered import Delivered
from segkd.runner.console import markdown, markdown_text, number, percent
from segkd.runner.exporting.agreement import Export, Loss
from segkd.runner.recipe.network import Network
from segkd.runner.recipe.program_file import ProgramFile
from segkd.runner.scoring.cost import Timing

LOST = 0.01  # of a class's IoU, from which on the page names it

RUN_ONNX = """```python
import numpy as np
import onnxruntime
from PIL import Image

options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")  # INT8 on x86 without VNNI overflows otherwise
session = onnxruntime.InferenceSession("{name}", options)
image = Image.open("street.png").convert("RGB"){resized}
images = np.asarray(image).transpose(2, 0, 1)[None]  # (1, 3, {sides}) uint8
logits = session.run(None, {{"images": images}})[0]  # (1, {classes}, {sides}) float32
classes = logits.argmax(1)[0].astype(np.uint8)
Image.fromarray(classes).save("classes.png")
```"""

RUN_TORCH = """```python
import numpy as np
import torch
from PIL import Image

network = torch.export.load("{name}").module()
image = Image.open("street.png").convert("RGB"){resized}
images = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None]  # (1, 3, {sides}) uint8
logits = network(images)  # (1, {classes}, {sides}) float32
classes = logits.argmax(1)[0].byte().numpy()
Image.fromarray(classes).save("classes.png")
```"""

FURTHER = {
    "ONNX": "TensorRT builds its engine from this file (`trtexec --onnx=...`); of INT8 files it takes those that were "
    "exported with `--symmetric`. CoreML's converter reads what `export.py --to torch` writes.",
    "torch.export": "`coremltools.convert` and ExecuTorch read this file; for onnxruntime and TensorRT there is "
    "`export.py --to onnx`.",
}  # fmt: skip


def write_report(
    file: ProgramFile,
    delivered: Delivered,
    export: Export,
    size: tuple[int, int],
    timings: dict[str, Timing],
    costs: str,
    *,
    fixed: bool,
) -> None:
    """Writes the page.

    Args:
        size: height and width it was timed at. timings: of `float32` and, of an INT8 file, of `int8`, taken in turn.
        costs: parameters, operations and time in a sentence.
        fixed: whether images must be brought to `size`; else they keep their own, as those that were scored.
    """
    config = delivered.config
    title = Network(model=config["model"], args=config["args"]).title
    origin = f"the run `{delivered.run.path}`" if delivered.run else "a student folder"
    chosen = f", iteration {config['iteration']}" if "iteration" in config else ""
    height, width = size
    how = RUN_TORCH if file.kind == "torch.export" else RUN_ONNX
    resized = f".resize(({width}, {height}), Image.Resampling.BILINEAR)" if fixed else ""
    sides = f"{height}, {width}" if fixed else "height, width"
    text = [
        f"# {markdown_text(file.path.name)}",
        f"`{title}` with {config['num_classes']} classes as one {file.kind} file, from {origin}{chosen}. It takes "
        f"images (batch, 3, height, width) as uint8 RGB, {markdown_text(export.remark)}, normalises them and gives "
        f"float32 logits at their size.",
        markdown(["", "mIoU (%)", "MB", "median ms", "95 % below ms"], _lines(file.path, delivered, export, timings)),
        f"{costs}",
        *(
            _losses(export.loss, config.get("class_names") or [])
            if export.loss
            else [f"Compared with torch: {export.agreement}."]
        ),
        "## How to run it",
        f"Class ids are 0 to {config['num_classes'] - 1}: {markdown_text(', '.join(config.get('class_names') or []))}.",
        how.format(name=file.path.name, resized=resized, sides=sides, classes=config["num_classes"]),
        FURTHER[file.kind],
    ]
    file.report_file.write_text("\n\n".join(text) + "\n")


def _lines(path: Path, delivered: Delivered, export: Export, timings: dict[str, Timing]) -> list[list[str]]:
    """One line for the file; two for an INT8 file, beside the float file it was made of."""

    def line(name: str, miou: float | None, size: int, timing: Timing) -> list[str]:
        return [name, percent(miou), f"{size / 1e6:.2f}", number(timing.median, "{:.1f}"), number(timing.p95, "{:.1f}")]

    size = path.stat().st_size
    if export.loss is None:
        return [line("float32", delivered.scores.get("miou"), size, timings["float32"])]
    loss = export.loss
    return [
        line("float32", loss.float32.values["miou"], loss.float32_bytes, timings["float32"]),
        line("int8", loss.int8.values["miou"], size, timings["int8"]),
    ]


def _losses(loss: Loss, class_names: list[str]) -> Iterator[str]:
    """What INT8 costs: in all, of each class that loses more than a point, and what was kept from it."""
    yield (
        f"Scored on {len(loss.int8.names)} validation images, by the `evaluate` section of the recipe: INT8 loses "
        f"{loss.points:.2f} points of mIoU. {len(loss.kept)} of {loss.computing} nodes stay in float, besides "
        f"normalisation and the last resize."
    )
    if loss.kept:
        yield "\n".join(f"- {markdown_text(str(one))}" for one in loss.kept)
    pairs = zip(class_names, loss.float32.values["iou_per_class"], loss.int8.values["iou_per_class"])
    known = [(name, float(before), float(now)) for name, before, now in pairs if before == before and now == now]
    lines = [
        [name, percent(before), percent(now), percent(before - now)]
        for name, before, now in known
        if before - now > LOST
    ]
    if lines:
        yield "Classes that lose more than 1 point of IoU:"
        yield markdown(["class", "float32 (%)", "INT8 (%)", "lost"], lines)
    else:
        yield "No class loses more than 1 point of IoU."
