"""A recipe as shapes: the graph a run would train, without a byte of it."""

import pytest
import torch
from PIL import Image

from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import build_networks
from segkd.runner.building.shapes import classes_of, shape_graph, shape_predictions, without_autocast
from segkd.runner.recipe.read import read
from segkd.runner.recipe.schema import Data

RECIPE = """\
name: shapes
data: {dataset: folder, root: nowhere, args: {class_names: [a, b, c]}, crop_size: [32, 48]}
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035, width: 8, pretrained: true}}
  teacher: {model: pspnet, args: {backbone: resnet18, width: 8}, weights: nowhere.pth, train: false}
  average: {ema_of: student, train: false}
losses: [{loss: cross_entropy}, {loss: fitnet, from: teacher}, {loss: kl, from: average}]
schedule: {iterations: 10}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return read(tmp_path / "recipe.yaml")


def test_the_graph_is_that_of_a_run(recipe):
    graph = shape_graph(recipe)
    assert all(parameter.is_meta for parameter in graph.parameters())
    arguments = {"args": recipe.networks["student"].args | {"pretrained": False}}
    here = recipe.networks | {
        "student": recipe.networks["student"].model_copy(update=arguments),
        "teacher": recipe.networks["teacher"].model_copy(update={"weights": None}),
    }
    here = recipe.model_copy(update={"networks": here})
    dataset = type("dataset", (), {"num_classes": 3, "class_names": ("a", "b", "c")})
    real = build_graph(here, build_networks(here, dataset), 255)
    shapes = {name: value.shape for name, value in real.state_dict().items()}
    assert {name: value.shape for name, value in graph.state_dict().items()} == shapes


def test_predictions_are_shapes(recipe):
    graph = shape_graph(recipe)
    found = shape_predictions(graph, recipe)
    assert {name for name, _ in found} == {"student", "teacher", "average"}
    for (name, _), prediction in found.items():
        assert prediction.logits.is_meta and prediction.logits.shape[:2] == (2, 3)
        assert set(prediction.features) == graph.network(name).features_wanted
    assert torch.autocast is not None and isinstance(torch.autocast, type), "autocast is torch's own again"


def test_two_networks_of_one_kind_are_two(recipe):
    twin = recipe.model_copy(update={"networks": recipe.networks | {"twin": recipe.networks["teacher"]}})
    graph = shape_graph(twin)
    assert graph.network("twin") is not graph.network("teacher")
    assert shape_graph(recipe).network("student") is not shape_graph(recipe).network("student")


def test_what_does_not_fit_is_told(recipe):
    wrong = recipe.losses[1].model_copy(update={"args": recipe.losses[1].args | {"feature": "stage9"}})
    with pytest.raises(ValueError, match="losses.1 .fitnet.: networks.student has no feature 'stage9'"):
        shape_graph(recipe.model_copy(update={"losses": [recipe.losses[0], wrong]}))


@pytest.mark.parametrize("dataset, args, classes", [
    ("camvid", {}, 11), ("folder", {"class_names": ["a", "b"]}, 2), ("coco_stuff", {"classes": 171}, 171),
    ("coco_stuff", {}, 182), ("folder", {"class_names": ["a", "b", "c"], "classes": {"a": "ignore", "*": "d"}}, 1),
    ("huggingface", {"colors": {"a": [0, 0, 0], "b": [1, 1, 1]}}, 2),
])  # fmt: skip
def test_how_many_classes(dataset, args, classes):
    assert classes_of(Data(dataset=dataset, args=args, crop_size=(32, 32))) == classes


def test_classes_that_files_alone_tell(tmp_path):
    data = Data(dataset="yolo", root=str(tmp_path), crop_size=(32, 32))
    with pytest.raises(FileNotFoundError, match=r"data\.yaml: no such file"):
        classes_of(data)
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").touch()
    assert classes_of(data) == 3  # with the background


def test_autocast_comes_back_after_an_error():
    before = torch.autocast
    with pytest.raises(KeyError), without_autocast():
        raise KeyError
    assert torch.autocast is before
