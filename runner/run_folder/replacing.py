"""Files and folders that appear whole or not at all: written beside their place, then renamed into it."""

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(final: Path, *, folder: bool = False) -> Iterator[Path]:
    """A path beside `final` to write to. It takes the place of `final` when the block ends; an error removes it.

    A kill at any moment leaves `final` whole, or whole under the name that `restore_replaced` puts right.

    Args:
        folder: makes a folder to fill, which is on the disk before it takes its place.
    """
    partial = _partial(final)
    try:
        if folder:
            partial.mkdir(parents=True)
        yield partial
        if not folder:
            partial.replace(final)
            return
        for path in [*partial.rglob("*"), partial]:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        if not final.exists():
            partial.rename(final)
            return
        replaced = _beside(final, "replaced")
        _remove(replaced)
        final.rename(replaced)
        partial.rename(final)
        _remove(replaced)
    except BaseException:
        _remove(partial)
        raise


def refuse_existing(file: Path, overwrite: bool) -> None:
    """An error for a file that cannot be written or is there, before the time for what goes into it is spent."""
    if not file.parent.is_dir():
        raise FileNotFoundError(f"{file} cannot be written: there is no folder {file.parent}")
    if file.is_dir() or (file.exists() and not overwrite):
        raise ValueError(f"{file} is there already; name another file, or write over it with --overwrite")


def write_text(file: Path, text: str) -> None:
    """Writes a small text file in one atomic step."""
    with replacing(file) as partial:
        partial.write_text(text)


def remove_folder(folder: Path) -> None:
    """Deletes a folder; a kill leaves no half of it under its own name."""
    partial = _partial(folder)
    folder.rename(partial)
    shutil.rmtree(partial)


def restore_replaced(final: Path) -> None:
    """Puts right what a kill in the middle of replacing or removing the folder `final` left behind."""
    replaced = _beside(final, "replaced")
    if replaced.exists() and not final.exists():  # killed between the two renames: this is the only complete one
        replaced.rename(final)
    _remove(replaced)
    remove_partial(final.parent, final)


def remove_partial(folder: Path, final: Path | None = None) -> None:
    """Deletes what kills in the middle of writing left in a folder, of one file or of all; nobody may write it now."""
    stem, suffix = ("*", "") if final is None else (glob.escape(final.stem), glob.escape(final.suffix))
    for partial in folder.glob(f".{stem}.partial*{suffix}"):
        _remove(partial)


def _partial(final: Path) -> Path:
    # of its own: a process that was stopped for long may write the same file as the one that has taken its place
    return _beside(final, f"partial-{secrets.token_hex(4)}")


def _beside(final: Path, word: str) -> Path:
    # the ending stays: it decides how some files are written
    return final.with_name(f".{final.stem}.{word}{final.suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
