"""One whole run each: what an option promises, read off the weights and the log it leaves."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segkd.runner.building.networks import build_network
from segkd.runner.recipe.read import read

TEACHER = "networks.teacher={model: deeplabv3, args: {backbone: resnet18, output_stride: 16, width: 8}, train: false}"
PLAIN_SGD = ["optimizer={lr: 0.01, momentum: 0, weight_decay: 0}", "schedule={iterations: 1, name: constant}"]


def student(run: Path, step: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / step / "student.safetensors")


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def start(folder: Path) -> dict[str, torch.Tensor]:
    """The student of tiny.yaml before its first step."""
    recipe = read(folder / "tiny.yaml")
    state = build_network("student", recipe.networks["student"], 8, recipe.seed).state_dict()
    return {key: value.clone() for key, value in state.items()}


def trained(folder: Path) -> list[str]:
    """Names of the student's parameters."""
    recipe = read(folder / "tiny.yaml")
    return [name for name, _ in build_network("student", recipe.networks["student"], 8, recipe.seed).named_parameters()]


@pytest.mark.parametrize(
    "losses",
    [
        "[{loss: cross_entropy}, {loss: kl, weight: 0}, {loss: fitnet, weight: 0}]",
        "[{loss: fitnet, weight: 0.0}, {loss: cross_entropy}, {loss: kl, weight: {start: 0, end: 0, over: [0, 3]}}]",
    ],
)
def test_weight_zero_is_plain_training_bit_for_bit(distill, folder, losses):
    assert distill("tiny.yaml", "name=plain").code == 0
    assert distill("tiny.yaml", "name=zero", TEACHER, f"losses={losses}").code == 0
    ours = [
        (folder / "runs" / name / "checkpoints/last/student.safetensors").read_bytes() for name in ("plain", "zero")
    ]
    assert ours[0] == ours[1]


def test_distillation_changes_the_student_and_logs_every_term(distill, folder):
    assert distill("tiny.yaml", "name=plain").code == 0
    result = distill(
        "tiny.yaml",
        "name=kd",
        TEACHER,
        "losses=[{loss: cross_entropy}, {loss: kl, weight: 2}, {loss: fitnet, weight: 0.5, after: 1}]",
    )
    assert result.code == 0, result.err
    log = rows(folder / "runs/kd")
    assert [row["iteration"] for row in log] == [1, 2, 3, 4]
    assert ["loss/fitnet" in row for row in log] == [False, False, True, True]
    for row in log:
        assert row["weighted/kl"] == 2 * row["loss/kl"]
        assert row["total"] == pytest.approx(sum(value for key, value in row.items() if key.startswith("weighted/")))
    assert not torch.equal(
        student(folder / "runs/plain")["classifier.weight"], student(folder / "runs/kd")["classifier.weight"]
    )
    assert (folder / "runs/kd/teachers.json").is_file(), "the frozen teacher is scored once"
    state = torch.load(folder / "runs/kd/checkpoints/last/training_state/state.pt", weights_only=True)
    assert not any(key.startswith("networks.teacher") for key in state["graph"])


def test_the_run_folder_holds_what_the_design_says(distill, folder):
    result = distill("tiny.yaml", "tracking.images=3")
    assert result.code == 0, result.err
    run = folder / "runs/tiny"
    for name in (
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "report.md",
        "curves.png",
        "summary.json",
        "student/config.json",
        "student/model.safetensors",
        "checkpoints/step-00000004/student.safetensors",
        "checkpoints/step-00000004/training_state/state.pt",
        "checkpoints/last/student.safetensors",
        "checkpoints/best/student.safetensors",
    ):
        assert (run / name).is_file(), name
    assert [path.name for path in sorted((run / "panels").iterdir())] == ["step-00000002", "step-00000004"]
    assert len(list((run / "panels/step-00000004").glob("*.png"))) == 3
    best = json.loads((run / "student/config.json").read_text())
    assert best["miou"] == max(row["miou"] for row in rows(run) if "miou" in row)
    for picture in re.findall(r"\]\((.*?)\)", (run / "report.md").read_text()):
        assert (run / picture).is_file()


def test_recomputed_blocks_train_to_the_same_bits(distill, folder):
    losses = "losses=[{loss: cross_entropy}, {loss: kl}, {loss: fitnet, args: {feature: stage4}}]"
    for name, told in (("kept", "false"), ("recomputed", "true")):
        words = ["networks.student.args.dropout=0.3", "loop.ema=0.9", f"networks.student.checkpointing={told}"]
        assert distill("tiny.yaml", TEACHER, losses, *words, f"name={name}").code == 0
    kept, recomputed = (student(folder / "runs" / name) for name in ("kept", "recomputed"))
    assert kept.keys() == recomputed.keys() and all(torch.equal(kept[key], recomputed[key]) for key in kept)


def test_ema_scores_and_saves_the_closed_form_average(distill, folder):
    assert distill("tiny.yaml", "loop={ema: 0.7, save_every: 1, keep_last: 9}").code == 0
    run, average = folder / "runs/tiny", None
    for step in range(1, 5):
        state = torch.load(run / f"checkpoints/step-{step:08d}/training_state/state.pt", weights_only=True)
        raw = state["graph"]["networks.student.classifier.weight"].double()
        average = raw if average is None else 0.7 * average + 0.3 * raw
        torch.testing.assert_close(
            student(run, f"step-{step:08d}")["classifier.weight"].double(), average, rtol=1e-5, atol=1e-7
        )


def test_clip_norm_bounds_the_step(distill, folder):
    assert distill("tiny.yaml", *PLAIN_SGD, "loop.clip_norm=0.1").code == 0
    before, after = start(folder), student(folder / "runs/tiny")
    norm = sum((after[name] - before[name]).double().square().sum() for name in trained(folder)) ** 0.5
    assert norm.item() == pytest.approx(0.01 * 0.1, rel=1e-3)
    assert rows(folder / "runs/tiny")[-1]["gradient_norm"] > 0.1, "the log shows the norm before clipping"


def test_learning_rate_scales_act_on_their_networks_and_heads(distill, folder):
    assert distill("tiny.yaml", *PLAIN_SGD, "name=one").code == 0
    assert (
        distill(
            "tiny.yaml", *PLAIN_SGD, "name=scaled", "networks.student.lr_scale=0.5", "optimizer.head_lr_scale=10"
        ).code
        == 0
    )
    before, one, scaled = start(folder), student(folder / "runs/one"), student(folder / "runs/scaled")
    for name in trained(folder):
        factor = 0.5 if name.startswith("backbone.") else 5.0
        torch.testing.assert_close(
            scaled[name] - before[name], factor * (one[name] - before[name]), rtol=1e-3, atol=1e-6
        )


def test_no_decay_spares_norms_and_biases_only(distill, folder):
    adamw = ["schedule={iterations: 1, name: constant}", "optimizer.name=adamw", "optimizer.lr=0.001"]
    assert distill("tiny.yaml", *adamw, "name=none", "optimizer.weight_decay=0").code == 0
    assert (
        distill("tiny.yaml", *adamw, "name=some", "optimizer.weight_decay=10", "optimizer.no_decay=[norm, bias]").code
        == 0
    )
    none, some = student(folder / "runs/none"), student(folder / "runs/some")
    for name in trained(folder):
        assert torch.equal(none[name], some[name]) == (none[name].ndim == 1), name


def test_nesterov_differs_from_plain_momentum_from_the_second_step(distill, folder):
    for name in ("false", "true"):
        assert (
            distill("tiny.yaml", f"name=nesterov-{name}", f"optimizer.nesterov={name}", "schedule.name=constant").code
            == 0
        )
    logs = [[row["total"] for row in rows(folder / f"runs/nesterov-{name}")] for name in ("false", "true")]
    assert logs[0][0] == logs[1][0] and logs[0][2:] != logs[1][2:]


def test_bf16_and_memory_format_stay_close_to_the_plain_run(distill, folder):
    for name, option in (
        ("plain", "seed=0"),
        ("bf16", "loop.precision=bf16"),
        ("contiguous", "loop.channels_last=false"),
    ):
        assert (
            distill("tiny.yaml", f"name={name}", TEACHER, "losses=[{loss: cross_entropy}, {loss: kl}]", option).code
            == 0
        )
    plain, bf16, contiguous = (
        [row["total"] for row in rows(folder / "runs" / name)] for name in ("plain", "bf16", "contiguous")
    )
    assert bf16 == pytest.approx(plain, rel=0.02) and bf16 != plain
    assert contiguous[0] == pytest.approx(plain[0], rel=1e-5) and contiguous == pytest.approx(plain, rel=0.01)
    assert {value.dtype for value in student(folder / "runs/bf16").values()} == {torch.float32, torch.int64}


def test_evaluation_options_reach_the_score(distill, folder):
    result = distill(
        "tiny.yaml",
        "schedule.iterations=2",
        "evaluate.mode=slide",
        "evaluate.window=[32, 32]",
        "evaluate.stride=[16, 16]",
        "evaluate.flip=true",
        "evaluate.scales=[0.75, 1.0]",
        "evaluate.short_side=40",
        "evaluate.absent=zero",
        "evaluate.average=softmax",
        "tracking.images=1",
    )
    assert result.code == 0, result.err
    scored = rows(folder / "runs/tiny")[-1]
    assert None not in scored["iou_per_class"], "absent: zero leaves no class out"


@pytest.mark.slow
def test_compiled_training_follows_the_plain_one_with_every_kind_of_loss(distill, folder):
    losses = ["cross_entropy", "kl", "dist", "cwd", "fitnet", "at", "ifvd", "skd", "sp", "cirkd_minibatch", "cirkd_v2"]
    for name in ("false", "true"):
        result = distill(
            "tiny.yaml",
            TEACHER,
            "networks.student.args.dropout=0",  # a compiled network draws its own numbers
            "optimizer.lr=1.0e-12",  # the same weights at every step: training would magnify the last digits
            f"losses=[{', '.join(f'{{loss: {loss}}}' for loss in losses)}]",
            f"name=compile-{name}",
            f"loop.compile={name}",
            "data.args={size: [40, 72], length: 15}",
        )
        assert result.code == 0, result.err
    plain, compiled = (folder / "runs" / f"compile-{name}" for name in ("false", "true"))
    terms = [key for key in rows(plain)[0] if key.startswith("loss/")]
    assert len(terms) > len(losses)  # cirkd_v2 has several
    for ours, theirs in zip(rows(compiled), rows(plain), strict=True):
        assert [ours[term] for term in terms] == pytest.approx([theirs[term] for term in terms], rel=2e-3, abs=1e-5)
        if "gradient_norm" in theirs:
            assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-2)
    assert student(plain).keys() == student(compiled).keys()
