"""The folder of one run: opened for a new run or to go on with one, never for two different recipes."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator

from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder import checkpoint

# what may differ between the start of a run and its resume: nothing here changes the weights
FREE = {
    "tracking",
    "evaluate",
    "data.root",
    "data.workers",
    "loop.save_every",
    "loop.keep_last",
    "loop.timeout",
    "baseline",
    "method",
}
PACKAGES = (
    "torch",
    "accelerate",
    "timm",
    "transformers",
    "segment-anything",
    "pillow",
    "pydantic",
    "safetensors",
    "wandb",
    "numpy",
)


def open_run_folder(recipe: Recipe, accelerator: Accelerator, *, resume: bool, overwrite: bool = False) -> Path | None:
    """Makes the run folder with recipe.yaml and environment.json, and returns the checkpoint to go on from, if any."""
    refuse_used_folder(recipe, resume=resume, overwrite=overwrite)
    folder = recipe.folder
    written = folder / "recipe.yaml"
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if overwrite and written.is_file():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.remove_leftovers(folder)
        if not written.is_file():
            checkpoint.write_text(written, recipe.dump())
        checkpoint.write_text(folder / "environment.json", json.dumps(environment(accelerator), indent=2) + "\n")
    accelerator.wait_for_everyone()
    complete = checkpoint.steps(folder)
    return complete[-1] if complete else None


def refuse_used_folder(recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """ValueError where the folder holds a run and nothing says what to do with it, or holds another recipe's run."""
    if overwrite or not (recipe.folder / "recipe.yaml").is_file():
        return
    check_same_recipe(recipe)
    if not resume:
        raise ValueError(
            f"{recipe.folder} holds this run already; go on with it with --resume, start over with --overwrite, or "
            f"give this one another name (name=...)"
        )


def check_same_recipe(recipe: Recipe) -> None:
    """ValueError where the run in the recipe's folder was made by a recipe that differs in anything that matters."""
    written = recipe.folder / "recipe.yaml"
    changed = changes(yaml.safe_load(written.read_text()), yaml.safe_load(recipe.dump()))
    if changed:
        raise ValueError(
            f"{recipe.folder} holds the run of another recipe; they differ in {'; '.join(changed)}. Give this one "
            f"another name (name=...), delete that run, or start over with --overwrite"
        )


def is_finished(recipe: Recipe) -> bool:
    """Whether this recipe's run came to its end: then, and only then, it has delivered its student."""
    if not (recipe.folder / "student" / "config.json").is_file():
        return False
    check_same_recipe(recipe)
    return True


def changes(before: dict, now: dict) -> list[str]:
    """`optimizer.lr: 0.02 there, 0.01 here` for each value that differs and matters."""
    return [f"{key}: {old!r} there, {new!r} here" for key, old, new in differences(before, now, skip=FREE)]


def differences(
    before: dict, now: dict, path: str = "", skip: Collection[str] = ()
) -> list[tuple[str, object, object]]:
    """(dotted key, value before, value now) for each value that differs; None for one that is not there.

    Args:
        skip: dotted keys that are not looked at, nor anything inside of them.
    """
    found = []
    for key in dict.fromkeys([*before, *now]):
        here = f"{path}.{key}" if path else str(key)
        old, new = before.get(key), now.get(key)
        if here in skip or old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, here, skip)
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            found += differences(dict(enumerate(old)), dict(enumerate(new)), here, skip)
        else:
            found.append((here, old, new))
    return found


def environment(accelerator: Accelerator) -> dict:
    """What a run was made with, for whoever wants to make it again."""
    device = accelerator.device
    return {
        "command": sys.argv,
        "git": git_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {torch.get_num_threads()} threads",
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    }


def git_version() -> str | None:
    """The code's commit, with `-dirty` for uncommitted changes; None outside a git checkout or without git."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=here, capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
