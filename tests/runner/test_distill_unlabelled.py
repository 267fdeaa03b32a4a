"""Whole runs with images without labels, a peer with an optimizer of its own and a moving average of the student."""

import json

import pytest
import torch

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read

SEMI = """
name: semi
data:
  dataset: synthetic
  args: {size: [32, 48], length: 14}
  crop_size: [32, 32]
  batch_size: 4
  labelled: 5/14
  unlabelled: {strong: {}, batch_size: 8}
  mix: {kind: class_paste}
  workers: 0
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8, aux: false}}
  peer:
    model: deeplabv3
    args: {backbone: mobilenetv2_035, output_stride: 16, width: 8, aux: false}
    optimizer: {name: adamw, lr: 0.001}
    schedule: {name: cosine, warmup: 2}
  average: {ema_of: student, train: false, ema_decay: 0.8}
losses:
  - {loss: cross_entropy}
  - {loss: cross_entropy, of: peer, label: peer_ce}
  - {loss: cross_pseudo, from: average, on: strong, weight: {start: 0, end: 1, over: [0, 6]}}
  - {loss: kl, from: peer, on: both, weight: 0.5, after: 1}
  - {loss: cross_pseudo, of: peer, from: student, on: unlabelled, until: 4, label: back}
optimizer: {lr: 0.02}
schedule: {iterations: 8}
evaluate: {every: 4, batch_size: 7}
tracking: {wandb: disabled, images: 0, every: 1}
"""
WORDS = ["student", "peer", "average", "student+peer"]
SAVING = ["loop.save_every=1", "data.workers=1"]


@pytest.fixture
def semi(folder):
    """A folder with semi.yaml in it."""
    (folder / "semi.yaml").write_text(SEMI)
    return folder


@pytest.fixture(scope="module")
def whole(server, run_at, tmp_path_factory):
    """A run of semi.yaml from start to end, in a folder that has the recipe too."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "semi.yaml").write_text(SEMI)
    also = f"evaluate.also={json.dumps(WORDS)}"
    result = server(folder, "distill", "semi.yaml", "name=whole", also, "tracking.gradients=4", *SAVING)
    assert result.code == 0, result.err
    return run_at(folder / "runs/whole", result.out)


def test_terms_of_weight_zero_on_unlabelled_images_change_no_bit(trained, semi):
    short = ["schedule.iterations=3", "evaluate.every=3"]
    zero = [f"losses.{index}.weight=0" for index in (2, 3, 4)]
    student = "{model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8, aux: false}}"
    plain = [f"networks={{student: {student}}}", "losses=[{loss: cross_entropy}]", "data.unlabelled=null"]
    ends = [trained(name, *short, *words, recipe="semi.yaml").ends() for name, words in (("a", zero), ("b", plain))]
    assert ends[0] == ends[1]


def test_the_log_of_gates_ramps_and_everybodys_scores(whole):
    log = whole.rows()
    weights = [
        {key[9:]: row[key] / row[f"loss/{key[9:]}"] for key in row if key.startswith("weighted/")} for row in log
    ]
    for iteration, found in enumerate(weights):
        wanted = {"cross_entropy": 1, "peer_ce": 1}
        wanted |= {"cross_pseudo": min(iteration / 6, 1)} if iteration > 0 else {}
        wanted |= {"kl": 0.5} if iteration > 1 else {}
        wanted |= {"back": 1} if iteration <= 4 else {}
        assert found == pytest.approx(wanted), iteration
        assert log[iteration]["total"] == pytest.approx(
            sum(value for key, value in log[iteration].items() if key.startswith("weighted/"))
        )
    for row in log:
        scored = row["iteration"] in (4, 8)
        assert {f"miou/{name}" in row for name in WORDS} == {scored} == {"miou" in row}
        assert ("gradient/cross_pseudo" in row, "cosine/kl" in row) == (scored, False)
    assert all(row["miou/student"] == row["miou"] for row in (log[3], log[7]))
    assert len({log[3][f"miou/{name}"] for name in ("student", "peer")}) == 2
    assert f"| student+peer {100 * log[7]['miou/student+peer']:.2f} %" in whole.out
    state = whole.state()
    assert list(state["averages"]) == ["average"] and not any("average" in key for key in state["graph"])
    assert any(key.startswith("networks.peer.") for key in state["graph"]) and len(state["optimizers"]) == 2


def test_two_processes_see_what_one_sees_and_end_alike(spied, trained, semi):
    short = "semi.yaml", "schedule.iterations=3", "evaluate.every=3"
    (_, (alone,)), (_, (first, second)) = (spied(f"of{count}", *short, processes=count) for count in (1, 2))
    for wanted, left, right in zip(alone["seen"][:3], first["seen"][:3], second["seen"][:3], strict=True):
        assert [left[0] + right[0], left[1] + right[1], left[2] + right[2]] == wanted, "indices, the pixels' sum"
    assert any(key.startswith("average.module.") for key in first["state"])
    assert first["state"].keys() == second["state"].keys()
    assert all(torch.equal(value, second["state"][key]) for key, value in first["state"].items())
    # a peer that only terms of weight 0 train has no gradients: nobody may wait for them
    idle = "[{loss: cross_entropy}, {loss: kl, from: average}, {loss: cross_entropy, of: peer, weight: 0, label: b}]"
    trained("idle", *short[1:], f"losses={idle}", recipe="semi.yaml", processes=2)


def test_what_cannot_be_trained_on_is_one_sentence_and_leaves_no_run(distill, semi, assert_refused):
    for settings, told in (
        (["data.unlabelled.images=nowhere"], "data.unlabelled.images: there is no folder nowhere"),
        (["data.labelled='1_8'"], "no published list called '1_8'; there are: none"),
        (["losses=[{loss: cross_entropy}]"], "networks.peer: no term trains it; write train: false"),
    ):
        assert_refused(distill("semi.yaml", *settings), told)
    assert not (semi / "runs/semi").exists()


@pytest.mark.parametrize("assignment, place, told", [
    ("data.unlabelled=null", "losses.2.on",
     "strong needs unlabelled images; add data.unlabelled, and data.labelled to leave some over for it"),
    ("data.unlabelled.strong=null", "losses.2.on",
     "strong views are not made; add data.unlabelled.strong ({} for its defaults)"),
    ("losses.0.on=both", "losses.0.on",
     "cross_entropy reads labels, which these images do not have; only on: labelled"),
    ("data.unlabelled.strong={cutmx: 1}", "data.unlabelled.strong.cutmx", "unknown key, did you mean 'cutmix'?"),
    ("data.unlabelled.transform={flp: 1}", "data.unlabelled.transform.flp", "unknown key, did you mean 'flip'?"),
    ("data.mix={kind: cutmix}", "data.mix.kind", "must be 'half_cutmix' or 'class_paste'; got 'cutmix'"),
    ("data.unlabelled.batch_size=0", "data.unlabelled.batch_size", "must be greater than or equal to 1"),
    ("networks.average.ema_of=studnet", "networks.average.ema_of",
     "there is no other network 'studnet', did you mean 'student'?; there are: student, peer"),
    ("networks.average.ema_of=average", "networks.average.ema_of", "there is no other network 'average'"),
    ("networks.average.train=true", "networks.average.train",
     "a moving average is not trained by losses; write train: false"),
    ("networks.average.ema_decay=1", "networks.average.ema_decay", "must be less than 1"),
    ("networks.average.model=pspnet", "networks.average", "must name either a model: or the network it is"),
    ("networks.peer={train: false}", "networks.peer", "must name either a model: or the network it is"),
    ("networks.peer.train=false", "losses.1.of", "peer is frozen (train: false), so no loss can train it"),
    ("networks.second={ema_of: average, train: false}", "networks.second.ema_of",
     "average is frozen (train: false), so its average never moves"),
    ("networks.peer.prompted_by=peer", "networks.peer.prompted_by", "there is no other network 'peer'"),
    ("networks.peer.train=lora", "networks.peer.train", "lora is for model: sam"),
    ("networks.average.checkpointing=true", "networks.average.checkpointing", "average is not trained"),
    ("networks.peer.checkpointing=true loop.compile=true", "networks.peer.checkpointing",
     "does not go with loop.compile"),
    ("networks.student.class_map=names", "networks.student.class_map", "a class map is for who it learns from"),
    ("networks.peer.optimizer={lr: 1, momentun: 0}", "networks.peer.optimizer.momentun", "did you mean 'momentum'"),
    ("networks.peer.schedule={iterations: 3}", "networks.peer.schedule.iterations", "unknown key"),
    ("evaluate.also=[peer, student+peeer]", "evaluate.also.1",
     "there is no network 'peeer'; there are: student, peer, average (joined by +)"),
    ("loop.accumulate=8", "loop.accumulate", "8 parts do not divide data.batch_size, which is 4 in total"),
    ("loop.accumulate=4 data.unlabelled.batch_size=6", "loop.accumulate",
     "4 parts do not divide data.unlabelled.batch_size, which is 6 in total"),
    ("networks.peer.prompted_by=student networks.student.prompted_by=peer", "networks.peer.prompted_by",
     "student is prompted itself; prompts go one step only"),
])  # fmt: skip
def test_mistakes_in_a_recipe(semi, assignment, place, told):
    assignments = assignment.split() if assignment.count("=") > 1 else [assignment]
    with pytest.raises(RecipeError) as caught:
        read(semi / "semi.yaml", assignments)
    found = caught.value.mistakes
    assert any(f": {place}: " in mistake and told in mistake for mistake in found), found
    assert all("\n" not in mistake for mistake in found)
