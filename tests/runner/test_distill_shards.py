"""A whole run whose images without labels lie in tar files: cut off and gone on with, and in two processes."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset import ShardWriter

SHARDS = """
extends: tiny.yaml
name: shards
data: {unlabelled: {shards: "shards/{0..2}.tar", shuffle: 5, batch_size: 8, strong: {}}, workers: 1}
networks:
  teacher:
    {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}, train: false, weights: random}
losses: [{loss: cross_entropy}, {loss: kl, from: teacher, on: unlabelled}]
schedule: {iterations: 4}
evaluate: {every: 4}
loop: {save_every: 2}
"""


@pytest.fixture
def shards(folder):
    """shards.yaml and three tar files of 4, 4 and 3 images, one of which is none."""
    (folder / "shards.yaml").write_text(SHARDS)
    (folder / "shards").mkdir()
    draws = np.random.default_rng(0)
    with ShardWriter(str(folder / "shards/%d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(11):
            image = Image.fromarray(draws.integers(0, 256, (40, 36, 3), np.uint8))
            writer.write({"__key__": str(number), "png": image if number != 6 else b"no image"})
    return folder


def test_a_run_over_shards_is_the_same_after_a_cut_and_in_two_processes(spied, trained, shards, run_at):
    first, (alone,) = spied("whole", "shards.yaml")
    assert first.out.count("shards/1.tar, 6.png: cannot be decoded") == 1
    seen = [indices for _, indices, _ in alone["seen"]]
    assert len(seen) == 4 and len({index for indices in seen[:2] for index in indices}) == 11

    cut = shards / "runs/cut"
    shutil.copytree(shards / "runs/whole", cut)
    for gone in ("student", "checkpoints/step-00000004"):
        shutil.rmtree(cut / gone)
    (cut / "recipe.yaml").write_text((cut / "recipe.yaml").read_text().replace("name: whole", "name: cut"))
    shutil.rmtree(shards / "runs/shards")  # the counts are lost as well
    resumed = trained("cut", "--resume", recipe="shards.yaml")
    assert "going on from iteration 2" in resumed.out
    assert resumed.state_bits() == run_at(shards / "runs/whole").state_bits()

    _, both = spied("two", "shards.yaml", processes=2)
    for (_, wanted, strong), left, right in zip(alone["seen"], both[0]["seen"], both[1]["seen"], strict=True):
        assert left[1] + right[1] == wanted and left[2] + right[2] == strong
    assert all(torch.equal(value, both[1]["state"][key]) for key, value in both[0]["state"].items())
