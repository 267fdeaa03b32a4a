"""The ring of teacher vectors against a plain list, its state, and what two processes write into it.

Run as a script, this file is one of the two processes: test_memory.py RANK FOLDER.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from segkd.losses._memory import Memory
from segkd.losses._task import Features, Task
from segkd.losses.cirkd_channel import CIRKDChannel
from segkd.losses.cirkd_memory import CIRKDMemory
from segkd.losses.cirkd_minibatch import CIRKDMinibatch

CPU = torch.device("cpu")


def memory(groups=2, slots=5, width=3, seed=0, **options):
    torch.manual_seed(seed)
    made = Memory(groups, slots, **options)
    made.prepare(width, CPU)
    return made


def test_starts_with_unit_vectors_of_its_own_seed():
    first, second, other = memory(), memory(), memory(seed=1)
    torch.testing.assert_close(first.vectors.norm(dim=2), torch.ones(2, 5))
    assert torch.equal(first.vectors, second.vectors) and not torch.equal(first.vectors, other.vectors)
    assert not list(first.buffers()) and not list(first.parameters())


def test_writes_follow_the_end_rule():
    """Against lists of numbers: the k-th vector written is (k, k, k)."""
    made, rings, pointers = memory(), [[None] * 5, [None] * 5], [0, 0]
    made.vectors.zero_()
    written = 0
    for groups, counts in (([0, 1], [2, 4]), ([0, 0, 1], [2, 3, 3]), ([1], [7]), ([], []), ([0, 1], [1, 1])):
        rows = torch.arange(1, sum(counts) + 1.0).add(written)[:, None].expand(-1, 3)
        row = written
        for group, count in zip(groups, counts, strict=True):
            numbers = list(range(row + 1, row + count + 1))[:5]
            row += count
            start = pointers[group]
            if start + len(numbers) >= 5:
                start, pointers[group] = 5 - len(numbers), 0
            else:
                pointers[group] = start + len(numbers)
            rings[group][start : start + len(numbers)] = numbers
        written = row
        made.write(groups, counts, rows)
        assert made.pointers == pointers
        for group, ring in enumerate(rings):
            assert made.vectors[group, :, 0].tolist() == [x or 0 for x in ring]
            assert made.filled[group] == sum(x is not None for x in ring)


def test_sample_takes_the_same_slots_of_every_ring():
    made = memory(slots=7)
    made.draw = lambda: torch.tensor([4, 2, 0, 1, 3, 5, 6])
    assert torch.equal(made.sample(3), torch.cat([made.vectors[0, [4, 2, 0]], made.vectors[1, [4, 2, 0]]]))
    made.write([1], [3], torch.ones(3, 3))
    assert torch.equal(made.sample(3, filled_only=True), torch.ones(2, 3))


def test_state_survives_a_file(tmp_path):
    made = memory(half=True)
    made.write([0, 1], [2, 3], torch.randn(5, 3))
    torch.save(made.state_dict(), tmp_path / "state.pt")
    other = Memory(2, 5, half=True)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.vectors.dtype == torch.float16
    assert torch.equal(other.vectors, made.vectors)
    assert (other.pointers, other.filled, other.seed) == (made.pointers, made.filled, made.seed)
    assert other.sample(2).dtype == torch.float32
    unused = Memory(2, 5)
    unused.load_state_dict(Memory(2, 5).state_dict())
    assert unused.vectors is None


def test_errors():
    with pytest.raises(ValueError, match="vectors of length 3, the teacher now gives 4"):
        memory().prepare(4, CPU)
    with pytest.raises(ValueError, match="the saved memory has 2 rings of 5 vectors, this one 2 of 6"):
        Memory(2, 6).load_state_dict(memory().state_dict())


def run_losses(images: slice) -> dict:
    """Two steps of the losses that talk between processes, on some images of a fixed batch; fixed draws."""
    torch.manual_seed(0)
    task = Task(3, 255, Features("student", {"head": 4}, {}), Features("teacher", {"head": 4}, {}))
    memory = CIRKDMemory(task, pixel_memory=9, region_memory=4, pixels_per_class=3)
    memory.draw = lambda image, label, count: torch.arange(count)
    channel = CIRKDChannel(task, channel_memory=21, channels_per_batch=10, pool=1, gather=True)
    channel.draw = lambda count: torch.arange(count).flip(0) + (0 if images.start in (None, 0) else -1)
    channel.head = nn.Identity()  # its batch norms would see the images of a process
    minibatch = CIRKDMinibatch(task, gather=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        maps = [torch.randn(4, 4, 3, 5, generator=generator) for _ in range(2)]
        target = torch.randint(2, (4, 3, 5), generator=generator)
        target[0] = 255
        student, teacher = (SimpleNamespace(features={"head": x[images]}, align_corners=False) for x in maps)
        memory(student, teacher, target[images])
        channels = channel(student, teacher, None)["minibatch"]
        value = minibatch(student, teacher, None)
    state = {f"memory.{name}": part.get_extra_state() for name, part in memory.memories.items()}
    return state | {"channel": channel.memory.get_extra_state(), "minibatch": value, "channels": channels}


def test_two_processes_remember_what_one_would(tmp_path):
    """Also with classes that only one process sees, and an image without any."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    running = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    alone = run_losses(slice(None))
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in ("memory.pixel", "memory.region", "channel"):
        for part in parts:
            torch.testing.assert_close(part[name]["vectors"], alone[name]["vectors"])
            assert part[name]["pointers"] == alone[name]["pointers"]
    for name in ("minibatch", "channels"):
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, alone[name])


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(run_losses(slice(2 * rank, 2 * rank + 2)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
