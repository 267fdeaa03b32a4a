"""A first stage on images without labels, and what comes after it: the encoder frozen, or trained on."""

import json
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.runner import compare, predict
from segkd.runner.building.device import start_accelerator
from segkd.runner.building.graph import weighted
from segkd.runner.building.losses import build_graph
from segkd.runner.building.networks import build_networks
from segkd.runner.loading.batch import TrainingViews, collate
from segkd.runner.loading.data_sets import build_dataset, build_training_sets, build_views
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.recipe.seeds import seed_for
from segkd.runner.run_folder.pretrained import from_pretrained
from segkd.runner.scoring.held_out import judge

STAGE1 = """
name: stage1
data:
  dataset: images
  root: pictures
  args: {val: 0.4}
  crop_size: [32, 32]
  batch_size: 4
  unlabelled: {}
  workers: 0
networks:
  student: {model: bare_encoder, args: {backbone: mobilenetv2_035}}
  teacher: {model: bare_encoder, args: {backbone: mobilenetv2_035}, train: false, weights: random}
losses:
  - {loss: nfd, on: unlabelled, weight: 2.0, args: {feature: stage3, over: channel}}
  - {loss: phi_s, on: unlabelled, args: {feature: stage4}}
optimizer: {lr: 0.02}
schedule: {iterations: 4}
loop: {save_every: 1}
evaluate: {every: 2}
tracking: {wandb: disabled, every: 2}
"""
STAGE2 = """
name: stage2
data: {dataset: synthetic, args: {size: [32, 48], length: 6}, crop_size: [32, 32], batch_size: 4, workers: 0}
networks:
  student: {model: pspnet, args: {output_stride: 16, width: 8}, weights: {recipe: stage1.yaml}, train: head}
losses:
  - {loss: cross_entropy}
optimizer: {lr: 0.02}
schedule: {iterations: 4}
loop: {save_every: 1}
evaluate: {every: 2, batch_size: 3}
tracking: {wandb: disabled, images: 0, every: 2}
"""
BACKBONE = "networks.student.args.backbone=mobilenetv2_035"


def fill(folder):
    """The two recipes, and 14 pictures of two sizes."""
    (folder / "stage1.yaml").write_text(STAGE1)
    (folder / "stage2.yaml").write_text(STAGE2)
    draws = np.random.default_rng(0)
    (folder / "pictures/far").mkdir(parents=True)
    for index in range(14):
        pixels = draws.integers(0, 256, (40 + index % 2, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / ("far" if index % 3 else ".") / f"{index}.png")


@pytest.fixture(scope="module")
def chain(server, run_at, tmp_path_factory):
    """Both stages, trained by the second's recipe alone."""
    folder = tmp_path_factory.mktemp("chain")
    fill(folder)
    result = server(folder, "distill", "stage2.yaml")
    assert result.code == 0, result.err
    return [run_at(folder / "runs" / name, result.out) for name in ("stage1", "stage2")]


def test_the_first_stage_is_judged_by_the_loss_and_says_so(chain, run_here, monkeypatch):
    first, second = chain
    monkeypatch.chdir(first.path.parents[1])
    summary = json.loads((first.path / "summary.json").read_text())
    rows = [row for row in first.rows() if "held_out_loss" in row]
    assert [row["iteration"] for row in rows] == [2, 4]
    assert all(row["held_out_loss"] == 2 * row["held_out/nfd"] + row["held_out/phi_s"] for row in rows)
    assert summary["judged_by"] == "the loss on held-out images"
    assert summary["held_out_loss"] == min(row["held_out_loss"] for row in rows)
    assert summary["iteration"] == min(rows, key=lambda row: row["held_out_loss"])["iteration"]
    config = json.loads((first.path / "student/config.json").read_text())
    files = "".join((first.path / name).read_text() for name in ("metrics.jsonl", "summary.json"))
    assert "miou" not in files and not {"miou", "class_names", "palette"} & config.keys()
    report = (first.path / "report.md").read_text()
    assert "no mIoU: the run is judged by the loss on held-out images" in report and "loss on held-out" in first.out
    assert from_pretrained(first.path)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).logits is None
    with pytest.raises(ValueError, match="is judged by the loss on held-out images .* nothing to compare"):
        run_here(compare, "runs/stage1")
    with pytest.raises(ValueError, match="has features alone and no head"):
        run_here(predict, "runs/stage1", "pictures", "--to", "predicted")


def test_a_frozen_encoder_keeps_every_bit_and_the_head_learns(chain):
    (first, second), out = chain, chain[1].out
    assert "has no head; its encoder alone is taken, the head starts at random" in out
    encoder = first.student(f"step-{json.loads((first.path / 'summary.json').read_text())['iteration']:08d}")
    states = [second.student(step) for step in ("step-00000003", "last")]
    assert encoder and all(value.equal(state[key]) for key, value in encoder.items() for state in states)
    heads = [{key: value for key, value in state.items() if key not in encoder} for state in states]
    assert any(not value.equal(heads[1][key]) for key, value in heads[0].items())
    assert all(row["miou"] >= 0 for row in second.rows() if row["iteration"] == 4)


def test_killed_in_each_stage_the_chain_ends_bit_for_bit_the_same(server, chain, run_at, tmp_path):
    fill(tmp_path)
    for stage in ("stage1", "stage2"):
        server.start(tmp_path, "distill", "stage2.yaml", "--resume")
        server.wait_for(f"runs/{stage}/checkpoints/step-*2")
        server.signal(signal.SIGKILL)
        assert server.wait().codes == [-signal.SIGKILL]
    result = server(tmp_path, "distill", "stage2.yaml", "--resume")
    assert result.code == 0 and "stage2: going on from iteration" in result.out, result.err
    for run in chain:
        again = run_at(tmp_path / "runs" / run.path.name)
        assert again.ends() == run.ends() and again.rows("gradient_norm") == run.rows("gradient_norm")


def test_two_processes_judge_as_one(server, chain, run_at, monkeypatch):
    monkeypatch.chdir(folder := chain[0].path.parents[1])
    # nothing reads the last stage: no process may wait for its gradients
    short = ["name=two", "schedule.iterations=1", "evaluate.every=1"]
    short += ["losses=[{loss: nfd, on: unlabelled, args: {feature: stage3, over: channel}}]"]
    result = server(folder, "distill", "stage1.yaml", *short, processes=2)
    assert result.code == 0, result.err
    recipe, run = read("stage1.yaml", short), run_at(folder / "runs/two")
    accelerator, held_out = start_accelerator(recipe), build_dataset(recipe, "val")
    graph = build_graph(recipe, build_networks(recipe, held_out), 255)
    graph.load_state_dict(run.state()["graph"])
    alone = judge(graph, graph.networks["student"], held_out, recipe, accelerator).values
    assert {key: run.rows()[-1][key] for key in alone} == pytest.approx(alone, rel=1e-9)


def test_the_loss_on_held_out_images_is_that_of_a_bare_loop(folder, monkeypatch):
    monkeypatch.chdir(folder)
    fill(folder)
    recipe = read("stage1.yaml")
    accelerator = start_accelerator(recipe)
    train_set, unlabelled = build_training_sets(recipe)
    held_out = build_dataset(recipe, "val")
    assert len(train_set) == len(unlabelled) and len(train_set) + len(held_out) == 14
    assert not set(train_set.names) & set(held_out.names)
    graph = build_graph(recipe, build_networks(recipe, train_set), 255)
    before = {key: value.clone() for key, value in graph.state_dict().items() if isinstance(value, torch.Tensor)}
    found = judge(graph, graph.networks["student"], held_out, recipe, accelerator).values
    assert all(value.equal(graph.state_dict()[key]) for key, value in before.items()) and graph.training

    views = TrainingViews(held_out, seed=seed_for(0, "held out"), **build_views(recipe)[1])
    total, graph = 0.0, graph.eval()
    for first in range(0, len(held_out), 4):
        batch = collate([views[0, index] for index in range(first, min(first + 4, len(held_out)))])
        maps = [graph.network(name)(batch.images) for name in ("student", "teacher")]
        losses = {name: loss(*maps, torch.zeros_like(batch.target).long()) for name, loss in graph.losses.items()}
        total += len(batch.indices) * sum(weighted(losses, {"nfd": 2.0, "phi_s": 1.0}).values()).item()
    assert found["held_out_loss"] == pytest.approx(total / len(held_out), rel=1e-6)
    accelerator = start_accelerator(read("stage1.yaml", ["loop.precision=bf16"]))
    accelerator.prepare(graph)
    judged = judge(graph, graph.networks["student"], held_out, recipe, accelerator).values
    assert judged["held_out_loss"] == pytest.approx(total / len(held_out), rel=1e-6), "in float32 all the same"


def test_a_run_folder_tells_its_encoder_which_fits_any_network_that_is_trained(chain, monkeypatch):
    monkeypatch.chdir(chain[0].path.parents[1])
    recipe = read("stage2.yaml", ["networks.student.weights=runs/stage1"])
    assert recipe.networks["student"].args["backbone"] == "mobilenetv2_035"
    dataset = build_dataset(recipe, "train")
    (student,) = build_networks(recipe, dataset).values()
    state = {key: value for key, value in student.state_dict().items() if key.startswith("backbone.")}
    assert all(value.equal(state[key]) for key, value in from_pretrained("runs/stage1").state_dict().items())
    assert not any(one.requires_grad for one in student.train().backbone.parameters())
    assert not any(part.training for part in student.backbone.modules()) and student.training
    frozen = "networks.teacher={model: pspnet, weights: runs/stage1, train: false}"
    with pytest.raises(ValueError, match="networks.teacher is frozen and .* has no head, so that its own would stay"):
        build_networks(read("stage2.yaml", ["networks.student.weights=random", frozen, BACKBONE]), dataset)


@pytest.mark.parametrize("assignments, told", [
    (["losses.0.on=labelled"], "losses.0.on: the images of data.dataset: images have no labels; write on: unlabelled"),
    (["networks.student={model: pspnet, args: {backbone: mobilenetv2_035}}"],
     "networks.student: has a head, and the images of data.dataset: images have no classes for it; write args.head"),
    (["evaluate.also=[teacher]"], "evaluate.also: nothing is scored: the student has no head, or there are no labels"),
    (["networks.student.train=head"], "networks.student.train: student has no head; train it whole"),
    (["data.unlabelled=null"], "losses.0.on: unlabelled needs unlabelled images; add data.unlabelled, {} for those of"),
])  # fmt: skip
def test_mistakes_of_a_first_stage(folder, assignments, told):
    fill(folder)
    with pytest.raises(RecipeError) as caught:
        read(folder / "stage1.yaml", assignments)
    assert any(told in mistake for mistake in caught.value.mistakes), caught.value.mistakes


def test_mistakes_of_a_second_stage(folder, distill, assert_refused):
    fill(folder)
    with pytest.raises(RecipeError, match="networks.student.args.backbone: .*stage1.yaml was trained as bare_encoder"):
        read(folder / "stage2.yaml", ["networks.student.args.backbone=resnet18"])
    with pytest.raises(RecipeError, match="its encoder is frozen and nothing gives it weights"):
        read(folder / "tiny.yaml", ["networks.student.train=head"])
    student = {"model": "bare_encoder", "args": {"backbone": "mobilenetv2_035"}}
    assert_refused(
        distill("tiny.yaml", f"networks={json.dumps({'student': student})}"),
        "networks.student has no head, so no scores for cross_entropy to train; give it one, or use a loss of features",
    )
