"""A run's checkpoints: each is written beside the others and renamed into place, so a kill never leaves half of one."""

import errno
import json
import re
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
from segkd.runner.recipe.student_folder import HEADER, IN_HEADER, StudentFolder
from segkd.runner.recipe.text_file import read_json
from segkd.runner.run_folder.checksum import checksum
from segkd.runner.run_folder.claim import Claim, ClaimLost
from segkd.runner.run_folder.folder import Checkpoint, RunFolder
from segkd.runner.run_folder.replacing import remove_folder, remove_partial, replacing, restore_replaced


def save(
    run: RunFolder,
    iteration: int,
    student: dict[str, Tensor],
    state: dict,
    *,
    config: dict | None = None,
    images: dict[str, np.ndarray] | None = None,
    keep_last: int,
    best: int,
    claim: Claim | None = None,
) -> Checkpoint:
    """Writes the checkpoint of an iteration in one atomic step.

    Args:
        student: the weights that are scored and delivered. state: plain values and tensors, all a resume needs.
        config: what describes the student, for whoever takes the checkpoint as weights.
        images: what the evaluation counted image by image.
        keep_last: older checkpoints than this many are deleted after the new one is safe, except the best.
        best: iteration of the best checkpoint so far, which the `best` link points to; `last` points to this one.
        claim: of the training that saves.

    Raises:
        OSError: the disk is full or not writable. What was saved before is untouched.
        ClaimLost: another process trains here by now.
    """
    final, best_one = run.checkpoint(iteration), run.checkpoint(best)
    with _writing(final.path, claim) as partial:
        new = Checkpoint(partial)
        write_tensors(new.weights_file, student, config)
        new.state_file.parent.mkdir()
        torch.save(state, new.state_file)
        if images is not None:
            np.savez_compressed(new.images_file, **images)
        new.checksums_file.write_text(json.dumps(_checksums(new), indent=2) + "\n")
    _link(run.checkpoints / "last", final.path.name)
    if best_one.path.is_dir():  # linked at each save: a kill may have come between a save and its link
        _link(run.checkpoints / "best", best_one.path.name)
    for old in run.complete_checkpoints()[:-keep_last]:
        if old.path not in (final.path, best_one.path):
            remove_folder(old.path)
    return final


def load(checkpoint: Checkpoint) -> dict:
    """The training state of one checkpoint; only tensors and plain values are read, never code.

    Raises:
        ValueError: a file is damaged; it is not what was written.
    """
    try:
        verify(checkpoint)
        return torch.load(checkpoint.state_file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail in any way: UnpicklingError, KeyError, IndexError, ...
        raise ValueError(
            f"{checkpoint.state_file} cannot be read ({first_line(error)}); delete {checkpoint.path} to resume from "
            f"the checkpoint before it"
        ) from None


def verify(checkpoint: Checkpoint) -> None:
    """ValueError where a file of a checkpoint is not what was written: torch reads many a flipped bit as a weight."""
    if not checkpoint.checksums_file.is_file():  # made before there were checksums
        return
    written = read_json(checkpoint.checksums_file)
    changed = {name for name, _ in written.items() ^ _checksums(checkpoint).items()}
    if changed:
        raise ValueError(f"{', '.join(sorted(changed))} is damaged or missing")


def _checksums(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of each file."""
    files = (checkpoint.weights_file, checkpoint.state_file, checkpoint.images_file)
    return {str(file.relative_to(checkpoint.path)): checksum(file) for file in files if file.is_file()}


def restore(module: torch.nn.Module, state: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    """Puts weights of a checkpoint into a module. ValueError where they are those of other networks."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        other = first_line(RuntimeError(" ".join(str(error).split())))
        raise ValueError(
            f"{checkpoint.state_file} belongs to other networks than the recipe's ({other}); delete {checkpoint.path} "
            f"to resume from the checkpoint before it"
        ) from None


def export_student(run: RunFolder, checkpoint: Checkpoint, config: dict) -> None:
    """Delivers the student of a checkpoint, described by `config`: a folder that loads without the recipe."""
    with _writing(run.student.path) as partial:
        new = StudentFolder(partial)
        shutil.copyfile(checkpoint.weights_file, new.weights_file)
        new.config_file.write_text(json.dumps(config, indent=2) + "\n")


def write_tensors(file: Path, tensors: dict[str, Tensor], config: dict | None = None) -> None:
    """Writes a .safetensors file; the format knows neither shared nor channels_last tensors, so each is copied.

    Args:
        config: what describes the network, for its header.
    """
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    said = {key: value for key, value in (config or {}).items() if key in IN_HEADER}
    save_file(plain, file, metadata={HEADER: json.dumps(said)} if said else None)


def remove_leftovers(run: RunFolder) -> None:
    """Puts right what a kill in the middle of a save left behind."""
    names = {path.name[1:].rpartition(".")[0] for path in run.checkpoints.glob(".*")}
    for final in [*(run.checkpoints / name for name in names), run.student.path]:
        restore_replaced(final)
    for folder in (run.path, *run.path.glob("panels/*/")):
        remove_partial(folder)


@contextmanager
def _writing(final: Path, claim: Claim | None = None) -> Iterator[Path]:
    """A folder to fill, which takes the place of `final`; a disk that is full becomes a sentence."""
    try:
        with replacing(final, folder=True) as partial:
            yield partial
            if claim is not None:
                claim.check()
    except ClaimLost:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have errors of their own for it
        if isinstance(error, RuntimeError) and not re.search("PytorchStreamWriter|inline_container", str(error)):
            raise  # what is no trouble with the disk, such as a loading process that dies in this moment
        free = shutil.disk_usage(final.parent).free / 2**20 if final.parent.exists() else 0
        reason = str(error).strip().splitlines()[0]
        # what torch and safetensors say of a full disk has no number
        is_full = getattr(error, "errno", None) in (None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise OSError(
            f"{final} could not be written ({reason[:160]}; {free:.0f} MiB free there); what was saved before is "
            f"untouched: {'make room' if is_full else 'put this right'} and go on with --resume"
        ) from error


def _link(link: Path, target: str) -> None:
    """Points a symbolic link at a sibling, without a moment in which it is missing."""
    if link.is_dir() and not link.is_symlink():  # a run folder that was copied with its links followed
        shutil.rmtree(link)
    with replacing(link) as new:
        new.symlink_to(target)
