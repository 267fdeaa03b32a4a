"""Exported files are networks like any other; a file that is none is refused in a sentence, and starts nothing."""

import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from segkd.runner.recipe.program_file import ProgramFile
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.program_scores import read_scores, write_scores
from segkd.runner.scoring.chosen_network import GivenWeights, choose_network
from segkd.runner.scoring.inference import predict
from segkd.runner.scoring.program import load_program
from segkd.runner.scoring.torch_archive import is_arithmetic

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
TYPES = onnx.TensorProto
ANY = ["batch", 3, "height", "width"]


def onnx_file(path, about=None, shape=ANY, kind=TYPES.UINT8, gives=TYPES.FLOAT, operator="Cast", domain="", more=0):
    """A file whose scores are the images' channels, three classes."""
    nodes = [
        onnx.helper.make_node(
            operator, ["images"], ["logits"], domain=domain, **({"to": gives} if operator == "Cast" else {})
        )
    ]
    inputs = [onnx.helper.make_tensor_value_info(name, kind, shape) for name in ["images", "other"][: 1 + more]]
    outputs = [onnx.helper.make_tensor_value_info("logits", gives, shape)]
    graph = onnx.helper.make_graph(nodes, "graph", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", 17), *([onnx.helper.make_opsetid(domain, 1)] if domain else [])]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    if about is not None:
        onnx.helper.set_model_props(model, {"segkd": json.dumps(about)})
    onnx.save(model, path)
    return path


class Channels(nn.Module):
    """Scores that are the images' channels at half of their size, back at their size."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, images):
        half = images.float()[..., ::2, ::2] * self.weight
        return nn.functional.interpolate(half, size=images.shape[-2:], mode="bilinear")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A file of torch.export for any size."""
    axes = {0: torch.export.Dim("batch"), 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    images, file = torch.zeros(2, 3, 8, 12, dtype=torch.uint8), tmp_path_factory.mktemp("pt2") / "x.pt2"
    torch.export.save(torch.export.export(Channels(), (images,), dynamic_shapes={"images": axes}), file)
    return file


def changed(archive, path, **parts):
    """The archive with the content of parts replaced, by the end of their names; what is in none is added."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            for end in [end for end in parts if name.endswith(end)]:
                content = parts.pop(end)(content)
            new.writestr(name, content)
        for name, make in parts.items():
            new.writestr(f"x/{name}", make(b""))
    return path


IMAGES = torch.arange(2 * 3 * 8 * 12, dtype=torch.uint8).reshape(2, 3, 8, 12)


def test_an_onnx_file_is_a_network(tmp_path):
    about = {"num_classes": 3, "class_names": ["a", "b", "c"], "normalize": "cirkd", "align_corners": True}
    program = load_program(onnx_file(tmp_path / "x.onnx", about))
    assert torch.equal(program(IMAGES).logits, IMAGES.float()) and program(IMAGES).align_corners
    assert (program.num_classes, program.class_names, program.signature.size) == (3, ["a", "b", "c"], None)
    assert program.normalize.constants == "cirkd"
    # a mean colour that is no whole level is rounded: the file takes bytes
    padded = predict(program, IMAGES, (8, 12), mode="slide", window=(10, 12))
    assert torch.allclose(padded, IMAGES.float(), atol=1e-4)


def test_a_file_of_torch_is_a_network(archive):
    program = load_program(archive).eval()
    with torch.no_grad():
        assert torch.equal(program(IMAGES).logits, Channels()(IMAGES))
    assert program.num_classes == 3 and program.signature.size is None


def test_a_file_of_one_size_and_batch_takes_what_it_can(tmp_path):
    program = load_program(onnx_file(tmp_path / "x.onnx", shape=[1, 3, 8, 12]))
    assert torch.equal(program(IMAGES).logits, IMAGES.float()), "two images, one at a time"
    with pytest.raises(
        ValueError, match=r"takes images of 8x12 only, and these are 4x12: resize them .*data.resize=\[8,12\]"
    ):
        program(IMAGES[:, :, :4])
    with pytest.raises(ValueError, match="takes 3 images at a time only"):
        load_program(onnx_file(tmp_path / "y.onnx", shape=[3, 3, 8, 12]))(IMAGES)


@pytest.mark.parametrize("given, message", [
    ({"kind": TYPES.FLOAT}, r"takes tensor\(float\).*uint8 RGB, as export.py writes it"),
    ({"shape": ["batch", 1, 8, 8]}, "what is scored takes images"), ({"shape": ["batch", 3, 8]}, "what is scored takes"),
    ({"more": 1}, "what is scored takes images"), ({"gives": TYPES.INT64}, "what is scored gives logits"),
    ({"operator": "Flip", "domain": "ai.nobody"}, "cannot be run by onnxruntime .*Flip"),
    ({"about": {"num_classes": 4}}, "says that it has 4 classes and gives 3"),
    ({"about": {"class_names": ["a", "b"]}}, "says that it has 2 classes and gives 3"),
    ({"about": {"normalize": {"mean": 1}}}, "segkd.normalize in it"),
    ({"about": {"class_names": "abc"}}, "segkd.class_names in it"), ({"about": [1]}, "is no mapping"),
])  # fmt: skip
def test_other_onnx_files_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        load_program(onnx_file(tmp_path / "x.onnx", **given))


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2"])
def test_what_is_no_file_is_refused(tmp_path, archive, name):
    path, whole = tmp_path / name, onnx_file(tmp_path / "whole.onnx") if name == "x.onnx" else archive
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_program(path)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(ValueError, match="is damaged, or no|holds no network"):
        load_program(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        load_program(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="is no file"):
        load_program(path)


def edited(before, after):
    return lambda content: content.replace(before, after)


BOMB = "__import__('os').mkdir('exploded')"


@pytest.mark.parametrize("parts, message", [
    ({"models/model.json": edited(b"torch.ops.aten.mul.Tensor", b"torch.os.system")}, "operator 'torch.os.system'"),
    ({"models/model.json": edited(b"torch.ops.aten.mul.Tensor", b"torch.ops.my.mul")}, "none of torch's own"),
    ({"models/model.json": edited(b"Symbol('s", f"Symbol({BOMB} or 's".encode())}, "no arithmetic"),
    ({"models/model.json": edited(b'"name": "mul"', b'"name": "mul\\nimport os"')}, "it has the name"),
    ({"weights_config.json": edited(b'"use_pickle": false', b'"use_pickle": true')}, "pickled objects"),
    ({"data/aotinductor/model/model.so": lambda _: b"code"}, "which is no part of a network"),
])  # fmt: skip
def test_files_of_torch_that_could_start_code_are_refused(archive, tmp_path, monkeypatch, parts, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_program(changed(archive, tmp_path / "y.pt2", **parts))
    assert not (tmp_path / "exploded").exists()


def test_sample_inputs_that_could_start_code_are_refused(archive, tmp_path, explosive):
    torch.save(explosive, tmp_path / "bomb.pt")
    bomb = (tmp_path / "bomb.pt").read_bytes()
    with pytest.raises(ValueError, match="sample inputs are no tensors"):
        load_program(changed(archive, tmp_path / "y.pt2", **{"sample_inputs/model.pt": lambda _: bomb}))
    assert not (tmp_path / "exploded").exists()


def test_arithmetic_of_sizes():
    for text in (
        "((1 + L['images'].size()[2]) // 2) != 1",
        "FloorDiv(Add(Symbol('s53', positive=True), Integer(1)), Integer(2))",
    ):
        assert is_arithmetic(text)
    for text in (BOMB, "lambda: 1", "s0.__class__", "open(L)", "s0; s1", 3, "{s0}"):
        assert not is_arithmetic(text)


def test_a_file_of_other_classes_than_the_data_is_refused(tmp_path, folder):
    recipe = read(folder / "tiny.yaml")
    names = ["a", "b", "c"]
    for about, message in (
        ({}, r"x.onnx \(ONNX\) has 3 classes and synthetic has 8"),
        ({"class_names": names[::-1]}, "in another order: c, b, a"),
    ):
        file = str(onnx_file(tmp_path / "x.onnx", about))
        dataset = SimpleNamespace(num_classes=8 if not about else 3, class_names=names)
        with pytest.raises(ValueError, match=message):
            choose_network("student", recipe, dataset, recipe.folder, GivenWeights(file))


def test_a_file_knows_its_recipe_as_one_from_elsewhere(tmp_path, folder):
    text = (folder / "tiny.yaml").read_text()
    recipe = read(onnx_file(tmp_path / "x.onnx", {"yaml": text}), ["data.args.length=3"])
    assert recipe.name == "tiny" and recipe.data.args["length"] == 3
    (tmp_path / "away").mkdir()
    file = onnx_file(tmp_path / "away/x.onnx", {"yaml": text + "\n" + "baseline: {recipe: ../../other.yaml}\n"})
    with pytest.raises(ValueError, match="does not lie beside this recipe"):
        read(file)
    with pytest.raises(ValueError, match="holds no recipe, so nothing says which data it is for"):
        read(onnx_file(tmp_path / "y.onnx"))


def test_scores_are_those_of_the_file_as_it_is(tmp_path):
    file = ProgramFile(onnx_file(tmp_path / "x.onnx"))
    assert read_scores(file) is None
    write_scores(file, {"miou": 0.5, "protocol": "whole"}, {"names": np.array(["a"]), "counts": np.zeros((1, 3, 3))})
    assert read_scores(file)["miou"] == 0.5
    onnx_file(file.path, {"num_classes": 3})
    assert read_scores(file) is None, "another file by now"
