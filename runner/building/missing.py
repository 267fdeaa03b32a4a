"""What a recipe names and this machine lacks, found without building anything."""

from pathlib import Path

from segkd.runner.loading.data_sets import find_dataset
from segkd.runner.loading.shards import shard_paths
from segkd.runner.recipe import parts
from segkd.runner.recipe.addresses import is_address
from segkd.runner.recipe.extra import REST
from segkd.runner.recipe.hub import place_of
from segkd.runner.recipe.network import RANDOM
from segkd.runner.recipe.schema import Recipe


def missing(recipe: Recipe) -> list[str]:
    """A line for each folder, file or download that the recipe names and this machine may lack."""
    unlabelled = recipe.data.unlabelled
    extra = recipe.data.extra
    folders = {"data.root": recipe.data.root, "data.unlabelled.images": unlabelled and unlabelled.images}
    if extra is not None:
        folders |= {"data.extra.labels": extra.labels}
        folders |= {"data.extra, its images": None if extra.source == REST else extra.source}
    lines = [
        f"data      {key}: there is no folder {folder} here"
        for key, folder in folders.items()
        if folder and not Path(folder).is_dir()
    ]
    if not recipe.data.root:  # some data sets do without
        try:
            find_dataset(recipe.data, recipe.data.train_split)
        except (ValueError, OSError) as error:
            lines.append(f"data      {error}")
    if unlabelled and unlabelled.shards is not None:
        try:
            shard_paths(unlabelled.shards)
        except (ValueError, OSError) as error:
            lines.append(f"data      {error}")
    for other in recipe.others:
        if not (is_address(other.recipe) or Path(other.recipe).exists()):
            lines.append(f"recipe    there is no {other.recipe} here")
    for name, network in recipe.networks.items():
        files = {
            "weights": None if network.weights == RANDOM else network.weights,
            "args.backbone_weights": network.args.get("backbone_weights"),
        }
        for key, file in files.items():
            try:
                is_there = not isinstance(file, str) or place_of(file).exists()
            except (ValueError, FileNotFoundError) as error:
                lines.append(f"weights   networks.{name}.{key}: {error}")
                continue
            if not is_there:
                lines.append(f"weights   networks.{name}.{key}: there is no {file} here")
        whole = network.source == "hf" and network.weights is None and network.args.get("pretrained") is None
        if (network.args.get("pretrained") or whole) and not network.args.get("backbone_weights"):
            whose = parts.encoder_word(network.args) or network.title
            lines.append(f"download  networks.{name}: published weights of {whose}, once, if they are not in the cache")
    return lines
