"""What a machine with a CUDA GPU shows of segkd, in one command, to be pasted into a report:

    python tests/device/run.py --minutes 12 [--camvid DIR] [--sections losses networks ...] [--out FILE]

It runs from a checkout, without an installation and without a network (HF_HUB_OFFLINE=0 lets CamVid's part download
ImageNet weights). The most important comes first: is it right (losses, networks, steps, resume), what does it cost
(loop, teacher, share, loading), and with --camvid what distillation gains there in the time that is left. Each section
is a process of its own that may take so long and no longer; one that fails, hangs or takes the driver down does not
stop the next, and what it has found until then counts. A Markdown table and a line of JSON come last, also where the
command is asked to end early (Ctrl-C, SIGTERM). Without a GPU a tiny form runs, which shows that the sections work and
no more.
"""

import argparse
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NEEDED = ("torch", "accelerate", "timm", "transformers", "segment_anything", "PIL", "yaml", "wandb", "pydantic",
          "annotated_types", "huggingface_hub", "safetensors", "rich", "tqdm", "numpy", "matplotlib", "scipy", "jinja2",
          "markupsafe", "pytest")  # fmt: skip
# section -> (the file it stands in, the seconds it may take of 12 minutes); camvid takes what the others leave
SECTIONS = {
    "facts": ("machine", 25),
    "losses": ("correctness", 45),
    "networks": ("correctness", 60),
    "steps": ("correctness", 120),
    "resume": ("correctness", 75),
    "loop": ("speed", 45),
    "teacher": ("speed", 60),
    "share": ("speed", 60),
    "loading": ("speed", 45),
    "camvid": ("camvid", 10_000),
}
LEAST = 15  # seconds: what most sections need to load and show anything
DYING = 10  # seconds that a killed section may take to be gone; one that waits for a broken driver never is


def missing_packages() -> list[str]:
    """What segkd and this command import and this Python cannot find."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def run_section(name: str, seconds: float, camvid: str | None, tell: Callable[[dict], None]) -> None:
    """Runs one section in this process and tells of each row as soon as it is known."""
    import torch
    from machine import Machine

    from segkd.runner.run_folder.metrics_file import plain

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        torch.set_num_threads(1)
    section = getattr(importlib.import_module(SECTIONS[name][0]), name)
    with tempfile.TemporaryDirectory() as folder:
        workers = min(16, os.cpu_count() or 1) if on_gpu else 0
        device = torch.device("cuda" if on_gpu else "cpu")
        machine = Machine(device, not on_gpu, seconds, Path(folder), camvid, workers)
        for row in section(machine):
            tell(plain(asdict(row)))


def supervise(name: str, command: list[str], seconds: float, sections: list[dict]) -> None:
    """Runs a section in a process of its own for so long at most; adds its rows and how it ended, whatever ends it."""
    begin, ended = time.monotonic(), "interrupted"
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "rows.jsonl", Path(folder) / "log"
        # this checkout's rooms as segkd.*, whether or not it is installed
        Path(folder, "segkd").symlink_to(ROOT)
        path = os.pathsep.join([folder, str(ROOT / "tests/benchmarks"), os.environ.get("PYTHONPATH", "")])
        environment = {"HF_HUB_OFFLINE": "1", **os.environ, "PYTHONPATH": path}
        file.touch()
        with log.open("w") as written:
            process = subprocess.Popen(
                [*command, "--only", name, str(seconds), str(file)],
                stdout=written, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(seconds)
                ended = "done" if code == 0 else f"failed with exit code {code}"
            except subprocess.TimeoutExpired:
                ended = f"stopped after {seconds:.0f} s"
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with its loading processes
                with suppress(subprocess.TimeoutExpired):
                    process.wait(DYING)
                section = {"name": name, "ended": ended, "seconds": time.monotonic() - begin, "rows": rows_of(file)}
                sections.append(section | ({} if ended == "done" else {"log": log.read_text(errors="replace")[-4000:]}))


def rows_of(file: Path) -> list[dict]:
    """What a section has told; its last line may be cut."""
    rows = []
    for line in file.read_text().splitlines():
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def run_all(names: list[str], command: list[str], minutes: float, sections: list[dict]) -> None:
    """Adds all sections, within so many minutes, each with its share and what the ones before it have left."""
    end = time.monotonic() + 60 * minutes
    for name in names:
        left = end - time.monotonic()
        if left < LEAST * min(1, minutes / 12):
            sections.append({"name": name, "ended": "skipped: no time left", "seconds": 0.0, "rows": []})
        else:
            supervise(name, command, min(left, SECTIONS[name][1] * minutes / 12), sections)
        section = sections[-1]
        print(f"{name}: {section['ended']}, {len(section['rows'])} rows, {section['seconds']:.0f} s", flush=True)


def table(sections: list[dict]) -> str:
    """All results as Markdown: of long lists how many are good, and those that are not."""
    lines = ["| section | what | found | wanted | |", "| --- | --- | --- | --- | --- |"]

    def add(*cells: str) -> None:
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")

    for section in sections:
        many = [row for row in section["rows"] if row["one_of_many"]]
        if many:
            good = sum(row["good"] for row in many)
            add(section["name"], "all cases", f"{good} of {len(many)}", many[0]["wanted"], verdict(good == len(many)))
        for row in section["rows"]:
            if not (row["one_of_many"] and row["good"]):
                add(section["name"], row["what"], row["found"], row["wanted"], verdict(row["good"]))
        if section["ended"] != "done":
            last = (section.get("log", "").strip().splitlines() or [""])[-1]
            add(section["name"], "the section itself", f"{section['ended']} {last[:200]}".strip(), "", "NOT DONE")
    return "\n".join(lines)


def verdict(good: bool | None) -> str:
    return {None: "", True: "ok", False: "NO"}[good]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a machine with a CUDA GPU shows of segkd.")
    parser.add_argument("--minutes", type=float, default=12.0, help="for everything; each section has its share")
    parser.add_argument("--camvid", metavar="DIR", help="CamVid (README, data sets): trains on it in the time left")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON of everything; without it, printed at the end")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.camvid and not Path(options.camvid, "train").is_dir():
        parser.error(f"--camvid {options.camvid}: there is no folder train/ in it")
    if options.only:
        name, seconds, file = options.only
        with open(file, "a") as rows:
            run_section(name, float(seconds), options.camvid, lambda row: print(json.dumps(row), file=rows, flush=True))
        return
    missing = missing_packages()
    print(f"missing packages: {', '.join(missing) or 'none'}", flush=True)
    names = [name for name in SECTIONS if name in options.sections and (name != "camvid" or options.camvid)]
    camvid = ["--camvid", str(Path(options.camvid).resolve())] if options.camvid else []
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sections: list[dict] = []
    try:
        run_all(names, [sys.executable, str(HERE / "run.py"), *camvid], options.minutes, sections)
    finally:
        result = json.dumps({"minutes": options.minutes, "missing": missing, "sections": sections})
        if options.out:
            options.out.write_text(result + "\n")
        print(f"\n{table(sections)}\n\n{options.out or result}", flush=True)
    checks = [section for section in sections if section["name"] != "facts"]  # which only says what machine it is
    if any(section["ended"] != "done" or any(row["good"] is False for row in section["rows"]) for section in checks):
        sys.exit(1)


if __name__ == "__main__":
    main()
