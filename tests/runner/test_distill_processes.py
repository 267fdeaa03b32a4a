"""Several processes: the same samples, every validation image once, the same weights everywhere, and an end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from segkd.datasets.synthetic import Synthetic
from segkd.runner.building.networks import build_networks
from segkd.runner.recipe.read import read

TEACHER = "networks.teacher={model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}, train: false, weights: random}"
ROOT = Path(__file__).parents[2]


def test_two_processes_see_the_samples_of_one_and_end_with_equal_weights(spied, folder, run_at):
    settings = TEACHER, "losses=[{loss: cross_entropy}, {loss: fitnet, after: 1}]", "data.batch_size=8"
    _, (alone,) = spied("one", "tiny.yaml", *settings, "loop.accumulate=2")
    two, (first, second) = spied("two", "tiny.yaml", *settings, "loop.accumulate=2", processes=2)
    assert two.out.count("two 2/4 |") == 1, "only the main process reports"
    # a batch fetched ahead of the last step may differ in number, so whole steps are compared: 2 parts each
    for step in range(0, 8, 2):
        together = [one["seen"][part][0] for part in (step, step + 1) for one in (first, second)]
        assert sum(together, []) == sum((alone["seen"][part][0] for part in (step, step + 1)), [])

    assert "losses.fitnet.projection.weight" in first["state"]
    assert all(value.equal(second["state"][key]) for key, value in first["state"].items())
    run = run_at(folder / "runs/two")
    assert [row["iteration"] for row in run.rows()] == [1, 2, 3, 4]
    assert json.loads((run.path / "environment.json").read_text())["processes"] == 2


def test_two_processes_wait_for_no_gradient_of_what_no_term_reads(spied, folder):
    """A student with a head and an auxiliary head, of whose features alone a term is made: the heads stay as drawn."""
    settings = TEACHER, "losses=[{loss: fitnet, args: {feature: stage4}}]"
    result, states = spied("two", "tiny.yaml", *settings, processes=2)
    assert result.out.count("two: student: no term reads its scores and its auxiliary scores") == 1
    recipe = read(folder / "tiny.yaml", settings)
    start = build_networks(recipe, Synthetic(size=(32, 48), length=15))["student"].state_dict()
    for state in (one["state"] for one in states):
        same = {name: state[f"networks.student.{name}"].equal(first) for name, first in start.items()}
        assert same["classifier.weight"] and same["aux_head.conv.conv.weight"] and same["aux_head.classifier.weight"]
        assert not same["backbone.conv_stem.weight"]


def test_two_processes_stop_together_and_resume_exactly(trained, server, folder):
    settings = ["schedule.iterations=10", "evaluate.every=10", "loop.save_every=2", "data.workers=1"]
    whole = trained("whole", *settings, processes=2)
    server.start(folder, "distill", "tiny.yaml", *settings, processes=2)
    server.wait_for("runs/tiny/checkpoints/step-*")
    server.signal(signal.SIGTERM, rank=1)  # one process is told, both have to leave
    stopped = server.wait()
    assert stopped.code == 143, stopped.err
    assert stopped.out.count("go on with --resume") == 1
    assert trained("tiny", *settings, "--resume", processes=2).ends() == whole.ends()


def test_the_process_that_is_left_ends_with_a_sentence_and_fewer_or_more_go_on_where_they_divide_the_batch(
    server, distill, folder, assert_refused, run_at
):
    settings = ["schedule.iterations=24", "evaluate.every=24", "loop.save_every=1", "tracking.every=1"]
    server.start(folder, "distill", "tiny.yaml", *settings, processes=2)
    server.wait_for("runs/tiny/checkpoints/step-*")
    server.signal(signal.SIGKILL, rank=1)
    ended = server.wait()
    assert ended.codes == [2, -signal.SIGKILL]
    assert "segkd: another process of this run ended or does not answer" in ended.err and "Traceback" not in ended.err
    assert ended.err.count("go on with --resume") == 1 and "gloo" not in ended.err
    refused = distill("tiny.yaml", *settings, "--resume", processes=3)
    assert_refused(refused, "data.batch_size is 4 images in total, which 3 processes times 1 accumulated parts do not")
    alone = distill("tiny.yaml", *settings, "--resume")
    assert alone.code == 0 and "tiny: going on from iteration" in alone.out
    run = run_at(folder / "runs/tiny")
    assert [row["iteration"] for row in run.rows()] == list(range(1, 25))
    assert json.loads((run.path / "environment.json").read_text())["processes"] == 1


def test_a_batch_that_two_processes_cannot_share_is_one_sentence(distill, assert_refused):
    result = distill("tiny.yaml", "data.batch_size=5", processes=2)
    assert_refused(result, "data.batch_size is 5 images in total")
    assert distill("tiny.yaml", processes=2).code == 0, (
        "a start that failed leaves nothing to be resumed or overwritten"
    )


def test_torchrun_beside_a_package_called_datasets(folder):
    package = folder / "site/datasets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '9.9'\n\n\nclass IterableDataset:\n    pass\n")
    (folder / "site/datasets-9.9.dist-info").mkdir()
    described = "Metadata-Version: 2.1\nName: datasets\nVersion: 9.9\n"
    (folder / "site/datasets-9.9.dist-info/METADATA").write_text(described)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    command = [*torchrun, str(ROOT / "runner/distill.py"), "tiny.yaml", "data.workers=1", "schedule.iterations=2"]
    places = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "tiny is done" in ended.stdout
    assert json.loads((folder / "runs/tiny/environment.json").read_text())["processes"] == 1
