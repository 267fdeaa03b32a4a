"""CamVid at full size in the time that is left: a teacher, its student alone, and with KD, feature KD and CWD."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from machine import Machine, Row, first_line, first_steps, milliseconds, write_recipe

from segkd.runner import distill
from segkd.runner.building.device import start_accelerator
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder

RECIPE = """
name: alone
data:
  dataset: camvid
  root: {camvid}
  crop_size: [360, 360]
  transform: {{scale: factor, scale_range: [0.5, 2.0], scale_step: 0.1}}
  batch_size: 16
networks:
  student: {{model: deeplabv3, args: {student}}}
losses:
  - {{loss: cross_entropy}}
optimizer: {{name: sgd, lr: 0.02, momentum: 0.9, weight_decay: 1.0e-4}}
schedule: {{iterations: 10000, name: poly, power: 0.9}}
loop: {{precision: bf16}}
evaluate: {{every: 10000}}
tracking: {{gradients: null}}
"""
# teacher, student; the first pair whose ImageNet weights are on this machine
PAIRS = (("resnet101", "resnet18"), ("timm/tf_efficientnet_lite2", "timm/tf_efficientnet_lite0"))
# row -> the terms beside cross entropy; a loss that is not there is left out
METHODS = {
    "alone": [],
    "KD": [{"loss": "kl", "weight": 1.0}],
    "normalised feature KD": [{"loss": "nfd", "weight": 1.0}],
    "CWD": [{"loss": "cwd", "weight": 3.0}],
}
TEACHER_SHARE = 0.35  # of the time, for its steps
STARTING = 20  # seconds before this section begins to count


@dataclass(frozen=True)
class Study:
    """A teacher and its student: arguments of both networks, and the terms of each method."""

    machine: Machine
    teacher: dict
    student: dict
    methods: dict[str, list[dict]]

    def recipe(self, title: str, *overrides: str) -> Recipe:
        """The recipe of a method, or of the teacher."""
        text = RECIPE.format(camvid=json.dumps(str(self.machine.camvid)), student=json.dumps(self.student))
        own = [f"networks.student.args={json.dumps(self.teacher)}"] if title == "teacher" else []
        terms = [{"loss": "cross_entropy"}, *(term | {"from": "teacher"} for term in self.methods.get(title, []))]
        if len(terms) > 1:
            args, weights = self.teacher | {"pretrained": False}, str(self.machine.folder / "teacher")
            entry = {"model": "deeplabv3", "args": args, "weights": weights, "train": False}
            own = [f"networks.teacher={json.dumps(entry)}", f"losses={json.dumps(terms)}"]
        small = ["data.crop_size=[32, 32]", "data.batch_size=2", "loop.precision=fp32"] if self.machine.tiny else []
        return write_recipe(self.machine, text, f"name={title.lower().replace(' ', '-')}", *own, *small, *overrides)

    def step_time(self, title: str) -> float:
        """Seconds of a step."""
        return first_steps(
            self.recipe(title, f"tracking.folder={self.machine.folder}/time"), 1 if self.machine.tiny else 20
        ).seconds

    def train(self, title: str, iterations: int) -> tuple[float, float]:
        """mIoU in percent at the end, and the seconds of a step all through."""
        recipe = self.recipe(title, f"schedule.iterations={iterations}", f"evaluate.every={iterations}")
        distill.train([recipe], start_accelerator(recipe), resume=False)
        summary = RunFolder(recipe.folder).read_summary()
        return 100 * summary["miou"], summary["seconds"] / iterations


def camvid(machine: Machine) -> Iterator[Row]:
    """mIoU on the validation images after as many iterations for each student as the time allows, and step times."""
    begin = time.monotonic()
    backbones, pretrained = (("mobilenetv2_035",) * 2, False) if machine.tiny else pair_with_weights()
    small, known = {"width": 8} if machine.tiny else {}, parts.names("losses")
    methods = {title: terms for title, terms in METHODS.items() if all(term["loss"] in known for term in terms)}
    if machine.tiny:
        methods = {title: methods[title] for title in ("alone", "KD")}
    teacher, student = ({"backbone": name, "pretrained": pretrained} | small for name in backbones)
    study = Study(machine, teacher, student, methods)
    start = "ImageNet weights" if pretrained else "random weights"
    found = f"DeepLabV3 on {backbones[0]} and {backbones[1]}, from {start}, bf16; one seed, far from convergence"
    yield Row("networks", found)

    step, since = study.step_time("teacher"), time.monotonic()
    count = 2 if machine.tiny else max(50, int(TEACHER_SHARE * machine.seconds / step))
    miou, real = study.train("teacher", count)
    # building, loading's start, scoring and reports; first steps find their images loaded before they begin
    overhead, slower = time.monotonic() - since - count * real, max(1.0, real / step)
    values = {"miou": miou, "step": step, "iterations": count}
    yield Row("teacher", f"{miou:.2f} mIoU after {count} iterations, {milliseconds(step)} a step", values=values)

    times, mious = {title: study.step_time(title) for title in methods}, {}
    left = machine.seconds - STARTING - (time.monotonic() - begin) - 1.2 * len(times) * overhead
    count = 2 if machine.tiny else max(50, int(left / sum(times.values()) / slower))
    for title, step in times.items():
        try:
            mious[title], _ = miou, _ = study.train(title, count)
        except Exception as error:  # the other methods are of interest all the same
            yield Row(f"student {title}", first_line(error), good=False)
            continue
        gain = f" ({miou - mious['alone']:+.2f})" if "alone" in mious else ""
        cost = f"{milliseconds(step)} a step ({step / times['alone']:.2f} of alone)"
        values = {"miou": miou, "step": step, "iterations": count}
        yield Row(f"student {title}", f"{miou:.2f} mIoU{gain} after {count} iterations, {cost}", values=values)


def pair_with_weights() -> tuple[tuple[str, str], bool]:
    """The first pair of backbones whose weights are here, or the first pair without them."""
    for pair in PAIRS:
        try:
            for backbone in pair:
                parts.build("models", "deeplabv3", {"backbone": backbone, "pretrained": True}, 11)
        except Exception:  # no network, no package: whatever a hub's client makes of it
            continue
        return pair, True
    return PAIRS[0], False
