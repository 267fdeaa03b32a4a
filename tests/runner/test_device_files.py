"""A trained run as files for devices: written in INT8, scored, compared, measured and predicted with like the run."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segkd.models._int8 import in_float
from segkd.runner.exporting.agreement import PlainScores
from segkd.runner.run_folder.pretrained import from_pretrained

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
FILE = "runs/tiny/export/student-int8.onnx"


@pytest.fixture
def run_page(monkeypatch):
    """run_page(file): what the Python on an exported file's page makes of a picture, as (H, W) class ids."""

    def run(file):
        monkeypatch.chdir(file.parent)
        picture().save("street.png")
        code = (file.parent / f"{file.name}.md").read_text().split("```python\n")[1].split("```")[0]
        assert len([line for line in code.splitlines() if line]) <= 11
        exec(code, {})
        return np.array(Image.open("classes.png"))

    return run


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def test_an_int8_file_from_its_run_to_its_scores(trained, server, folder, assert_refused, run_page):
    trained("tiny", "data.args.length=5", "data.batch_size=2", "data.resize=[32,48]")

    def done(script, *words):
        result = server(folder, script, *words)
        assert result.code == 0, result.err
        return result.out

    words = ("--to", "onnx", "--int8", "--fixed-size", "--calibration-images", "2")
    printed = done("export", "runs/tiny", *words, "--max-loss", "100")
    assert (
        "% mIoU on 5 images, in float" in printed
        and "nodes stay in float" in printed
        and "ms in float32 for" in printed
    )
    file = folder / FILE
    beside = json.loads((folder / f"{FILE}.json").read_text())
    page = (folder / f"{FILE}.md").read_text()
    for told in ("| float32 |", "| int8 |", "from the run `runs/tiny`", "## How to run it", "trtexec"):
        assert told in page

    # the file alone knows its data and its protocol, the run is found around it; both give what the export has found
    (folder / "lone.onnx").write_bytes(file.read_bytes())
    for arguments in (("lone.onnx",), ("runs/tiny", "--weights", FILE), ("--weights", FILE, "evaluate.batch_size=2")):
        assert "5 images of val" in done("score", *arguments, "--output", "scores.json", "--overwrite")
        assert json.loads((folder / "scores.json").read_text())["miou"] == pytest.approx(beside["miou"])
    assert "pspnet mobilenetv2_035, INT8 | none | 1 |" in done("compare", "runs", FILE)
    words = ("--rounds", "2", "--json", "cost.json", "--picture", "cost.png")
    printed = done("measure", "runs/tiny", FILE, *words)
    run, exported = json.loads((folder / "cost.json").read_text())["networks"]
    assert exported["miou"] == beside["miou"] and exported["engine"] == "onnxruntime on cpu, INT8"
    assert "one 32x48 image, 2 times in turn on cpu" in printed, "what images are resized to"
    assert "†" in printed and "\\" not in printed
    assert (run["parameters"], run["flops"]) == (exported["parameters"], exported["flops"])
    assert exported["bytes"] == file.stat().st_size < 0.5 * run["bytes"] and "95 % below ms" in printed

    (folder / "images").mkdir()
    picture().save(folder / "images/a.png")
    done("predict", "lone.onnx", "images", "--to", "out", "--write", "labels")
    assert np.array(Image.open(folder / "out/labels/a.png")).shape == (40, 56), "seen at its one size, told at its own"

    (folder / "cut.onnx").write_bytes(file.read_bytes()[:5000])
    for script, words, told in (
        ("score", ("runs/tiny", "--weights", "cut.onnx"), "cut.onnx is damaged, or no ONNX file"),
        ("score", ("runs/tiny", "data.resize=[16,16]", "--weights", "lone.onnx"), "takes images of 32x48 only"),
        ("score", ("evaluate.flip=true",), "name a recipe or a run folder"),
        ("predict", ("cut.onnx", "images", "--to", "none"), "cut.onnx is damaged"),
        ("measure", ("cut.onnx",), "cut.onnx is damaged"), ("measure", ("runs/tiny", "--rounds", "0"), "--rounds 0"),
        ("measure", ("runs/tiny", "--json", "cost.json"), "cost.json is there already"),
        ("compare", ("lone.onnx",), "does not lie in the folder of the run"),
    ):  # fmt: skip
        assert_refused(server(folder, script, *words), told)
    assert run_page(file).shape == (32, 48)


def test_a_trained_run_as_a_program_of_torch(distill, server, folder, run_page):
    trained = distill("tiny.yaml", "networks.student.int8=true")  # which leaves a float network, too
    assert trained.code == 0, trained.err
    result = server(folder, "export", "runs/tiny", "--to", "torch", "--fixed-size", "--input-size", "33", "48")
    assert result.code == 0, result.err
    assert "runs/tiny/export/student.pt2: " in result.out and "torch.export on cpu, 1 thread" in result.out
    assert "any batch size, this size only; scores differ from torch's by at most" in result.out
    images = torch.randint(0, 256, (3, 3, 33, 48), dtype=torch.uint8)
    network = from_pretrained(folder / "runs/tiny")
    with torch.no_grad():
        rounded = PlainScores(network)(images)
        ranges = in_float(network)
        expected = PlainScores(network)(images)
    layers = [name for name, one in network.named_modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
    assert [*ranges] == layers and not torch.equal(rounded, expected)
    found = torch.export.load(folder / "runs/tiny/export/student.pt2").module()(images)
    assert torch.allclose(found, expected, atol=1e-5)
    page = (folder / "runs/tiny/export/student.pt2.md").read_text()
    assert "from the run `runs/tiny`" in page and "| float32 |" in page and "/site-packages/" not in page
    assert run_page(folder / "runs/tiny/export/student.pt2").shape == (33, 48)
