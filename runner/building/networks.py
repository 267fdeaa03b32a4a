"""Builds the networks of a recipe and gives them their weights, whoever wrote them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from segkd.models._checkpointing import checkpoint_blocks
from segkd.models._class_map import ClassMapped, read_class_map, share_a_name
from segkd.models._int8 import simulate_int8
from segkd.models._prediction import Normalize
from segkd.models._state_dicts import shown
from segkd.models._weights import published_constants
from segkd.runner.building.frozen import cheaper
from segkd.runner.loading.data_sets import find_dataset
from segkd.runner.recipe import parts
from segkd.runner.recipe.hub import place_of
from segkd.runner.recipe.network import RANDOM, Network
from segkd.runner.recipe.read import read, read_other
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.recipe.seeds import seed_for
from segkd.runner.recipe.student_folder import run_of_checkpoint
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.weights import AUXILIARY, Weights, find_weights, weights_file

logger = logging.getLogger(__name__)


def build_networks(recipe: Recipe, dataset: Dataset, *, untrained: bool = False) -> dict[str, nn.Module]:
    """All networks of a recipe but moving averages, which the graph makes.

    `untrained` leaves those without weights whose own recipe has not been trained yet; their classes are that recipe's.
    """
    built = {}
    for name, words in recipe.told_by_weights.items():
        logger.info("networks.%s: its weights tell that it is %s", name, words)
    for name, network in recipe.networks.items():
        if network.ema_of is not None:
            continue
        if untrained and isinstance(network.weights, OtherRecipe) and not weights_are_there(network):
            whole = _untrained(name, network, recipe, dataset)
        else:
            whole = build_network(
                name, network, dataset.num_classes, recipe.seed, dataset.class_names, trust=recipe.trust_checkpoint
            )
        built[name] = cheaper(whole, network)
    return built


def _untrained(name: str, network: Network, recipe: Recipe, dataset: Dataset) -> nn.Module:
    """A network as its own recipe makes it, less the training: with the classes of the images there."""
    trained, mine = read_other(recipe, network.weights), recipe.data
    other = trained.data
    is_mine = (other.dataset, other.root, other.args) == (mine.dataset, mine.root, mine.args)
    if is_mine or trained.judged_by_loss:  # which has no classes of its own
        theirs = dataset
    else:
        theirs = find_dataset(other, other.train_split)
    plain = network.model_copy(update={"weights": RANDOM, "class_map": None})
    built = build_network(name, plain, theirs.num_classes, recipe.seed, theirs.class_names)
    built.class_names = list(theirs.class_names)
    owner = f"networks.{name}"
    if network.class_map:
        return mapped(built, network, None, dataset.class_names, owner)
    if built.gives_logits and dataset.num_classes:
        where = f"what {network.weights_words} trains"
        refuse_other_classes(built, None, dataset.class_names, dataset.num_classes, owner, where)
    return built


def build_network(
    name: str, network: Network, num_classes: int, seed: int, class_names: Sequence[str] = (), *, trust: bool = False
) -> nn.Module:
    """One network, its own random start for its name, then its weights, its constants and its class map.

    Args:
        num_classes, class_names: the data set's. A network with a class map has classes of its own.
        trust: read weights that could start code, see models/_weights.py:read_weights.

    Raises:
        ValueError: an argument, weights or a class map that do not fit. FileNotFoundError: no such weights.
    """
    owner = f"networks.{name}"
    path = weights_path(network)
    weights = None
    if path is not None:
        weights = find_weights(path, owner=owner, layout=network.layout, part=network.part, trust=trust)
    torch.manual_seed(seed_for(seed, "network", name))
    file, said = parts.network_part(network.source, network.model, network.args)
    arguments = said | classes_of_huggingface(network) if file == "huggingface" else said
    if isinstance(said.get("backbone_weights"), str):
        with blaming(f"{owner}.args.backbone_weights: "):
            arguments = arguments | {"backbone_weights": str(weights_file(said["backbone_weights"]))}
    if weights is not None and network.strict and not weights.is_headless and "pretrained" in arguments:
        arguments = arguments | {"pretrained": False}  # each of its entries comes from the weights
    # where the images have no classes, a teacher of features keeps its own
    own_classes = weights.num_classes if weights and (network.class_map or not num_classes) else None
    with blaming(f"{owner}: "):
        built = parts.build("models", file, arguments, own_classes or num_classes or 1)
    # of what is to learn, with strict: false, a classifier of other classes starts at random
    begins_anew = network.train and not network.strict and weights and weights.num_classes not in (None, num_classes)
    if built.gives_logits and not network.class_map and num_classes and not begins_anew:
        refuse_other_classes(built, weights, class_names, num_classes, owner, delivered=name == "student")
    if weights is not None:
        if weights.is_headless and built.gives_logits and not network.train:
            raise ValueError(
                f"{owner} is frozen and {weights.file} has no head, so that its own would stay random; train it, or "
                f"leave its head out"
            )
        weights.check(model=file, args=said, normalize=network.constants, owner=owner)
        if weights.config.get("int8"):  # its ranges are among the weights
            simulate_int8(built)
        left = weights.load(built, owner=owner, strict=network.strict)
        random = [key for key in left if not key.startswith(AUXILIARY)]
        if random and not (network.train or network.strict or weights.is_headless):
            raise ValueError(
                f"{owner} is frozen and {weights.file} has nothing for {shown(random)}, which would stay random; give it "
                f"weights of all of it, or train it"
            )
    elif not network.train and built.fresh and network.weights != RANDOM:
        remedy = "set args.labels: own with a class_map"
        if not built.has_published_head:
            remedy = "they hold no segmentation head: train it, read its features alone (head: null, pretrained: true)"
        raise ValueError(
            f"{owner} is frozen and its published weights have nothing for {shown(built.fresh)}, which would stay "
            f"random; {remedy}, or write weights: random if that is meant"
        )
    if network.train == "head":
        with blaming(f"{owner}.train: head: "):
            built.freeze_encoder()
    if network.int8:
        simulate_int8(built)
    trained_with = weights.normalize if weights else None
    if weights is not None and trained_with is None and network.constants is None:
        trained_with = assumed_constants(built, weights.file, starts=bool(said.get("pretrained")), owner=owner)
    set_constants(built, network.constants, trained_with, owner)
    if network.checkpointing:
        with blaming(f"{owner}."):
            checkpoint_blocks(built)
    if network.class_map:
        return mapped(built, network, weights, class_names, owner)
    if built.class_names is None:
        built.name_classes(class_names)
    return built


def classes_of_huggingface(network: Network) -> dict:
    """The arguments that decide whose classes a network of transformers has, where the recipe leaves them open.

    What is trained for the data set has the data set's classes, not those it was published with. One whose weights are
    named needs no published ones, and has the classes of those weights.
    """
    decided = {}
    if network.weights is not None:
        decided = {"pretrained": False, "labels": "dataset"}
        if network.weights == RANDOM and network.class_map and network.source == "hf":
            decided["labels"] = "own"
    elif network.train and not network.class_map:
        decided = {"labels": "dataset"}
    return {key: value for key, value in decided.items() if network.args.get(key) is None}


def refuse_other_classes(
    built: nn.Module,
    weights: Weights | None,
    ours: Sequence[str],
    count: int,
    owner: str,
    unloaded: str = "its published network",
    *,
    delivered: bool = False,
) -> None:
    """ValueError for a network, or weights, of another number of classes than the data set has, or in another order.

    Args:
        ours: the data set's names, none where they are not known. count: how many classes it has.
        unloaded: what has the network's classes where it has no weights. delivered: whether it is the student, which
            has the data set's classes and no class map.
    """
    theirs = (weights.num_classes if weights else None) or built.num_classes
    names = (weights.class_names if weights else None) or built.class_names or []
    where = weights.file if weights else unloaded
    remedy = "say with class_map which of its classes are which of the data set's, {its name or number: ours}"
    if delivered:
        remedy = f"start from its encoder alone (args.backbone_weights: {where})"
    if theirs != count:
        told = f"{where} has {theirs} classes and the data set has {count}"
        anew = "write strict: false, with which it starts from all that fits and its classifier at random"
        raise ValueError(f"{owner}: {told}; {anew if delivered else remedy}, or give it weights of this data set")
    if list(names) != list(ours) and sorted(names) == sorted(ours):
        by_name = remedy if delivered else "write class_map: names"
        raise ValueError(f"{owner}: {where} has the data set's classes in another order; {by_name}")
    moved = [name for place, name in enumerate(names) if name in ours and list(ours).index(name) != place]
    if moved:
        raise ValueError(f"{owner}: {where} has {moved[0]!r} at another place than the data set; {remedy}")
    unlike = [(name, own) for name, own in zip(names, ours) if not share_a_name(name, own)]
    if unlike:
        told = "; ".join(f"{name!r} for {own!r}" for name, own in unlike[:3])
        logger.warning("%s: %s is taken class for class, whatever they are called: %s", owner, where, told)


def assumed_constants(built: nn.Module, file: Path, *, starts: bool, owner: str) -> str | dict | None:
    """What is assumed of images where a file of weights does not say it: None for what the network has anyway.

    Args:
        starts: whether the recipe says that the network has begun from its encoder's published weights.
    """
    kind = getattr(getattr(built, "backbone", None), "imagenet", None)  # the name of timm's weights of it
    published = None if kind is None else published_constants(kind)
    if published is None or Normalize.of(published).constants == built.normalize.constants:
        return None
    if starts:
        return published
    logger.warning(
        "%s: %s does not say what its images were normalised with, which is taken to be %s; the published weights of this "
        "encoder have %s: if it began from those, write them as normalize:",
        owner,
        file,
        built.normalize.words,
        Normalize.of(published).words,
    )
    return None


def set_constants(built: nn.Module, asked: str | dict | None, trained: str | dict | None, owner: str) -> None:
    """Gives a network the constants the recipe asks for, else those its weights were trained with, and logs them.

    The published weights an encoder starts from have constants, too; it is told where a recipe overrides what the
    weights know.
    """
    known = trained if trained is not None else built.published_constants
    if asked is not None or trained is not None:
        built.normalize = Normalize.of(trained if asked is None else asked)
    text = f"{owner}: images are normalised with {built.normalize.words}"
    if known is not None and Normalize.of(known).constants != built.normalize.constants:
        logger.warning("%s, its weights were trained with %s", text, Normalize.of(known).words)
    elif built.normalize.constants != "imagenet":  # what everybody takes for granted
        logger.info("%s", text)


@contextmanager
def blaming(place: str) -> Iterator[None]:
    """Puts `place`, a part of the recipe, before the text of an error."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise type(error)(f"{place}{error}") from None


def mapped(
    built: nn.Module, network: Network, weights: Weights | None, class_names: Sequence[str], owner: str
) -> nn.Module:
    """A network with classes of its own as one with the data set's."""
    names = (weights.class_names if weights else None) or built.class_names
    built.class_names = theirs = names or [str(index) for index in range(built.num_classes)]
    with blaming(f"{owner}."):
        groups = read_class_map(network.class_map, theirs, class_names)
        return ClassMapped(built, groups, theirs, class_names, name=owner)


def random_starts(recipe: Recipe) -> list[str]:
    """A sentence for each trained network that starts from random weights without the recipe saying so."""
    return [
        f"{name} ({network.title}) starts from random weights"
        for name, network in recipe.networks.items()
        if network.train and not network.has_start and network.weights != RANDOM
    ]


def weights_are_there(network: Network) -> bool:
    """Whether the run that a network's weights come from has delivered them."""
    return RunFolder(weights_path(network)).is_finished


def trained_by(network: Network) -> Recipe | None:
    """The recipe that has trained, or is to train, a network's weights; None where no run folder of ours says."""
    if isinstance(network.weights, OtherRecipe):
        return read(network.weights.recipe)
    if network.weights in (None, RANDOM):
        return None
    place = place_of(network.weights)
    around = [folder for folder in (place, place.parent, run_of_checkpoint(place)) if folder is not None]
    run = next((RunFolder(folder) for folder in around if (folder / "recipe.yaml").is_file()), None)
    try:
        return run and run.read_recipe()
    except ValueError:  # of another version
        return None


def weights_path(network: Network) -> str | None:
    """Where a network's weights lie: the path in the recipe, or the run folder of the recipe that trains it."""
    if isinstance(network.weights, OtherRecipe):
        return str(read(network.weights.recipe).folder)
    return None if network.weights == RANDOM else network.weights
