"""What a step costs on a device: the loop beside bare steps, the teacher's forward, the losses, loading."""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from machine import Machine, Row, first_line, first_steps, forget, load, memory, milliseconds, write_recipe

from segkd.datasets._transforms import Transform
from segkd.datasets.folder import Folder
from segkd.datasets.synthetic import Synthetic
from segkd.runner.loading.batch import TrainingViews
from segkd.runner.loading.sampler import training_batches
from segkd.runner.recipe import parts

PAIR = """
name: loop
data: {dataset: synthetic, args: {size: [512, 512], length: 64}, crop_size: [512, 512], batch_size: 8}
networks:
  student: {model: deeplabv3, args: {backbone: resnet18}}
  teacher: {model: deeplabv3, args: {backbone: resnet101}, weights: random, train: false}
losses:
  - {loss: cross_entropy}
  - {loss: kl, label: kl, from: teacher}
schedule: {iterations: 100000}
evaluate: {every: 100000}
tracking: {every: 5}
"""
SMALL = [
    "data.args={size: [32, 48], length: 8}", "data.crop_size=[32, 32]", "data.batch_size=2",
    *(f"networks.{name}.args={{backbone: mobilenetv2_035, width: 8}}" for name in ("student", "teacher")),
]  # fmt: skip
LOOP, LOOP_MEMORY, TEACHER, BF16 = 1.02, 1.02, 1.05, 1.6  # what is asked of the ratios


def median(step: Callable[[], object], repeats: int) -> float:
    """Seconds of a step, after two that are not counted."""
    seconds = load("benchmarks/measuring.py").seconds
    return float(np.median([seconds(step)[0] for _ in range(repeats + 2)][2:]))


def loop(machine: Machine) -> Iterator[Row]:
    """Time and memory of the real loop's steps beside forward, backward and optimizer alone, in turn in one process."""
    overhead, measuring = load("benchmarks/step_overhead.py"), load("benchmarks/measuring.py")
    small = SMALL if machine.tiny else []
    ours, bare = overhead.compare_times(write_recipe(machine, PAIR, *small), 2 if machine.tiny else 40)
    one, other, ratio = (float(np.median(x)) for x in (ours[:, 0], bare[:, 0], ours[:, 0] / bare[:, 0]))
    found = f"{milliseconds(one)}, bare {milliseconds(other)}: {ratio:.3f}"
    good = None if machine.tiny else ratio <= LOOP
    yield Row("time of a step", found, f"at most {LOOP}", good, values={"loop": one, "bare": other, "ratio": ratio})
    if machine.tiny:  # the memory of a CPU is that of its whole process: tests/benchmarks/step_overhead.py measures it
        return
    most = first_steps(write_recipe(machine, PAIR, "name=memory"), 10)
    forget()
    step = overhead.bare_arm(write_recipe(machine, PAIR))
    for _ in range(10):
        step()
    alone = torch.cuda.max_memory_allocated() / measuring.MIB
    found = f"{most.mib:.0f} MiB, bare {alone:.0f}: {most.mib / alone:.3f}"
    yield Row("memory of a step", found, f"at most {LOOP_MEMORY}", most.mib <= LOOP_MEMORY * alone)
    waited = float(np.mean([row["seconds/data"] for row in most.rows if "seconds/data" in row]))
    yield Row("waiting for images in a step", milliseconds(waited), values={"seconds": waited})


def teacher(machine: Machine) -> Iterator[Row]:
    """A frozen DeepLabV3-R101's forward: as the graph runs it beside the bare module, in bfloat16, and compiled."""
    frozen, measuring = load("benchmarks/frozen_teacher.py"), load("benchmarks/measuring.py")
    crop, batch = ((32, 32), 1) if machine.tiny else ((512, 512), 8)
    if machine.tiny:
        frozen.TEACHER = frozen.STUDENT
    options = argparse.Namespace(crop=crop, batch=batch)
    times: dict[tuple[str, str], float] = {}
    for arm in ("bare", "graph") if machine.tiny else ("bare", "graph", "compiled"):
        forward = frozen.forward_of(arm, options)
        for precision in frozen.PRECISIONS:
            step = partial(forward, precision)
            times[arm, precision] = took = median(step, 1 if machine.tiny else 10)
            mib = None if machine.tiny else measuring.peak(step)
            faster = times["bare", "fp32"] / took
            wanted, good = "", None
            if arm == "graph":
                wanted, good = f"at most {TEACHER} of bare", took <= TEACHER * times["bare", precision]
            elif precision == "bf16":
                wanted, good = f"at least {BF16} times as fast", faster >= BF16
            found = f"{milliseconds(took)}, {faster:.2f} times as fast as bare fp32{memory(mib)}"
            good = None if machine.tiny else good
            yield Row(f"teacher {arm} {precision}", found, wanted, good, values={"seconds": took, "mib": mib})


def share(machine: Machine) -> Iterator[Row]:
    """Each loss, forward and backward, as a share of a plain step and the teacher's forward at 512 x 1024, and memory."""
    bench, measuring = load("benchmarks/losses.py"), load("benchmarks/measuring.py")
    small = {"crop": [64, 64], "batch": 2, "student": "mobilenetv2_035", "teacher": "mobilenetv2_035"}
    usual = {"crop": [512, 1024], "batch": 4, "student": "resnet18", "teacher": "resnet101"}
    options = argparse.Namespace(classes=19, **(small if machine.tiny else usual))
    with machine.device:
        plain = median(bench.step_arm(options), 1 if machine.tiny else 5)
    pair = f"R18 from R101, {options.crop[0]} x {options.crop[1]}, batch {options.batch}, fp32"
    yield Row(f"step without distillation, {pair}", milliseconds(plain), values={"seconds": plain})
    for name in ("kl", "cwd") if machine.tiny else parts.names("losses"):
        try:
            with machine.device:
                run = bench.loss_arm(name, False, options)
            mib = None if machine.tiny else measuring.peak(run)
            took = median(run, 1 if machine.tiny else 5)
        except Exception as error:
            yield Row(name, first_line(error), good=False)
            continue
        found = f"{milliseconds(took)}, {100 * took / (plain + took):.1f} % of the step with it{memory(mib)}"
        yield Row(name, found, values={"seconds": took, "mib": mib})


def loading(machine: Machine) -> Iterator[Row]:
    """Images a second that come from 1024 x 2048 PNGs as 512 x 1024 crops to the device, with all loading processes."""
    crop, batch_size = ((32, 32), 2) if machine.tiny else ((512, 1024), 8)
    if machine.tiny:
        dataset = Synthetic(size=(32, 48), length=8)
    else:
        load("benchmarks/loading.py").write_files(machine.folder, 4)
        dataset = Folder(str(machine.folder), "train", class_names=Synthetic.class_names)
    on_gpu = machine.device.type == "cuda"
    views = TrainingViews(dataset, Transform(crop), seed=0)
    batches = training_batches(views, batch_size=batch_size, start=0, workers=machine.workers, pin_memory=on_gpu)
    warm, counted = (1, 2) if machine.tiny else (machine.workers, 6 * machine.workers)
    since = time.perf_counter()
    for number, batch in enumerate(itertools.islice(batches, warm + counted)):
        if number == warm:
            since = time.perf_counter()
        batch.to(machine.device)
    rate = counted * batch_size / (time.perf_counter() - since)
    yield Row(f"loading, {machine.workers} processes", f"{rate:.1f} images/s", values={"images_per_second": rate})
