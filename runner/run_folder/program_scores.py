"""The scores of an exported file by its own runtime, beside it: what comparisons and measurements read."""

import json

import numpy as np

from segkd.runner.recipe.program_file import ProgramFile
from segkd.runner.recipe.text_file import read_json
from segkd.runner.run_folder.checksum import checksum
from segkd.runner.run_folder.metrics_file import plain
from segkd.runner.run_folder.replacing import replacing, write_text


def write_scores(file: ProgramFile, scores: dict, images: dict[str, np.ndarray]) -> None:
    """Writes what an evaluation of all validation images has found.

    Args:
        scores: its values, and the protocol in words. images: what it counted on each image.
    """
    with replacing(file.images_file) as partial, partial.open("wb") as content:
        np.savez_compressed(content, **images)
    write_text(file.scores_file, json.dumps(plain(scores | {"checksum": checksum(file.path)}), indent=2) + "\n")


def read_scores(file: ProgramFile) -> dict | None:
    """The scores of a file; None where it was not scored since it was written. ValueError: they are damaged."""
    if not file.scores_file.is_file() or not file.path.is_file():
        return None
    scores = read_json(file.scores_file, {"miou": (int, float), "checksum": str, "protocol": str})
    return scores if scores["checksum"] == checksum(file.path) else None


def remove_scores(file: ProgramFile) -> None:
    """Deletes what was written about an earlier file of this name."""
    for path in (file.scores_file, file.images_file, file.report_file):
        path.unlink(missing_ok=True)
