"""Five methods of one seed side by side against one after the other: `python tests/benchmarks/together.py`.

Whole trainings from the start of a process to its end, on drawn scenes with random weights: a deeplabv3plus on
mobilenetv3_small_050 that learns from one on tf_efficientnet_lite2, batches of 8 crops of 180 x 240. Prints the seconds
of both and their ratio, by the clock and of the processor; the first means something on an idle machine alone. The
delivered students must be equal, bit for bit.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DISTILL = Path(__file__).parents[2] / "runner/distill.py"
TERMS = {
    "KD": "{loss: kl, from: teacher}",
    "CWD": "{loss: cwd, from: teacher, args: {feature: logits}}",
    "NFD": "{loss: nfd, from: teacher}",
    "DIST": "{loss: dist, from: teacher}",
    "FitNet": "{loss: fitnet, from: teacher}",
}
RECIPE = """
name: {name}
data:
  dataset: synthetic
  args: {{size: [180, 240], length: 64}}
  crop_size: [180, 240]
  batch_size: 8
  workers: 0
  allow_overlap: true
networks:
  student: {{model: deeplabv3plus, args: {{backbone: timm/mobilenetv3_small_050, output_stride: 16, width: 64}}}}
  teacher:
    {{model: deeplabv3plus, args: {{backbone: timm/tf_efficientnet_lite2, output_stride: 16, width: 128}}, train: false,
     weights: random}}
losses: [{{loss: cross_entropy}}, {term}]
schedule: {{iterations: {iterations}}}
evaluate: {{every: {iterations}, batch_size: 8}}
tracking: {{wandb: disabled, images: 0}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for method, term in TERMS.items():
            text = RECIPE.format(name=method, term=term, iterations=options.iterations)
            (folder / f"{method}.yaml").write_text(text)
        entries = ", ".join(f"{{recipe: {method}.yaml}}" for method in TERMS)
        (folder / "together.yaml").write_text(f"together: [{entries}]\n")
        together = train(folder, "together", "side")
        alone = [train(folder, method, "alone") for method in TERMS]
        for method in TERMS:
            one, other = (folder / runs / method / "student/model.safetensors" for runs in ("side", "alone"))
            assert one.read_bytes() == other.read_bytes(), f"{method} differs"
    for kind, side, others in zip(("by the clock", "of the processor"), together, map(sum, zip(*alone))):
        print(f"{kind}: side by side {side:.0f} s, one after the other {others:.0f} s: {side / others:.2f}")


def train(folder: Path, recipe: str, runs: str) -> tuple[float, float]:
    """Seconds of one process that trains on one thread, by the clock and of the processor."""
    since, used = time.monotonic(), processor_seconds()
    command = [sys.executable, str(DISTILL), f"{recipe}.yaml", f"tracking.folder={runs}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - since, processor_seconds() - used


def processor_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
