"""Whole runs that learn a teacher's labels: made first, by any number of processes, through kills, as by hand."""

import signal

import pytest

PSEUDO = """
name: pseudo
data:
  dataset: synthetic
  args: {size: [32, 48], length: 14}
  crop_size: [32, 32]
  batch_size: 4
  labelled: 5/14
  extra: {pseudo: {share: 0.6, folder: made}, weight: 0.5, share: 0.5}
  workers: 0
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8}}
  teacher: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}, train: false, weights: random}
losses:
  - {loss: cross_entropy}
optimizer: {lr: 0.02}
schedule: {iterations: 6}
loop: {save_every: 1}
evaluate: {every: 6, batch_size: 16, scales: [1.0, 1.5]}
tracking: {wandb: disabled, images: 0, every: 3}
"""


def files_in(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name[0] != "."}


@pytest.fixture(scope="module")
def whole(server, run_at, tmp_path_factory):
    """A run that has made its labels, and its folder, which has the recipe too."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "pseudo.yaml").write_text(PSEUDO)
    result = server(folder, "distill", "pseudo.yaml")
    assert result.code == 0, result.err
    assert "teacher makes 9 of 9 pseudo-labels, in made" in result.out and "teacher has" in result.out
    return run_at(folder / "runs/pseudo", result.out)


def test_killed_while_labels_are_made_and_while_it_trains_it_ends_bit_for_bit_the_same(server, whole, run_at, tmp_path):
    (tmp_path / "pseudo.yaml").write_text(PSEUDO)
    for pattern in ("made/labels/*.png", "runs/pseudo/checkpoints/step-*3"):
        server.start(tmp_path, "distill", "pseudo.yaml", "--resume")
        server.wait_for(pattern)
        server.signal(signal.SIGKILL)
        assert server.wait().codes == [-signal.SIGKILL]
    result = server(tmp_path, "distill", "pseudo.yaml", "--resume")
    assert result.code == 0 and "going on from iteration" in result.out and "makes" not in result.out, result.err
    assert run_at(tmp_path / "runs/pseudo").ends() == whole.ends()
    assert files_in(tmp_path / "made/labels") == files_in(whole.path.parents[1] / "made/labels")


def test_two_processes_make_the_labels_that_one_makes(server, whole):
    folder = whole.path.parents[1]
    two = ["name=two", "data.extra.pseudo.folder=by_two", "schedule.iterations=1", "evaluate.every=1"]
    result = server(folder, "distill", "pseudo.yaml", *two, processes=2)
    assert result.code == 0 and result.out.count("pseudo-labels, in by_two") == 1, result.err
    assert files_in(folder / "by_two/labels") == files_in(folder / "made/labels")
    assert (folder / "by_two/lowest_steps.json").read_text() == (folder / "made/lowest_steps.json").read_text()


def test_labels_given_by_hand_teach_as_those_it_makes_and_those_of_another_teacher_are_refused(
    server, whole, run_at, assert_refused
):
    folder = whole.path.parents[1]
    by_hand = "data.extra={images: unlabelled, labels: made/labels, weight: 0.5, share: 0.5}"
    result = server(folder, "distill", "pseudo.yaml", "name=hand", by_hand)
    assert result.code == 0, result.err
    assert run_at(folder / "runs/hand").ends() == whole.ends()
    another = server(folder, "distill", "pseudo.yaml", "name=another", "networks.teacher.args.width=8")
    assert_refused(another, "data.extra.pseudo.folder: made holds labels of another teacher; name another folder")
    assert not (folder / "runs/another").exists()
