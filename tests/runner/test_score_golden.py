"""The original codes' metric, window and resize cases through the score command: image folders in, scores out.

Each case becomes a folder of PNGs and a recipe with the code's protocol. In the place of the student stands a network
that answers with what was recorded: a pixel's colour (row, column, image, counted from 1) says which pixel it is.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

GOLDEN = Path(__file__).parents[1] / "golden"
ALL = Path(__file__).parents[3] / "shared" / "golden"

# case's name -> protocol, the prefixes of prediction and label, {recorded value: ours}
METRICS = {
    "metric": ("cirkd", "logits_", "target_", {
        "iou": "iou_per_class", "miou": "miou", "pixel_acc_true": "pixel_accuracy"}),
    "metrics": ("aicsd", "prediction", "target", {
        name: name for name in ("pixel_accuracy", "class_accuracy", "miou", "fwiou")}),
    "mmseg_iou": ("mmseg", "pred_", "label_", {
        "iou": "iou_per_class", "acc": "accuracy_per_class", "mIoU": "miou", "mAcc": "class_accuracy",
        "aAcc": "pixel_accuracy"}),
    "miou": ("trikd", "pred", "label", {"iou": "iou_per_class", "miou": "miou"}),
}  # fmt: skip

SCRIPT = '''
"""The score command with a network that answers with what was recorded in the .npz that --weights names."""

import numpy as np
import torch
from torch import nn

from segkd.models._prediction import Normalize, Prediction
from segkd.runner import score
from segkd.runner.scoring import chosen_network
from segkd.runner.command import run_command


class Recorded(nn.Module):
    gives_logits = True

    def __init__(self, arrays):
        super().__init__()
        self.num_classes, self.normalize = int(arrays["classes"]), Normalize.named("none")
        self.arrays = {key: torch.from_numpy(value) for key, value in arrays.items()}
        self.number = 0

    def forward(self, images):
        if "expected0" in self.arrays:  # the image itself is what is compared
            seen = Normalize.named("imagenet")(images) - self.arrays[f"expected{self.number}"]
            assert seen.abs().max() <= 1 / 255 / 0.224 + 1e-4, "another image than the recorded one"
            self.number += 1
            return Prediction(self.arrays[f"values{self.number - 1}"][None], align_corners=True)
        rows, columns, numbers = images[0].long()
        values = self.arrays[f"values{numbers.max() - 1}"]
        values = values[:, (rows - 1).clamp_min(0), (columns - 1).clamp_min(0)] * (rows > 0)  # padding is 0
        values = values[None].float()
        if "weight" in self.arrays:
            values = nn.functional.conv2d(values, self.arrays["weight"], padding=1)
        return Prediction(values, align_corners=True)


chosen_network.build_network = lambda name, entry, *rest, **options: Recorded(dict(np.load(entry.weights)))
run_command(score.main)
'''

RECIPE = """
name: golden
data:
  dataset: folder
  root: .
  args: {{class_names: [{names}], images: images, labels: labels, ignore: [{ignored}]}}
  crop_size: {crop}
  workers: 0
networks:
  student: {{model: pspnet, args: {{backbone: mobilenetv2_035}}}}
losses:
  - {{loss: cross_entropy}}
schedule: {{iterations: 1}}
evaluate: {{protocol: {protocol}{further}}}
"""


def cases(*names):
    """The cases of the compact folder and, where the whole one is at hand, of that."""
    found = {}
    for folder in sorted(GOLDEN.glob("*/")) + sorted(ALL.glob("*/")):
        for case in json.loads((folder / "cases.json").read_text()):
            if case["loss"] in names:
                found.setdefault(case["case"], pytest.param(case, folder / f"{case['case']}.npz", id=case["case"]))
    return list(found.values())


def write(folder, protocol, classes, values, labels, *, images=None, crop=(16, 16), further="", **recorded):
    """The image folders, the recipe, and what the network is to answer."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    for number, (value, label) in enumerate(zip(values, labels)):
        rows, columns = np.indices(value.shape[-2:]) + 1
        codes = np.stack([rows, columns, np.full_like(rows, number + 1)], axis=-1).astype(np.uint8)
        Image.fromarray(codes if images is None else images[number]).save(folder / f"images/{number}.png")
        Image.fromarray(label.astype(np.int64).astype(np.uint8)).save(folder / f"labels/{number}.png")  # -1 is 255
    tables = {f"values{number}": value for number, value in enumerate(values)}
    np.savez(folder / "recorded.npz", classes=classes, **tables, **recorded)
    (folder / "score_recorded.py").write_text(SCRIPT)
    (folder / "golden.yaml").write_text(RECIPE.format(
        names=", ".join(f"c{index}" for index in range(classes)), crop=list(crop), protocol=protocol, further=further,
        ignored=", ".join(map(str, range(classes, 256)))))  # fmt: skip


def one_hot(classes, count):
    """(H, W) classes -> (K, H, W) scores."""
    return (np.arange(count)[:, None, None] == classes).astype(np.float32)


def scores_of(server, folder, *arguments):
    """What the command writes, and what it prints."""
    result = server(folder, "score_recorded.py", "golden.yaml", "--weights", "recorded.npz", "--output", "scores.json",
                    "--overwrite", *arguments)  # fmt: skip
    assert result.code == 0, result.err
    return json.loads((folder / "scores.json").read_text()), result.out


@pytest.mark.parametrize("case, file", cases(*METRICS))
def test_scores_are_the_recorded_ones(server, tmp_path, case, file):
    protocol, prediction, target, names = METRICS[case["loss"]]
    arrays, classes = np.load(file), case["params"].get("num_classes") or case["params"]["classes"]
    numbers = range(sum(key.startswith(f"input:{target}") for key in arrays))
    values = [arrays[f"input:{prediction}{number}"] for number in numbers]
    if not np.issubdtype(values[0].dtype, np.floating):
        values = [one_hot(value.squeeze(), classes) for value in values]
    labels = [arrays[f"input:{target}{number}"].squeeze() for number in numbers]
    write(tmp_path, protocol, classes, [value.reshape(classes, *value.shape[-2:]) for value in values], labels)
    computed, printed = scores_of(server, tmp_path)
    assert computed["protocol"].startswith(f"{protocol}: ") and computed["protocol"] in printed
    for recorded, ours in names.items():
        expected = arrays[f"expected:{recorded}"]
        given = np.array(computed[ours], dtype=np.float64)  # null becomes NaN
        np.testing.assert_allclose(given, expected, rtol=1e-6 if protocol == "mmseg" else 1e-9, atol=1e-12)


@pytest.mark.parametrize("case, file", cases("slide_eval"))
def test_windows_give_the_recorded_classes(server, tmp_path, case, file):
    arrays, params = np.load(file), case["params"]
    expected = arrays["expected:logits"]
    label = expected.reshape(params["num_classes"], *expected.shape[-2:]).argmax(0)
    write(tmp_path, "trikd", params["num_classes"], [arrays["input:image"][0]], [label], crop=params["crop"],
          weight=arrays["state:conv.weight"])  # fmt: skip
    assert scores_of(server, tmp_path)[0]["pixel_accuracy"] == 1
    whole, printed = scores_of(server, tmp_path, "evaluate.protocol=null", "evaluate.mode=whole")
    assert whole["pixel_accuracy"] < 1 or label.shape[1] <= params["crop"][1]
    assert "trikd" not in printed


@pytest.mark.parametrize("case, file", cases("transform_val"))
def test_aicsd_scores_resized_images_on_resized_labels(server, tmp_path, case, file):
    arrays = np.load(file)
    image, label = arrays["expected:image"], arrays["expected:label"]
    classes = int(label[label < 255].max()) + 1
    write(tmp_path, "aicsd", classes, [one_hot(label, classes)], [arrays["input:label"]],
          images=[arrays["input:image"]], expected0=image.astype(np.float32),
          further=f", short_side: {case['params']['short_side']}")  # fmt: skip
    computed, _ = scores_of(server, tmp_path)
    assert computed["pixel_accuracy"] == 1 and computed["miou"] == 1
    assert f"short side of {case['params']['short_side']}, labels too" in computed["protocol"]
