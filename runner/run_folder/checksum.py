"""Checksums of files."""

import hashlib
from pathlib import Path


def checksum(*files: Path) -> str:
    """SHA-256 of what the files hold, one after another."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(2**20):
                digest.update(block)
    return digest.hexdigest()
