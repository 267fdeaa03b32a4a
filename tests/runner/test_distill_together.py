"""Recipes trained side by side: each ends as if it were trained alone, through kills, failures and processes."""

import signal
from types import SimpleNamespace

import pytest

from segkd.runner import distill as distill_script
from segkd.runner.comparing.sweep_plan import read_plan, side_by_side

KL = """
extends: tiny.yaml
name: kl
networks:
  teacher: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}, weights: random, train: false}
losses: [{loss: cross_entropy}, {loss: kl, from: teacher}]
"""
# reads other maps of the same teacher, draws numbers in its forward, has an adversary and an average
SKD = """
extends: kl.yaml
name: skd
networks: {student: {args: {dropout: 0.3}}}
losses: [{loss: cross_entropy}, {loss: skd, from: teacher}, {loss: fitnet, from: teacher, args: {feature: stage3}}]
loop: {ema: 0.9, clip_norm: 1.0}
"""
TOGETHER = "together: [{recipe: tiny.yaml}, {recipe: kl.yaml}, {recipe: skd.yaml, set: [loop.save_every=1]}]\n"
NAMES = ("tiny", "kl", "skd")


@pytest.fixture
def recipes(folder):
    for name, text in {"kl": KL, "skd": SKD, "together": TOGETHER}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def ends(folder, run_at):
    """Of a run in a folder: its log, its state and what it delivers, to the last bit."""

    def read(*path):
        run = run_at(folder.joinpath(*path))
        return run.rows("gradient_norm"), run.state_bits(), run.ends()

    return read


def test_each_ends_as_if_it_were_trained_alone(recipes, distill, server, ends):
    for name in NAMES:
        assert distill(f"{name}.yaml", "tracking.folder=alone").code == 0
    server.start(recipes, "distill", "together.yaml", "--resume")
    server.wait_for("runs/skd/checkpoints/step*3*")  # the others are saved every second iteration only
    server.signal(signal.SIGKILL)
    server.wait()
    result = distill("together.yaml", "--resume")
    assert result.code == 0, result.err
    for name in NAMES:
        assert ends("runs", name) == ends("alone", name), name
    assert result.out.count("teacher has") <= 2, "the shared teacher is scored once for each run folder at most"


def test_one_that_fails_leaves_the_others_alone(recipes, distill, ends, assert_refused):
    (recipes / "bad.yaml").write_text(
        "extends: kl.yaml\nname: bad\noptimizer: {lr: 1000}\nlosses: {kl: {weight: 1.0e+6}}\n"
    )
    (recipes / "two.yaml").write_text("together: [{recipe: bad.yaml}, {recipe: tiny.yaml}]\n")
    result = distill("two.yaml")
    assert_refused(result, "1 of 2 trainings failed", "bad (the loss of iteration")
    assert "bad has failed, the trainings beside it go on" in result.out
    assert distill("tiny.yaml", "tracking.folder=alone").code == 0
    assert ends("runs", "tiny") == ends("alone", "tiny")
    assert not (recipes / "runs/bad/student").exists()


def test_where_a_signal_ends_them_one_that_has_diverged_keeps_no_other_from_being_saved():
    here, saved, told = SimpleNamespace(num_processes=1), [], []

    def flush(name):
        if name == "bad":
            raise FloatingPointError("the loss is nan")

    def training(name):
        one = SimpleNamespace(
            recipe=SimpleNamespace(name=name), state=SimpleNamespace(iteration=3, averages={}), saved=2
        )
        one.graph, one.failure, one.is_over = None, None, False
        one.check_claim = one.close = lambda: None
        one.tracking = SimpleNamespace(flush=lambda: flush(name), accelerator=here)
        one.save = lambda _: saved.append(name) or setattr(one, "saved", 3)
        return one

    stop = SimpleNamespace(gave_up=False, leave=lambda text, together: told.append(text))
    distill_script.leave([training("bad"), training("kl")], here, stop)
    assert saved == ["kl"] and "stopped after iteration 3 and saved; go on with --resume" in told[0]


def test_several_processes(recipes, distill, ends):
    for name in ("kl", "skd"):
        assert distill(f"{name}.yaml", "tracking.folder=alone", processes=2).code == 0
    (recipes / "two.yaml").write_text("together: [{recipe: kl.yaml}, {recipe: skd.yaml}]\n")
    assert distill("two.yaml", processes=2).code == 0
    for name in ("kl", "skd"):
        assert ends("runs", name) == ends("alone", name), name


def test_a_sweep_of_methods_side_by_side(recipes, server):
    (recipes / "sweep.yaml").write_text(
        "name: s\nthreads: 1\ntogether: true\nmethods: {none: tiny.yaml, KD: kl.yaml}\n"
    )
    result = server(recipes, "sweep", "sweep.yaml")
    assert result.code == 0, result.out + result.err
    assert "[1/1] s-none-s0 + s-KD-s0: started" in result.out and "| KD" in result.out


def test_what_cannot_be_trained_side_by_side_is_a_job_of_its_own(recipes, monkeypatch, capsys):
    monkeypatch.chdir(recipes)
    methods = "{none: tiny.yaml, long: {recipe: tiny.yaml, set: [schedule.iterations=6]}, KD: kl.yaml}"
    (recipes / "sweep.yaml").write_text(f"name: s\nseeds: [0, 1]\nmethods: {methods}\n")
    jobs = side_by_side(read_plan("sweep.yaml").runs)
    assert [job.name for job in jobs] == ["s-none-s0 + s-KD-s0", "s-long-s0", "s-none-s1 + s-KD-s1", "s-long-s1"]
    assert (
        "s-long-s0 is not trained beside s-none-s0: schedule.iterations is 4 there and 6 here"
        in capsys.readouterr().out
    )


def test_a_teacher_that_is_shared_is_scored_as_each_recipe_says(recipes, distill):
    text = "together: [{recipe: kl.yaml}, {recipe: kl.yaml, set: [name=mirrored, evaluate.flip=true]}]"
    (recipes / "two.yaml").write_text(text)
    assert distill("two.yaml").code == 0
    assert distill("kl.yaml", "name=alone", "evaluate.flip=true").code == 0
    kl, mirrored, alone = ((recipes / f"runs/{name}/teachers.json").read_text() for name in ("kl", "mirrored", "alone"))
    assert mirrored == alone != kl


def test_one_that_another_needs_first_is_not_trained_twice(recipes, distill, assert_refused):
    (recipes / "above.yaml").write_text("extends: kl.yaml\nname: above\nbaseline: {recipe: tiny.yaml}\n")
    (recipes / "two.yaml").write_text("together: [{recipe: tiny.yaml}, {recipe: above.yaml}]\n")
    assert_refused(distill("two.yaml"), "tiny is to be trained beside recipes one of which needs it first")
    assert not (recipes / "runs/tiny").exists()
