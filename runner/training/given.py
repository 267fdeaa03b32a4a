"""What a training is given besides its recipe, weights of frozen networks and images: a resume asks for it again."""

from pathlib import Path

from torch.utils.data import Dataset

from segkd.runner.building.networks import weights_path
from segkd.runner.loading import content
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.checksum import checksum
from segkd.runner.run_folder.weights import weights_file


def given_to(recipe: Recipe, sets: dict[str, Dataset | None]) -> dict[str, str]:
    """What is given, in words -> a checksum: of the file of a frozen network's weights, of the names of images.

    Args:
        sets: the data sets, by what they are for in words.
    """
    paths = {name: weights_path(network) for name, network in recipe.networks.items() if not network.train}
    found = {
        f"the weights of networks.{name}": checksum(weights_file(path))
        for name, path in paths.items()
        if path is not None
    }
    # shards know neither how many images they hold nor, before they are read, what these are called
    listed = {words: one for words, one in sets.items() if one is not None and not hasattr(one, "samples")}
    # in their order, by which they are drawn
    names = {words: [one.name(index) for index in range(len(one))] for words, one in listed.items()}
    return found | {words: content.checksum(called) for words, called in names.items()}


def refuse_other(run: Path, before: dict[str, str], now: dict[str, str]) -> None:
    """ValueError where a run that has begun is given something else than before."""
    other = [words for words, told in now.items() if before.get(words, told) != told]
    if other:
        raise ValueError(
            f"{run} cannot go on: {' and '.join(other)} are not those that it began with; put them back as they were, "
            f"start over with --overwrite, or give this one another name (name=...)"
        )
