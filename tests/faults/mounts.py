"""Disks that only the process of a case and its children see; root may mount them, and with them gone they are gone."""

import ctypes
import functools
import os
from pathlib import Path

NEW_MOUNTS = 0x20000  # CLONE_NEWNS
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def in_own_mounts() -> None:
    """What this process mounts from now on, only it and its children see."""
    _call("unshare", NEW_MOUNTS)
    _call("mount", b"none", b"/", None, ctypes.c_ulong(RECURSIVE | PRIVATE), None)


def mount_memory(place: str | Path, size: int, *, read_only: bool = False) -> None:
    """A disk in memory of so many bytes (rounded up to pages)."""
    flags, options = ctypes.c_ulong(READ_ONLY if read_only else 0), f"size={size}".encode()
    _call("mount", b"tmpfs", os.fsencode(place), b"tmpfs", flags, options)


def make_read_only(place: Path) -> None:
    """Nobody writes below this folder any more."""
    _call("mount", os.fsencode(place), os.fsencode(place), None, ctypes.c_ulong(BIND), None)
    _call("mount", None, os.fsencode(place), None, ctypes.c_ulong(BIND | REMOUNT | READ_ONLY), None)


@functools.cache
def may_mount() -> bool:
    """Whether this user may mount at all."""
    child = os.fork()
    if child == 0:
        try:
            in_own_mounts()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0
