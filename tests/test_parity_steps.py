"""Recorded training steps of other networks than RMRKD's own pair: each recorded here by a bare loop, then run."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recorded.fill import fill_input, fill_state
from torch import nn

from segkd.models import _checkpoints
from segkd.models._prediction import Normalize
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.deeplabv3plus import DeepLabV3Plus

LITERAL = runpy.run_path(str(Path(__file__).parent / "benchmarks/transcriptions_rmrkd.py"))
NUM_CLASSES, SHAPE = 4, (2, 3, 40, 56)
# the residual branches of deep networks would make the numbers grow with every block
SCALES = [{"prefix": "teacher.backbone", "suffix": f"{norm}.weight", "factor": 0.2} for norm in ("bn2", "bn3")]
NETWORK = {"width": 8, "aux_width": 4, "dilation_rule": "mmseg", "dropout": 0.0}
V1C = NETWORK | {"stem": "v1c"}
DKD = {
    "type": "DecoupledKD",
    "name": "loss_dkd_channel",
    "tau": 4.0,
    "loss_weight1": 4.0,
    "loss_weight2": 2.0,
    "dim": 1,
}
RMRKD = {"type": "RMRKDLoss", "name": "loss_rmrkd", "distance_type": "cross_sim", "decoupled": True, "tau": 0.1}
MGD = {"type": "FeatureLoss", "name": "loss_mgd_fea1", "alpha_mgd": 2e-5, "lambda_mgd": 0.75}


def between(student, teacher):
    return {"student_channels": student, "teacher_channels": teacher, "loss_weight": 0.1}


# student, teacher, the index of the feature, the losses with the stage that each reads
CASES = {
    "deeplabv3_r34_to_deeplabv3_mbv2": (
        (DeepLabV3, NETWORK | {"backbone": "mobilenetv2_100"}),
        (DeepLabV3, V1C | {"backbone": "resnet34", "width": 16}),
        -2,
        [(RMRKD | between(96, 256), "stage3"), (MGD | between(320, 512), "stage4"), (DKD, None)],
    ),
    "deeplabv3plus_r50_to_deeplabv3_r18": (
        (DeepLabV3, V1C | {"backbone": "resnet18", "aux": False}),
        (DeepLabV3Plus, V1C | {"backbone": "resnet50"}),
        -1,
        [(RMRKD | between(512, 2048), "stage4")],
    ),
    "deeplabv3plus_r18_to_deeplabv3plus_r18": (
        (DeepLabV3Plus, V1C | {"backbone": "resnet18"}),
        (DeepLabV3Plus, V1C | {"backbone": "resnet18", "aux": False}),
        -2,
        [(RMRKD | between(256, 256), "stage3")],
    ),
}


class Recording:
    """A step of two networks and the recorded losses, in float64, with nothing of the runner and of losses/.

    Attributes:
        entries: recorded name -> shape, also of the original's dead layers. held: recorded name -> our tensor.
    """

    def __init__(self, student, teacher):
        self.entries, self.held = {}, {}
        self.networks = {}
        for owner, (kind, args) in (("student", student), ("teacher", teacher)):
            network = kind(NUM_CLASSES, **args)
            theirs = {
                key: self.fill(f"{owner}.{key}", list(value.shape))
                for key, value in _checkpoints.write(network.state_dict(), "mmseg").items()
            }
            ours = _checkpoints.read(theirs, "mmseg")
            network.load_state_dict(ours)
            network.normalize = Normalize.named("none")
            self.networks[owner] = network.double()
            own = dict(network.named_parameters()) | dict(network.named_buffers())
            names = {id(value): key for key, value in theirs.items()}
            self.held |= {f"{owner}.{names[id(value)]}": own[key] for key, value in ours.items()}

    def fill(self, name, shape):
        self.entries[name] = shape
        return fill_state({"entries": {name: shape}, "fill_scale": SCALES})[name]

    def conv(self, name, *args, **options):
        """A convolution of a loss with its recorded weights."""
        conv = nn.Conv2d(*args, **options).double()
        for part, weight in conv.named_parameters():
            weight.data.copy_(self.fill(f"{name}.{part}", list(weight.shape)))
            self.held[f"{name}.{part}"] = weight
        return conv

    def value(self, recorded, stage, student, teacher, target, uniform):
        """A distillation term by its literal formula, weighted."""
        name = f"distill_losses.{recorded['name']}"
        if recorded["type"] == "DecoupledKD":
            self.fill(f"{name}.generation.0.weight", [NUM_CLASSES, NUM_CLASSES, 3, 3])
            told = SimpleNamespace(
                softmax_over="spatial",
                segment=False,
                temperature=recorded["tau"],
                target_weight=recorded["loss_weight1"],
                rest_weight=recorded["loss_weight2"],
            )
            return LITERAL["dkd"](told, student, teacher, target)
        widths = recorded["student_channels"], recorded["teacher_channels"]
        align = self.conv(f"{name}.align", *widths, 1) if widths[0] != widths[1] else None
        if recorded["type"] == "FeatureLoss":
            first, second = (self.conv(f"{name}.generation.{i}", widths[1], widths[1], 3, padding=1) for i in (0, 2))
            kept = torch.where(uniform > 1 - recorded["lambda_mgd"], 0.0, 1.0)
            generated = second(F.relu(first(align(student.features[stage]) * kept)))
            error = ((generated - teacher.features[stage]) ** 2).sum() / len(generated)
            return recorded["alpha_mgd"] * error
        told = SimpleNamespace(
            pair=SimpleNamespace(student=stage, teacher=stage),
            align=align,
            label_resize="bilinear_trunc",
            softmax_over="column",
            temperature=recorded["tau"],
            num_classes=NUM_CLASSES,
        )
        return recorded["loss_weight"] * LITERAL["cross_similarity"](told, student, teacher, target)


def record(folder, name, student, teacher, index, losses):
    """Writes a case of one step."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, NUM_CLASSES, (2, 1, 5, 7)).repeat(8, 2).repeat(8, 3)  # (B, 1, H, W)
    labels[:, :, :6, :9] = 255
    recording = Recording(student, teacher)
    target, images = torch.from_numpy(labels[:, 0]), fill_input(list(SHAPE)).double()
    uniform = torch.from_numpy(rng.random((2, 1, 5, 7), dtype=np.float32))
    student, teacher = recording.networks["student"].train(), recording.networks["teacher"].eval()
    stages = {stage for _, stage in losses if stage}
    student.features_wanted, teacher.features_wanted = set(stages), set(stages)
    seen = student(images)
    with torch.no_grad():
        guide = teacher(images)
    expected = {}
    for head, logits, weight in (("decode", seen.logits, 1.0), ("aux", seen.aux, 0.4)):
        if logits is not None:
            scores = F.interpolate(logits, size=SHAPE[2:], mode="bilinear", align_corners=False)
            ce = F.cross_entropy(scores, target, ignore_index=255, reduction="sum")
            expected[f"{head}.loss_ce"] = weight * ce / target.numel()
            right = (scores.argmax(1) == target).sum() / (target != 255).sum()
            expected[f"{head}.acc_seg"] = (100 * right).float()
    for recorded, stage in losses:
        expected[recorded["name"]] = recording.value(recorded, stage, seen, guide, target, uniform)
    expected["loss"] = sum(value for key, value in expected.items() if "loss" in key)
    expected["loss"].backward()
    for key, value in recording.held.items():
        if value.grad is not None:
            expected[f"gradnorm:{key}"] = value.grad.norm()
            if value.numel() < 5000:
                expected[f"grad:{key}"] = value.grad
        elif key.startswith("student.") and key.endswith("running_mean"):
            expected[f"after:{key}"] = value
    arrays = {"input:labels": labels, "draw:uniform": uniform.numpy()}
    arrays |= {f"expected:{key}": value.detach().numpy() for key, value in expected.items()}
    np.savez(folder / f"{name}.npz", **arrays)
    params = {"num_classes": NUM_CLASSES, "dropout_ratio": 0.0, "image_shape": SHAPE, "feature_index": index}
    params |= {"distill_cfg": [recorded for recorded, _ in losses], "fill_scale": SCALES}
    case = {"case": name, "loss": "rmrkd_step", "params": params, "state": {"entries": list(recording.entries.items())}}
    (folder / "cases.json").write_text(json.dumps([case]))


@pytest.mark.parametrize("name", CASES)
def test_a_step_of_any_networks(parity, capsys, tmp_path, name):
    record(tmp_path, name, *CASES[name])
    code = parity.main([str(tmp_path)])
    assert (capsys.readouterr().out, code) == ("1 passed, 0 failed\n", 0)
