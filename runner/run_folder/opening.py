"""The folder of one run: opened for a new run or to go on with one, never for two different recipes."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from segkd.runner.console import counted
from segkd.runner.recipe.differences import IN_NO_RESULT, changes, without
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.checkpoint import remove_leftovers
from segkd.runner.run_folder.claim import Claim, claim, look
from segkd.runner.run_folder.folder import Checkpoint, RunFolder
from segkd.runner.run_folder.replacing import write_text

PACKAGES = ("torch", "accelerate", "timm", "transformers", "segment-anything", "pillow", "pydantic", "safetensors",
            "wandb", "numpy")  # fmt: skip
MOST = 8  # differences that are told


def open_run_folder(
    recipe: Recipe, accelerator: Accelerator, *, resume: bool, overwrite: bool = False
) -> tuple[Claim | None, Checkpoint | None]:
    """Makes the run folder with recipe and environment, claimed for this training.

    Returns:
        The claim, on the main process, to be released when the run is done; the checkpoint to go on from, if any.

    Raises:
        ValueError: the folder is used (refuse_used_folder), or another training is at work in it.
    """
    refuse_used_folder(recipe, resume=resume, overwrite=overwrite)
    run, held, refused = RunFolder(recipe.folder), None, [None]
    if run.has_results and not overwrite and not run.complete_checkpoints():  # a start from 0 would empty its log
        raise ValueError(
            f"{run.path} has delivered and its checkpoints were deleted: it can be compared, and not gone on with; start "
            f"over with --overwrite, or give this run another name (name=...)"
        )
    checkpoints = run.checkpoints
    if checkpoints.is_symlink() and not checkpoints.exists():  # whoever began anew would cut the log short
        raise ValueError(f"{checkpoints} leads to {os.readlink(checkpoints)}, which is not there; is a disk missing?")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        run.path.mkdir(parents=True, exist_ok=True)
        try:
            held = claim(run.claims)
            if run.has_progress and not overwrite:  # another may have trained here since the folder was looked at
                _refuse_run(recipe, resume=resume)
        except ValueError as error:
            refused = [str(error)]
            if held is not None:
                held.release()
    if broadcast_object_list(refused)[0]:  # by the main process; the others would wait for it
        raise ValueError(refused[0])
    if accelerator.is_main_process:
        if run.is_begun and (overwrite or not run.has_progress and not (resume and _is_of(recipe))):
            run.remove_run()
        remove_leftovers(run)
        if not run.has_progress:
            write_text(run.recipe_file, recipe.dump())
        write_text(run.environment_file, json.dumps(environment(accelerator, *_before(run)), indent=2) + "\n")
    accelerator.wait_for_everyone()
    complete = run.complete_checkpoints()
    return held, complete[-1] if complete else None


def refuse_used_folder(recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """ValueError where the folder holds a run and nothing says what to do with it, or holds another recipe's run.

    A run that has come to nothing yet (holds_nothing) is none. A folder inside of another run's, or around one, is
    refused whatever is said.
    """
    others = "; give this run another name (name=...) or folder (tracking.folder=...)"
    around = RunFolder.enclosing(recipe.folder)
    if around is not None:
        raise ValueError(
            f"{recipe.folder} lies inside of the run {around.path}, whose files it could overwrite{others}"
        )
    if not RunFolder(recipe.folder).is_begun:
        inside = [path for path in recipe.folder.glob("*/") if RunFolder.enclosing(path / "_") is not None]
        if inside:
            raise ValueError(f"{recipe.folder} holds other runs, such as {min(inside)}{others}")
        return
    if not (overwrite or holds_nothing(RunFolder(recipe.folder))):
        _refuse_run(recipe, resume=resume)


def holds_nothing(run: RunFolder) -> bool:
    """Whether a start loses nothing by beginning anew: no run has left anything in the folder, and none is under way."""
    holder = look(run.claims)
    return not run.has_progress and (holder is None or holder.is_gone)


def _refuse_run(recipe: Recipe, *, resume: bool) -> None:
    """ValueError unless the run in the folder is this recipe's and is to be gone on with."""
    check_same_recipe(recipe)
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if not resume and restarts != "0":
        raise ValueError(
            f"{recipe.folder} holds this run already, from before its processes ended and torchrun started them again "
            f"(restart {restarts}); add --resume to the command, and each restart goes on from the last checkpoint"
        )
    if not resume:
        raise ValueError(
            f"{recipe.folder} holds this run already; go on with it with --resume, start over with --overwrite, or "
            f"give this one another name (name=...)"
        )


def refuse_undeliverable(recipe: Recipe) -> None:
    """ValueError where no run of this recipe has come to a checkpoint."""
    run = RunFolder(recipe.folder)
    if not run.is_begun or not run.complete_checkpoints():
        raise ValueError(f"{recipe.folder} holds no run with a checkpoint, so there is nothing to deliver")
    check_same_recipe(recipe)


def check_same_recipe(recipe: Recipe) -> None:
    """ValueError where the run in the recipe's folder was made by a recipe that differs in anything that matters."""
    recipe = as_measured(recipe)
    # read, not compared as it is written: a field that is younger than the run has its default
    written, now = (
        one.model_dump(mode="json", by_alias=True) for one in (RunFolder(recipe.folder).read_recipe(), recipe)
    )
    changed = changes(written, now)
    if changed:
        more = f"; and {counted(len(changed) - MOST, 'other value')}" if len(changed) > MOST else ""
        raise ValueError(
            f"{recipe.folder} holds the run of another recipe; they differ in {'; '.join(changed[:MOST])}{more}. Give "
            f"this one another name (name=...), delete that run, or start over with --overwrite"
        )


def _is_of(recipe: Recipe) -> bool:
    """Whether the run in the recipe's folder was made by it."""
    try:
        check_same_recipe(recipe)
    except ValueError:  # a file that cannot be read any more, too
        return False
    return True


def as_measured(recipe: Recipe) -> Recipe:
    """The recipe with the iterations that its run has measured for the same time; as it is where there are none."""
    run = RunFolder(recipe.folder)
    if not recipe.schedule.is_open or not run.is_begun or holds_nothing(run):
        return recipe
    written = run.read_recipe().schedule
    same = written.measured and written.budget == recipe.schedule.budget
    return recipe.with_iterations(written.iterations) if same else recipe


def is_finished(recipe: Recipe) -> bool:
    """Whether this recipe's run came to its end. ValueError where its folder holds another recipe's run."""
    if not RunFolder(recipe.folder).is_finished:
        return False
    check_same_recipe(recipe)
    return True


def is_done(recipe: Recipe) -> bool:
    """Whether this recipe's run is finished and tells all that the recipe asks for, so that a resume has nothing to do.

    Raises:
        ValueError: its folder holds another recipe's run.
    """
    if not is_finished(recipe):
        return False
    run = RunFolder(recipe.folder)
    asked, written = (
        without(one.model_dump(mode="json", by_alias=True), IN_NO_RESULT)
        for one in (as_measured(recipe), run.read_recipe())
    )
    try:
        told = {row["network"] for row in run.read_summary()["rows"]}
    except (OSError, ValueError, KeyError):  # an older one has none; a damaged one is made again
        return False
    files = [run.environment_file, run.metrics_file, run.report_file, run.curves_file, run.page_file]
    files += [] if recipe.judged_by_loss else [run.images_file]
    files += [run.teachers_file] if told & recipe.networks.keys() - {"student"} else []
    return asked == written and all(file.is_file() for file in files)


def _before(run: RunFolder) -> tuple[list[str], list[str]]:
    """The devices, and the commits of the code, that a run has come to its last checkpoint with; empty: none is told."""
    try:
        told = (run.read_device(), run.read_code()) if run.complete_checkpoints() else (None, None)
    except (OSError, ValueError):
        return [], []
    devices, commits = (one.split(" and ") if one else [] for one in told)
    return devices, commits


def environment(accelerator: Accelerator, devices: Sequence[str] = (), commits: Sequence[str] = ()) -> dict:
    """What a run was made with, for whoever wants to make it again.

    Args:
        devices, commits: those that have trained it until now: its seconds and its weights are those of all of them.
    """
    now = device_words(accelerator.device)
    now += f", {processor()}" if accelerator.device.type == "cpu" else ""
    now += f", {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    return {
        "command": sys.argv,
        "git": " and ".join(dict.fromkeys(filter(None, [*commits, git_version()]))) or None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": " and ".join(dict.fromkeys([*devices, now])),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    }


def device_words(device: torch.device) -> str:
    """The name of a GPU, or how many threads the CPU has."""
    on_gpu = device.type == "cuda"
    threads = counted(torch.get_num_threads(), "thread")
    return torch.cuda.get_device_name(device) if on_gpu else f"{device.type}, {threads}"


def processor() -> str:
    """The processor's name, or its kind where the system tells no name, and the instructions that torch uses of it.

    Virtual machines call processors of several generations by one name.
    """
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def git_version() -> str | None:
    """The code's commit, with `-dirty` for uncommitted changes; None outside a git checkout or without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
