"""Whole runs whose teacher is read from a cache: shared, cut off, damaged, made by several processes, filled before."""

import json
import signal

import pytest

# 15 images, 30 views, all of them seen after 8 steps
RECIPE = """
name: tiny
data:
  dataset: synthetic
  args: {size: [32, 48], length: 15}
  crop_size: [32, 32]
  batch_size: 4
  workers: 0
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8}}
  teacher:
    model: pspnet
    args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}
    train: false
    weights: random
    cache: {views: 2}
losses:
  - {loss: cross_entropy}
  - {loss: kl}
  - {loss: fitnet, weight: 0.5}
optimizer: {lr: 0.02}
schedule: {iterations: 12}
loop: {save_every: 2}
evaluate: {every: 12, batch_size: 5}
tracking: {wandb: disabled, images: 0, every: 1}
"""


def cached(place):
    """The setting by which the cache lies in a folder of its own."""
    return f"networks.teacher.cache.folder={place}"


def kept(place):
    """The files of a cache: name -> bytes."""
    return {path.name: path.read_bytes() for path in sorted(place.glob("*/*"))}


@pytest.fixture(scope="module")
def whole(server, run_at, tmp_path_factory):
    """A run that has begun without a cache, and its folder, which has the recipe too."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "tiny.yaml").write_text(RECIPE)
    result = server(folder, "distill", "tiny.yaml", "name=whole", cached("kept"))
    assert result.code == 0, result.err
    assert "labelled images: logits 8x2x2 in 16 bits, head 12x2x2 in 16 bits" in result.out
    assert "0 of 30 are there" in result.out and result.out.count("KL(live || read)") == 1
    return run_at(folder / "runs/whole", result.out)


def test_what_a_cache_takes_is_the_teachers_time(whole):
    """To read it, and to make what is not there."""
    rows = [json.loads(line) for line in (whole.path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and all(row["seconds/teacher"] > 0 for row in rows)


def test_check_fills_a_cache_and_a_run_trains_with_it_as_without(server, whole, run_at):
    folder = whole.path.parents[1]
    result = server(folder, "check", "tiny.yaml", "--fill-cache", cached("filled"))
    assert result.code == 0 and "30 of 30 are there" in result.out, result.out + result.err
    assert kept(folder / "filled") == kept(folder / "kept")
    result = server(folder, "distill", "tiny.yaml", "name=again", cached("filled"), "data.workers=1")
    assert result.code == 0 and "30 of 30 are there" in result.out, result.out + result.err
    again = run_at(folder / "runs/again")
    assert again.ends() == whole.ends() and again.rows() == whole.rows()
    assert kept(folder / "filled") == kept(folder / "kept")


def test_killed_damaged_and_resumed_it_ends_bit_for_bit_the_same(server, whole, run_at):
    folder = whole.path.parents[1]
    command = "tiny.yaml", "name=killed", cached("killed_cache"), "--resume"
    server.start(folder, "distill", *command)
    server.wait_for("runs/killed/checkpoints/step-*4")
    server.signal(signal.SIGKILL)
    assert server.wait().codes == [-signal.SIGKILL]
    damaged = next(path for path in sorted((folder / "killed_cache").glob("*/logits*.bin")))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:130] + bytes(20) + content[150:])  # in payloads, which begin behind 15 headers
    result = server(folder, "distill", *command)
    assert result.code == 0, result.err
    assert run_at(folder / "runs/killed").ends() == whole.ends()
    # the damage is found when its view is shown again
    assert kept(folder / "killed_cache") == kept(folder / "kept")


def test_two_processes_keep_the_bytes_that_one_keeps(server, whole):
    folder = whole.path.parents[1]
    result = server(folder, "distill", "tiny.yaml", "name=two", cached("two_cache"), processes=2)
    assert result.code == 0 and result.out.count("0 of 30 are there") == 1, result.out + result.err
    assert kept(folder / "two_cache") == kept(folder / "kept")


def test_check_tells_of_a_cache_and_writes_nothing(server, whole, assert_refused):
    folder = whole.path.parents[1]
    result = server(folder, "check", "tiny.yaml", cached("none"))
    assert "0 of 30 are there" in result.out and "of the first 4 images, logits: KL(live || read)" in result.out
    assert result.code == 0 and not (folder / "none").exists(), result.err
    words = "networks.teacher.cache={views: 4, logits: 3, bits: 8}"
    told = "logits 8x2x2, 3 largest in 8 bits, head 12x2x2 in 8 bits; 0.2 kB a view, up to 4 views of an image"
    assert (
        f"cache     teacher's cache of labelled images: {told}"
        in server(folder, "check", "tiny.yaml", "--no-data", words).out
    )
    result = server(folder, "check", "tiny.yaml", "--fill-cache", "networks.teacher.cache=null")
    assert_refused(result, "--fill-cache: no term reads a network with a cache, and no pixels are kept")
