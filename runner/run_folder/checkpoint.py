"""A run's checkpoints: each is written beside the others and renamed into place, so a kill never leaves half of one."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from segkd.models._weights import first_line
from segkd.runner.run_folder.weights import weights_file


def save(
    folder: Path,
    iteration: int,
    student: dict[str, Tensor],
    state: dict,
    *,
    images: dict[str, np.ndarray] | None = None,
    keep_last: int,
    best: int,
) -> Path:
    """Writes checkpoints/step-<iteration>/{student.safetensors, training_state/state.pt} in one atomic step.

    Args:
        student: the weights that are scored and delivered. state: plain values and tensors, all a resume needs.
        images: what the evaluation counted image by image, written as images.npz.
        keep_last: older checkpoints than this many are deleted after the new one is safe, except the best.
        best: iteration of the best checkpoint so far, which the `best` link points to; `last` points to this one.

    Raises:
        OSError: the disk is full or not writable. What was saved before is untouched.
    """
    checkpoints = folder / "checkpoints"
    final = checkpoints / f"step-{iteration:08d}"
    with replacing_folder(final) as partial:
        write_tensors(partial / "student.safetensors", student)
        (partial / "training_state").mkdir()
        torch.save(state, partial / "training_state" / "state.pt")
        if images is not None:
            np.savez_compressed(partial / "images.npz", **images)
    best_name = f"step-{best:08d}"
    _link(checkpoints / "last", final.name)
    if (checkpoints / best_name).is_dir():  # linked at each save: a kill may have come between a save and its link
        _link(checkpoints / "best", best_name)
    for path in steps(folder)[:-keep_last]:
        if path.name not in (final.name, best_name):
            _remove(path)
    return final


def steps(folder: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first. A folder under its final name is complete."""
    return sorted(path for path in (folder / "checkpoints").glob("step-*") if path.is_dir())


def load(path: Path) -> dict:
    """The training state of one checkpoint; only tensors and plain values are read, never code."""
    file = path / "training_state" / "state.pt"
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way: UnpicklingError, KeyError, IndexError, ...
        raise ValueError(
            f"{file} cannot be read ({first_line(error)}); delete {path} to resume from the checkpoint before it"
        ) from None


def restore(module: torch.nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Puts weights of the checkpoint at `path` into a module. ValueError where they are those of other networks."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        other = first_line(RuntimeError(" ".join(str(error).split())))
        raise ValueError(
            f"{path}/training_state/state.pt belongs to other networks than the recipe's ({other}); delete {path} to "
            f"resume from the checkpoint before it"
        ) from None


def export_student(folder: Path, checkpoint: Path, description: dict) -> Path:
    """Writes <folder>/student/{config.json, model.safetensors}: the delivered network, loadable without the recipe."""
    with replacing_folder(folder / "student") as partial:
        shutil.copyfile(weights_file(checkpoint), partial / "model.safetensors")
        (partial / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    return folder / "student"


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """A .safetensors file; the format knows neither shared nor channels_last tensors, so each is copied out plainly."""
    save_file({key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, file)


@contextmanager
def replacing_folder(final: Path) -> Iterator[Path]:
    """A new folder to fill; when the block ends it takes the place of `final` at once, on an error it is removed."""
    partial = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for path in [*partial.rglob("*"), partial]:  # on the disk before the rename makes it count
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        if final.exists():
            replaced = final.with_name(f".{final.name}.replaced")
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
            partial.rename(final)
            shutil.rmtree(replaced)
        else:
            partial.rename(final)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors report a full disk in their own types
        shutil.rmtree(partial, ignore_errors=True)
        free = shutil.disk_usage(final.parent).free / 2**20 if final.parent.exists() else 0
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"{final} could not be written ({reason[:160]}; {free:.0f} MiB free there); what was saved before is "
            f"untouched: make room and go on with --resume"
        ) from error


def _link(link: Path, target: str) -> None:
    """Points a symbolic link at a sibling, without a moment in which it is missing."""
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    if link.is_dir() and not link.is_symlink():  # a run folder that was copied with its links followed
        shutil.rmtree(link)
    new.replace(link)


def _remove(path: Path) -> None:
    """Deletes a folder that no longer counts, under a name that says so: a kill leaves no half of one under its own."""
    partial = path.with_name(f".{path.name}.partial")
    path.rename(partial)
    shutil.rmtree(partial)


def write_text(file: Path, text: str) -> None:
    """A small text file in one atomic step."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.replace(file)


def remove_leftovers(folder: Path) -> None:
    """Puts right what a kill in the middle of a save left behind."""
    for replaced in [*folder.glob("checkpoints/.step-*.replaced"), *folder.glob(".student.replaced")]:
        final = replaced.with_name(replaced.name.removeprefix(".").removesuffix(".replaced"))
        if final.exists():
            shutil.rmtree(replaced)
        else:  # killed between the two renames: the old folder is the only complete one
            replaced.rename(final)
    for partial in [*folder.glob("checkpoints/.step-*.partial"), *folder.glob(".student.partial")]:
        shutil.rmtree(partial)
