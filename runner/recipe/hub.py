"""What recipes name on the Hugging Face Hub, by `hf://user/repo[@revision]/path`: other recipes, and weights."""

import functools
import os
import re
from pathlib import Path

from segkd.runner.recipe.yaml_file import lies_inside

# in a model repository, none of data or of a space
ADDRESS = re.compile(
    r"hf://(?!datasets/|spaces/)(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<path>[\w./ -]*))?"
)
# what a folder of weights holds: of a student, of a run, of a network of transformers
OF_A_FOLDER = ("config.json", "model.safetensors", "student/config.json", "student/model.safetensors",
               "preprocessor_config.json", "processor_config.json")  # fmt: skip


@functools.cache
def download(repo: str, revision: str | None, files: tuple[str, ...]) -> Path:
    """The files of a repository that match these patterns, all of one commit, in the Hub's cache.

    Raises:
        FileNotFoundError: no such repository or revision, no access, or no network.
    """
    import huggingface_hub  # only those who name the Hub reach for the network

    try:
        found = huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(files))
    except (OSError, ValueError) as error:  # not there, no access, no network, HF_HUB_OFFLINE
        raise FileNotFoundError(
            f"hf://{repo} could not be had from the Hub ({type(error).__name__}); check the name, the network and "
            f"HF_HUB_OFFLINE and, for a private one, the login (hf auth login)"
        ) from error
    return Path(os.path.abspath(found))


def place_of(weights: str | Path) -> Path:
    """The file or folder of weights that a path means, or an address, whose files are downloaded.

    An address names a file, such as a checkpoint of another code, or the folder of a student or of a run; without a
    path, the repository is that folder.

    Raises:
        ValueError: an address of another form. FileNotFoundError: nothing there, or no access.
    """
    if not str(weights).startswith("hf://"):
        return Path(weights)
    found = ADDRESS.fullmatch(str(weights))
    if found is None:
        raise ValueError(
            f"{weights} is no address of weights; write hf://user/repo for a student's folder, or hf://user/repo/path "
            f"(a model repository, @revision after repo for one that is not its newest)"
        )
    path = (found["path"] or "").strip("/")
    files = OF_A_FOLDER if not path else (path, *(f"{path}/{file}" for file in OF_A_FOLDER))
    root = download(found["repo"], found["revision"], files)
    place = Path(os.path.normpath(root / path))
    if not (lies_inside(root, place) and place.exists()) or (place.is_dir() and not any(place.iterdir())):
        raise FileNotFoundError(f"{weights}: the Hub's {found['repo']} has no {path or ' or '.join(OF_A_FOLDER[:2])}")
    return place
