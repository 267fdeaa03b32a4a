"""Whether a device computes what the CPU does: every loss and network, steps in all settings, kill and resume."""

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from machine import Machine, Row, Steps, distance, first_line, first_steps, load, memory, milliseconds, write_recipe
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from segkd.runner import distill
from segkd.runner.building.device import start_accelerator
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.metrics_file import read_rows

CPU = torch.device("cpu")
AS_GOOD = 10  # a device may be this many times as far from float64's numbers as the CPU is in float32
ROUNDING = 2e-6  # and nearer than this is always good
WANTED = f"at most {AS_GOOD} times the CPU's, finite in half types"
Numbers = Callable[[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]]


class DrawnOnCpu(TorchFunctionMode):
    """Random numbers in float32 from the CPU's generator, whatever device and type they are asked for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func not in (torch.rand, torch.randn):
            return func(*args, **kwargs)
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        generator = kwargs.pop("generator", None)
        if generator is not None:
            kwargs["generator"] = torch.Generator().manual_seed(generator.initial_seed())
        drawn = func(*args, **kwargs, dtype=torch.float32, device="cpu")
        return drawn.to(device or "cpu", dtype or torch.get_default_dtype())


@contextmanager
def exactly(dtype: torch.dtype) -> Iterator[None]:
    """In this type throughout, TF32 off, with the same draws everywhere."""
    tf32 = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.set_default_dtype(dtype)  # of what is made at the first use, such as a memory
    torch.manual_seed(2)
    try:
        with DrawnOnCpu():
            yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32


def compared(what: str, numbers: Numbers, device: torch.device, half: Callable[[torch.dtype], bool]) -> Row:
    """What a device makes of values and gradients in float32, beside what the CPU does, both against float64.

    `half` says whether the numbers under autocast to a type are finite.
    """
    try:
        exact = numbers(CPU, torch.float64)
        off = [furthest(numbers(where, torch.float32), exact) for where in (device, CPU)]
        finite = {dtype: half(dtype) for dtype in (torch.bfloat16, torch.float16)}
    except Exception as error:
        return Row(what, first_line(error), WANTED, False, one_of_many=True)
    not_finite = "".join(f"; not finite in {str(dtype)[6:]}" for dtype, good in finite.items() if not good)
    return Row(
        what,
        f"off by {off[0]:.1e}, the CPU by {off[1]:.1e}{not_finite}",
        WANTED,
        off[0] <= AS_GOOD * off[1] + ROUNDING and all(finite.values()),
        one_of_many=True,
        values={"off": off[0], "off_cpu": off[1]},
    )


def furthest(found: tuple[list[Tensor], list[Tensor]], exact: tuple[list[Tensor], list[Tensor]]) -> float:
    """The larger distance of values and of gradients; NaN where one is, which `max` may pass by."""
    return float(np.max([distance(one, other) for one, other in zip(found, exact, strict=True)]))


def gradients_of(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Those of the leaves that learn something."""
    found = torch.autograd.grad(value, [x for x in leaves if x.requires_grad], allow_unused=True)
    return [x for x in found if x is not None]


def all_finite(tensors: list[Tensor]) -> bool:
    return all(bool(x.isfinite().all()) for x in tensors)


def losses(machine: Machine) -> Iterator[Row]:
    """Every loss with its defaults and variants, forward and backward: float32 against the CPU, half types finite."""
    table = load("losses/test_every_loss.py")

    def values(case: tuple, device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        loss = table.make_loss(*case).to(device, dtype)
        *predictions, target = table.make_inputs(*case, torch.float64)
        maps = [[x.detach().to(device, dtype).requires_grad_() for x in table.maps_of(p)] for p in predictions]
        with exactly(dtype):
            value = table.total(loss(*map(table.with_maps, predictions, maps), target.to(device)))
            return [value], gradients_of(value, [*maps[0], *maps[1], *loss.parameters()])

    def half(case: tuple, dtype: torch.dtype) -> bool:
        with torch.autocast(machine.device.type, dtype):
            (value,), gradients = values(case, machine.device, torch.float32)
        return all_finite([value]) and (dtype == torch.float16 or all_finite(gradients))

    for case in table.CASES[:: 12 if machine.tiny else 1]:
        name = f"{case[0]} {case[1] or ''}".strip()
        yield compared(name, lambda *where: values(case, *where), machine.device, lambda dtype: half(case, dtype))


def networks(machine: Machine) -> Iterator[Row]:
    """Every network, small, in eval mode: all maps and gradients as for the losses.

    In training mode the batch norms of maps of a few pixels blow float32's rounding up to a hundredth.
    """
    table = load("models/test_every_network.py")
    for name, case in table.CASES.items():
        if machine.tiny and name not in ("pspnet-stride32", "sam-features"):
            continue
        prototype = table.shaken(table.built(case)).eval()
        prototype.features_wanted, prototype.aux_wanted = set(prototype.channels), prototype.has_aux

        def values(device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
            network = copy.deepcopy(prototype).to(device, dtype)
            with exactly(dtype):
                maps = table.maps_of(network(*(x.to(device) for x in table.inputs(case))))
                total = sum((x * torch.randn(x.shape, device=device, dtype=x.dtype)).mean() for x in maps)
                return maps, gradients_of(total, list(network.parameters()))

        def half(dtype: torch.dtype) -> bool:
            with torch.autocast(machine.device.type, dtype):
                maps, gradients = values(machine.device, torch.float32)
            return all_finite(maps) and (dtype == torch.float16 or all_finite(gradients))

        yield compared(name, values, machine.device, half)


STEP = """
name: fp32
data: {dataset: synthetic, args: {size: [256, 512], length: 64}, crop_size: [256, 512], batch_size: 8}
networks:
  student: {model: deeplabv3, args: {backbone: resnet18}}
  teacher: {model: deeplabv3, args: {backbone: resnet50}, weights: random, train: false}
losses:
  - {loss: cross_entropy}
  - {loss: kl, label: kl, from: teacher}
  - {loss: cirkd_minibatch, label: pairs, from: teacher}
optimizer: {lr: 0.01}
schedule: {iterations: 60}
evaluate: {every: 60}
tracking: {every: 5}
"""
SMALL = [
    "data.args={size: [32, 48], length: 8}", "data.crop_size=[32, 32]", "data.batch_size=2",
    *(f"networks.{name}.args={{backbone: mobilenetv2_035, width: 8}}" for name in ("student", "teacher")),
]  # fmt: skip
# name of a run -> what it sets, and how far its first loss may be from float32's, relatively; a GPU's
# convolutions have TF32 there, as torch's default is
SETTINGS = {
    "fp32": ([], 0.0),
    "contiguous": (["loop.channels_last=false"], 0.01),
    "checkpointing": (["networks.student.checkpointing=true"], 0.01),
    "bf16": (["loop.precision=bf16"], 0.05),
    "fp16": (["loop.precision=fp16"], 0.05),
    "compile": (["loop.compile=true"], 0.01),
    "compile-bf16": (["loop.compile=true", "loop.precision=bf16"], 0.05),
}
NOT_ON_A_CPU = ("fp16", "compile", "compile-bf16")  # the first is refused there, the others take minutes


def steps(machine: Machine) -> Iterator[Row]:
    """Steps of the real loop with a teacher in each setting: the first loss is float32's, all are finite; time, memory."""
    plain: Steps | None = None
    for name, (overrides, allowed) in SETTINGS.items():
        if machine.tiny and name in NOT_ON_A_CPU:
            continue
        try:
            recipe = write_recipe(machine, STEP, f"name={name}", *(SMALL if machine.tiny else []), *overrides)
            found = first_steps(recipe, 2 if machine.tiny else 15)
        except Exception as error:  # the other settings are of interest all the same
            yield Row(name, first_line(error), good=False)
            continue
        plain = plain or found
        off = abs(found.rows[0]["total"] / plain.rows[0]["total"] - 1)
        about = f"{milliseconds(found.seconds)} a step ({found.seconds / plain.seconds:.2f} of fp32){memory(found.mib)}"
        yield Row(
            name,
            f"{about}; first loss off by {off:.1e}",
            f"off by at most {allowed:g}",
            off <= allowed,  # a loss that is not finite has ended the run
            values={"seconds": found.seconds, "mib": found.mib, "off": off},
        )


def resume(machine: Machine) -> Iterator[Row]:
    """A run that is killed by SIGKILL and resumed ends as near to one without a kill as two of these do to each other."""
    last = 4 if machine.tiny else 40
    often = [
        f"schedule.iterations={last}",
        f"evaluate.every={last}",
        f"loop.save_every={last // 4}",
        "tracking.every=1",
    ]

    def ready(name: str) -> Recipe:
        return write_recipe(machine, STEP, f"name={name}", *(SMALL if machine.tiny else []), *often)

    def student(name: str) -> list[Tensor]:
        return list(load_file(RunFolder(machine.folder / name).checkpoint(last).weights_file).values())

    for name in ("one", "other"):
        recipe = ready(name)
        distill.train([recipe], start_accelerator(recipe), resume=False)
    recipe = ready("killed")
    seen = start_and_kill(recipe, machine)
    killed_at = max((row["iteration"] for row in read_rows(RunFolder(recipe.folder).metrics_file)), default=0)
    distill.train([recipe], start_accelerator(recipe), resume=True)
    apart, by_itself = distance(student("killed"), student("one")), distance(student("other"), student("one"))
    iterations = [row["iteration"] for row in read_rows(RunFolder(recipe.folder).metrics_file)]
    yield Row(
        f"killed after iteration {killed_at} of {last}",
        f"weights off by {apart:.1e}, two runs without a kill by {by_itself:.1e}",
        f"at most {AS_GOOD} times as far, each iteration logged once",
        seen and killed_at < last and apart <= AS_GOOD * by_itself and iterations == list(range(1, last + 1)),
        values={"off": apart, "off_by_itself": by_itself},
    )


def start_and_kill(recipe: Recipe, machine: Machine) -> bool:
    """Starts a run in a process of its own and kills it half-way, at a checkpoint; whether it came to that."""
    file = machine.folder / "killed.yaml"
    file.write_text(recipe.dump())
    command = [sys.executable, distill.__file__, str(file), f"tracking.folder={machine.folder}"]
    same = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another number sums in another order
    with open(machine.folder / "killed.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=same)
    half_way = RunFolder(recipe.folder).checkpoint(recipe.schedule.iterations // 2).path
    until = time.monotonic() + machine.seconds / 2
    while not half_way.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return half_way.exists()
