"""Scores of a split, and of images that a protocol brings to another size first."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from torch import nn

from segkd.models._prediction import Normalize, Prediction
from segkd.runner.loading.data_sets import build_dataset, fixed_resize
from segkd.runner.loading.sampler import evaluation_batches
from segkd.runner.recipe.read import read
from segkd.runner.scoring import evaluation
from segkd.runner.scoring.evaluation import class_scores, evaluate, text_of, values_in
from segkd.runner.scoring.metrics.confusion import confusion_matrix, scores

DATA = "data={dataset: folder, root: ., args: {class_names: [a, b, c], images: images, labels: labels}, crop_size: [32, 32], workers: 0}"


class Convolution(nn.Module):
    """Scores of three classes: a convolution of the normalised image, so that borders and every grey level matter."""

    def __init__(self):
        super().__init__()
        self.num_classes, self.normalize = 3, Normalize.named("imagenet")
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.conv.weight.data = torch.randn(3, 3, 3, 3, generator=torch.Generator().manual_seed(0))

    def forward(self, images):
        return Prediction(self.conv(self.normalize(images)), align_corners=True)


@pytest.fixture
def scored(folder, monkeypatch):
    """scored("evaluate.fit=[60, 60]", ...) gives the recipe and its data set of three noisy images."""
    monkeypatch.chdir(folder)
    draw = np.random.default_rng(0)
    for number, size in enumerate([(24, 48), (48, 24), (73, 120)]):
        for kind, pixels in (("images", draw.integers(0, 256, (*size, 3))), ("labels", draw.integers(0, 3, size))):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / f"{number}.png")

    def read_with(*assignments):
        recipe = read("tiny.yaml", [DATA, "evaluate.batch_size=1", *assignments])
        return recipe, build_dataset(recipe, "val")

    return read_with


def trikd(network, image, base_size, crop):
    """TriKD's test script, eval.py: validate_city and scale_crop_process, on one (H, W, 3) uint8 image."""
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    normalised = torch.Tensor((image.astype(np.float32) - mean) / std).permute(2, 0, 1)[None]
    height, width = image.shape[:2]
    new_height = new_width = base_size
    if height > width:
        new_width = round(base_size / float(height) * width)
    else:
        new_height = round(base_size / float(width) * height)
    scaled = F.interpolate(normalised, size=(new_height, new_width), mode="bilinear", align_corners=True)
    missing = [max(crop - side, 0) for side in scaled.shape[-2:]]
    top, left = missing[0] // 2, missing[1] // 2
    scaled = F.pad(scaled, (left, missing[1] - left, top, missing[0] - top))
    stride = math.ceil(crop * 2 / 3)
    total, count = torch.zeros(1, 3, *scaled.shape[-2:]), torch.zeros(scaled.shape[-2:])
    for row in range(math.ceil((scaled.shape[-2] - crop) / stride) + 1):
        for column in range(math.ceil((scaled.shape[-1] - crop) / stride) + 1):
            bottom, right = (min(at * stride + crop, side) for at, side in zip((row, column), scaled.shape[-2:]))
            window = slice(bottom - crop, bottom), slice(right - crop, right)
            total[:, :, *window] += network.conv(scaled[:, :, *window])
            count[window] += 1
    total = (total / count)[:, :, top : top + new_height, left : left + new_width]
    return F.interpolate(total, size=(height, width), mode="bilinear", align_corners=True)


@pytest.mark.parametrize("base_size", [60, 96])
def test_trikd_scores_images_of_another_size_as_its_test_script_does(scored, base_size):
    recipe, dataset = scored("evaluate.protocol=trikd", f"evaluate.fit=[{base_size}, {base_size}]")
    network = Convolution()
    for batch in evaluation_batches(dataset, resize=fixed_resize(recipe, scoring=True)):
        expected = trikd(network, np.asarray(dataset[batch.indices[0]][0]), base_size, 32)
        difference = (class_scores(network, batch, recipe) - expected).abs().max()
        assert difference <= 1e-5 * expected.abs().max()


def test_every_metric_of_the_recipe_sees_every_image_once(scored):
    recipe, dataset = scored("evaluate.metrics=[worst_images, boundary]")
    network = Convolution().train()
    result = evaluate(network, dataset, recipe, Accelerator(cpu=True), "scoring")
    assert network.training and result.names == ["0", "1", "2"]
    matrices = []
    for index in range(3):
        image, target = dataset[index]
        prediction = network(torch.tensor(np.array(image)).permute(2, 0, 1)[None]).logits.argmax(1)[0]
        matrices.append(confusion_matrix(prediction, torch.tensor(np.array(target)), 3, 255))
    assert torch.equal(result.counts["confusion"]["matrix"], sum(matrices))
    wanted = {"worst_images_miou": min(scores(matrix)["miou"] for matrix in matrices), **scores(sum(matrices))}
    assert {name: result.values[name] for name in wanted} == wanted
    for counts, matrix in zip(result.arrays()["counts"], matrices):
        assert counts.tolist() == torch.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)], dim=1).tolist()
    assert list(result.metrics) == ["confusion", "worst_images", "boundary"]
    assert list(result.headline) == ["worst_images_miou", "boundary_miou"]


def test_the_scores_of_all_classes_are_made_only_for_metrics_that_read_them(scored, monkeypatch):
    matrices, made = [], []
    whole = evaluation.class_scores
    monkeypatch.setattr(evaluation, "class_scores", lambda *given: made.append(1) or whole(*given))
    for metrics in ("[boundary, trimap, worst_images]", "[boundary, calibration]"):
        recipe, dataset = scored(f"evaluate.metrics={metrics}")
        matrices.append(
            evaluate(Convolution(), dataset, recipe, Accelerator(cpu=True), "").counts["confusion"]["matrix"]
        )
        assert len(made) == (3 if "calibration" in metrics else 0)
    assert torch.equal(*matrices)


def test_values_are_found_in_a_row_of_the_log_and_metrics_without_any_are_silent(scored):
    recipe, dataset = scored("evaluate.metrics=[trimap, boundary]")
    result = evaluate(Convolution(), dataset, recipe, Accelerator(cpu=True), "scoring")
    earlier = {name: value for name, value in result.values.items() if not name.startswith("boundary")}
    row = {"iteration": 4, "total": 0.5, "miou/teacher": 0.3, "trimap_miou/teacher": 0.4, **earlier}
    assert values_in(row, result.metrics) == earlier
    assert "trimap mIoU" in text_of(result.metrics, earlier) and "boundary" not in text_of(result.metrics, earlier)


def test_a_split_without_a_counted_pixel_is_refused(scored, tmp_path):
    recipe, dataset = scored()
    for file in (tmp_path / "labels").iterdir():
        Image.fromarray(np.full_like(np.asarray(Image.open(file)), 255)).save(file)
    with pytest.raises(ValueError, match="no pixel of the 3 images has a label that counts"):
        evaluate(Convolution(), dataset, recipe, Accelerator(cpu=True), "scoring")
