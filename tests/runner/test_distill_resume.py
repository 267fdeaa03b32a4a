"""Runs that are killed, stopped and started again; run folders and recipes that train others first."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

TEACHER = "networks.teacher={model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}, train: false, weights: random}"


def last_step(run: Path) -> int:
    """The iteration of the newest complete checkpoint, 0 without one."""
    return max((int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")), default=0)


def wait_for(server, run: Path, step: int) -> None:
    """Until the started run has saved iteration `step`, or ended."""
    deadline = time.monotonic() + 120
    while last_step(run) < step and server.running() and time.monotonic() < deadline:
        time.sleep(0.005)


REMEMBERING = """[
    {loss: cross_entropy},
    {loss: cirkd_memory, args: {pixel_memory: 40, region_memory: 8, pixel_contrast: 64, region_contrast: 32}},
    {loss: mgd, weight: 1.0e-3},
    {loss: holistic, weight: 0.001},
]"""


def test_banks_draws_and_adversaries_resume_exactly(trained, folder):
    settings = [TEACHER, "losses=" + " ".join(REMEMBERING.split()), "data.crop_size=[512, 512]", "data.batch_size=2"]
    settings += ["schedule.iterations=3", "evaluate.every=3", "loop.save_every=2"]
    settings += [f"networks.{name}.args.output_stride=8" for name in ("student", "teacher")]
    whole, cut = trained("whole", *settings), folder / "runs/cut"
    shutil.copytree(whole.path, cut)
    shutil.rmtree(cut / "student")
    shutil.rmtree(cut / "checkpoints/step-00000003")
    (cut / "recipe.yaml").write_text((cut / "recipe.yaml").read_text().replace("name: whole", "name: cut"))
    assert trained("cut", *settings, "--resume").state_bits() == whole.state_bits()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_saves_and_can_be_resumed(trained, trained_once, server, folder, number, code):
    plain = ["data.workers=1", "schedule.iterations=12", "evaluate.every=12"]
    whole = trained_once("whole", *plain)
    server.start(folder, "distill", "tiny.yaml", *plain, "loop.save_every=1")
    wait_for(server, folder / "runs/tiny", 2)
    server.signal(number)
    stopped = server.wait()
    assert stopped.code == code and "Traceback" not in stopped.err, stopped.err
    step = last_step(folder / "runs/tiny")
    assert 2 <= step < 12 and f"tiny: stopped after iteration {step} and saved; go on with --resume" in stopped.out
    resumed = trained("tiny", *plain, "--resume")
    assert f"going on from iteration {step}" in resumed.out
    assert resumed.ends() == whole.ends() and resumed.rows("gradient_norm") == whole.rows("gradient_norm")


def test_a_run_goes_on_with_no_other_teacher(trained, distill, folder):
    weights = trained("teacher", "schedule.iterations=1").path / "student/model.safetensors"
    settings = ["networks.teacher={weights: runs/teacher, train: false}", "losses=[{loss: cross_entropy}, {loss: kl}]"]
    run = trained("kd", *settings)
    whole = run.ends()
    shutil.rmtree(run.path / "student")
    shutil.rmtree(run.path / "checkpoints/step-00000004")
    before = weights.read_bytes()
    save_file({key: value * 2 for key, value in load_file(weights).items()}, weights)
    refused = distill("tiny.yaml", "name=kd", *settings, "--resume")
    assert refused.code == 2 and "runs/kd cannot go on: the weights of networks.teacher are not those" in refused.err
    weights.write_bytes(before)
    assert trained("kd", *settings, "--resume").ends() == whole


def test_before_the_first_checkpoint_a_teacher_is_scored_anew(trained):
    settings = [TEACHER, "losses=[{loss: cross_entropy}, {loss: kl}]", "schedule.iterations=1"]
    run = trained("early", *settings)
    scores = (run.path / "teachers.json").read_text()
    for made in ("checkpoints", "student"):
        shutil.rmtree(run.path / made)
    (run.path / "teachers.json").write_text('{"teacher": {"miou": 0.99}}')  # of another teacher, by that name
    assert "teacher has 99" not in trained("early", *settings, "--resume").out
    assert (run.path / "teachers.json").read_text() == scores


def test_a_second_start_is_refused_resume_of_a_finished_run_only_reports_overwrite_starts_over(trained, distill):
    run = trained("tiny")
    before, log = run.ends(), (run.path / "metrics.jsonl").read_text()
    refused = distill("tiny.yaml")
    assert refused.code == 2 and "--resume" in refused.err and "--overwrite" in refused.err
    # all that it asks for is there
    files = {file: file.stat().st_mtime_ns for file in run.path.rglob("*")}
    done = trained("tiny", "data.workers=1", "--resume")
    assert done.out == "tiny is done, nothing is left to do: its report is runs/tiny/report.html\n"
    assert {file: file.stat().st_mtime_ns for file in run.path.rglob("*")} == files
    # a report that is gone is made again; settings that do not touch the weights may change
    (run.path / "report.html").unlink()
    assert "tiny is done: mIoU" in trained("tiny", "--resume").out and (run.path / "report.html").is_file()
    again = trained("tiny", "tracking.images=0", "data.workers=1", "evaluate.metrics=[boundary]", "--resume")
    assert re.search(r"tiny is done: mIoU [\d.]+ %, parameters 0.26 M, ms per image", again.out)
    assert "tiny 2/4" not in again.out
    assert run.ends() == before and (run.path / "metrics.jsonl").read_text() == log
    scores = {1: None, 3: None}
    for width in scores:
        fresh = trained(f"width-{width}", f"evaluate.metrics.boundary.width={width}")
        scores[width] = json.loads((fresh.path / "summary.json").read_text())["boundary_miou"]
    other = trained("width-1", "evaluate.metrics.boundary.width=3", "--resume")
    told = json.loads((other.path / "summary.json").read_text())
    assert told["metrics"] == {"boundary": {"width": 3}} and told["boundary_width"] == 3
    assert told["boundary_miou"] == scores[3] != scores[1], "the chosen checkpoint is scored again"
    assert "is done, nothing is left to do" in trained("width-1", "evaluate.metrics.boundary.width=3", "--resume").out
    broken = distill("tiny.yaml", "losses=[{loss: cross_entropy, args: {class_weights: [1.0]}}]", "--overwrite")
    assert broken.code == 2 and run.ends() == before, "a recipe that cannot be built costs no run"
    other = distill("tiny.yaml", "optimizer.lr=0.03", "seed=1", "--resume")
    assert other.code == 2 and "seed: 0 there, 1 here" in other.err
    assert "optimizer.lr: 0.02 there, 0.03 here" in other.err
    assert "tiny 2/4" in trained("tiny", "seed=1", "--overwrite").out
    assert run.ends() != before and len(run.rows()) == 4


def test_teacher_and_baseline_are_trained_first_then_reused_and_refused_when_changed(trained, distill, folder):
    (folder / "teacher.yaml").write_text(
        "extends: tiny.yaml\nname: teacher\nnetworks: {student: {args: {width: 12}}}\n"
        "schedule: {iterations: 3}\nevaluate: {every: 3}\n"
    )
    (folder / "plain.yaml").write_text("extends: tiny.yaml\nname: plain\nschedule: {iterations: 2}\n")
    (folder / "kd.yaml").write_text(
        "extends: tiny.yaml\nname: kd\nnetworks:\n"
        "  teacher: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}, train: false,\n"
        "            weights: {recipe: teacher.yaml}}\n"
        "losses: [{loss: cross_entropy}, {loss: kl}]\nbaseline: {recipe: plain.yaml}\nschedule: {iterations: 2}\n"
    )
    first = trained("kd", "loop.precision=bf16", recipe="kd.yaml")
    precisions = {name: json.loads((folder / f"runs/{name}/environment.json").read_text())["precision"]
                  for name in ("teacher", "plain", "kd")}  # fmt: skip
    assert precisions == {"teacher": "no", "plain": "no", "kd": "bf16"}, "each has its own recipe's"
    said = [re.sub(r"[\d:.]+(?= and|GiB| GiB)", "#", line) for line in first.out.splitlines()]
    assert said[0] == "kd takes 3 trainings, about # and # GiB of memory: teacher, plain, kd"
    starts = [line for line in said if " of 3: " in line]
    assert [line.partition(",")[0] for line in starts] == ["1 of 3: teacher", "2 of 3: plain", "3 of 3: kd"]
    assert all(line.endswith("; student (pspnet mobilenetv2_035) starts from random weights") for line in starts)
    # of each training its start and its end, the teacher's score, the table between two empty lines, the gain, what next
    assert len(said) == 1 + 2 * 3 + 1 + (1 + 5 + 1) + 1 + 1
    assert re.match(r"next      python \S*runner/predict\.py runs/kd ", said[-1])
    assert re.search(r"^kd has [-+][\d.]+ points of mIoU against plain with this seed", first.out, re.MULTILINE)
    assert 0 < first.out.index("teacher is done") < first.out.index("plain is done") < first.out.index("kd is done")
    table = [line.split("|")[1] for line in first.out.split("plain is done")[1].splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in table[2:]] == ["teacher", "student, plain", "student, kd"]
    # a frozen network is scored with the weights its own run has delivered
    teacher = folder / "runs/teacher/student"
    delivered = json.loads((teacher / "config.json").read_text())["miou"]
    assert json.loads((first.path / "teachers.json").read_text())["teacher"]["miou"] == delivered

    stamp = (teacher / "model.safetensors").stat().st_mtime_ns
    second = trained("kd2", "loop.precision=bf16", recipe="kd.yaml")
    assert "teacher is done" not in second.out and "plain is done" not in second.out
    assert (teacher / "model.safetensors").stat().st_mtime_ns == stamp
    assert first.ends() == second.ends()

    shutil.rmtree(teacher)  # as if killed while delivering
    assert "teacher: going on from iteration 3" in trained("kd3", recipe="kd.yaml").out

    (folder / "teacher.yaml").write_text((folder / "teacher.yaml").read_text() + "optimizer: {lr: 0.5}\n")
    changed = distill("kd.yaml", "name=kd4")
    assert changed.code == 2 and "runs/teacher holds the run of another recipe" in changed.err
    assert "optimizer.lr: 0.02 there, 0.5 here" in changed.err
    assert not (folder / "runs/kd4").exists()
