"""Weights of whole networks: which file a path in a recipe means, whose it is, and whether it fits."""

import functools
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from segkd.models import _checkpoints
from segkd.models._prediction import Normalize
from segkd.models._weights import class_names_in, exported_from, fill, meta_of, read_part, refuse_irregular
from segkd.runner.recipe import parts, told_by_weights
from segkd.runner.recipe.hub import place_of
from segkd.runner.recipe.mistakes import dotted
from segkd.runner.recipe.shipped import near
from segkd.runner.recipe.student_folder import StudentFolder, described
from segkd.runner.recipe.told_by_weights import Told, folder_of_transformers
from segkd.runner.run_folder.folder import Checkpoint, RunFolder

logger = logging.getLogger(__name__)

AUXILIARY = ("aux_head.", "aux_heads.", "boundary_head.")  # heads for training alone


@dataclass
class Weights:
    """A file of weights, read.

    Attributes:
        file: where it lies. state: its entries, under the names of its own code.
        layout, part: whose code, None while it is to be told by the keys; which network of these entries, if there are
            several.
        config: of a network this project has delivered, what describes it; else empty.
        exported: of one that it has written for another code, what the file says of it; else empty.
        names, constants: the classes of another code's network and what its images were normalised with, where they
            stand in or beside the file.
    """

    file: Path
    state: dict[str, Tensor]
    layout: str | None = None
    part: str | None = None
    config: dict = field(default_factory=dict)
    exported: dict = field(default_factory=dict)
    names: list[str] | None = None
    constants: str | dict | None = None

    @functools.cached_property
    def described(self) -> _checkpoints.Described | None:
        """What the entries of another code's file tell of the network; None where they tell nothing, as our own."""
        if self.config:
            return None
        try:
            layout = self.layout or _checkpoints.guess(self.state, self.part)
            return _checkpoints.describe(self.state, layout, self.part)
        except ValueError:
            return None

    @property
    def num_classes(self) -> int | None:
        """K of the network in the file, where it tells."""
        if self.is_headless:
            return None
        return self.told.get("num_classes") or (self.described.num_classes if self.described else None)

    @property
    def class_names(self) -> list[str] | None:
        """The classes of the network, where the file tells."""
        named = self.names if self.names and self.num_classes in (None, len(self.names)) else None
        return self.told.get("class_names") or named

    @property
    def told(self) -> dict:
        """What the file says of a network of ours, under whichever names; empty where it says nothing."""
        return self.config or self.exported

    @property
    def normalize(self) -> str | dict | None:
        """The constants its network was trained with, where the file tells."""
        said = self.told.get("normalize") or self.constants
        return said or (self.described.normalize if self.described else None)

    def check(self, *, model: str, args: dict, normalize: str | dict | None, owner: str) -> None:
        """ValueError where they were trained as another network or with other constants than the recipe says.

        Args:
            model, args: as models/ knows them.
        """
        if not self.told:
            return
        trained = Told(self.told["model"], self.told["args"], certain=True)
        wrong, _ = told_by_weights.fill({"model": model, "args": dict(args)}, trained, str(self.file))
        for key, text in wrong:
            raise ValueError(f"{owner}.{dotted(key)}: {text}")
        if normalize is not None and self.normalize is not None:
            theirs, ours = Normalize.of(self.normalize), Normalize.of(normalize)
            if theirs.constants != ours.constants:
                raise ValueError(
                    f"{owner}.normalize: {self.file} was trained with {theirs.words}, the recipe says {ours.words}; leave "
                    f"it out"
                )

    @property
    def is_headless(self) -> bool:
        """Whether they are an encoder's alone, which a run without a head has delivered."""
        return self.config.get("model") == parts.BARE

    def load(self, network: nn.Module, *, owner: str, strict: bool = True) -> list[str]:
        """Fills a network, or the encoder alone of one that has a head where they have none, and logs how much fitted.

        All or nothing. What a file has of a head for training alone, without which the network was built, is left out.

        Returns:
            The network's entries that keep the values they had. ValueError: they are another network's.
        """
        try:
            if self.is_headless and network.gives_logits:
                logger.info(
                    "%s: %s has no head; its encoder alone is taken, the head starts at random", owner, self.file
                )
                encoder = network.backbone
                entries = {key.removeprefix("backbone."): value for key, value in self.state.items()}
                return fill(encoder, encoder.fitted(entries), str(self.file), strict=strict)
            level = logging.DEBUG if self.config and strict else logging.INFO
            dropped = () if network.has_aux else AUXILIARY
            entries = self.entries_for(network)
            return fill(network, entries, str(self.file), dropped=dropped, strict=strict, level=level)
        except ValueError as error:
            raise ValueError(f"{owner}.weights: {error}; check model, args and the data set's class count") from None

    def entries_for(self, network: nn.Module) -> dict[str, Tensor]:
        """The entries under our names, tables of positions resized to the network's.

        Raises:
            ValueError: no such layout or part, or several networks and nothing says which.
        """
        state, layout, part = self.state, self.layout, self.part
        is_ours = self.config or (state.keys() == network.state_dict().keys() and layout is None)
        if is_ours and part is not None:
            raise ValueError(f"this file holds one network alone and no part {part!r}; leave part out")
        if not is_ours:
            state, part, prefix = _checkpoints.found_network(state, part)
            if prefix:
                logger.info("%s: the entries under %s are taken, without this beginning", self.file, prefix)
            try:
                layout = layout or (None if network.is_foreign else _checkpoints.guess(state, part))
            except ValueError:
                if part is not None:
                    raise
                layout = None  # nobody's keys: what is wrong with them shows when they are compared with the network's
        if layout is not None:
            state = _checkpoints.read(state, layout, part)
        return network.fitted(state)


def find_weights(
    path: str | Path, *, owner: str, layout: str | None = None, part: str | None = None, trust: bool = False
) -> Weights:
    """Reads a file, or the file that a run folder, a student folder or a checkpoint means.

    Args:
        owner: the network's path in the recipe, for the messages.
        layout, part, trust: see Weights and models/_weights.py:read_weights.

    Raises:
        FileNotFoundError: nothing there, or a run that has not finished. ValueError: no file of weights.
    """
    try:
        file = weights_file(path)
        state, part = read_part(file, part, trust=trust)
        config = described(file) or {}
    except ValueError as error:
        raise ValueError(f"{owner}.weights: {error}") from None
    if config:
        return Weights(file, state, layout, part, config)
    meta, folder = meta_of(file), folder_of_transformers(file)
    names, constants = (class_names_in(meta), None) if folder is None else of_transformers(folder)
    return Weights(file, state, layout, part, {}, exported_from(meta), names, constants)


def of_transformers(folder: Path) -> tuple[list[str] | None, str | dict | None]:
    """The classes and the constants of a network that transformers wrote to a folder, where they stand there."""
    from segkd.models import _hub  # transformers takes seconds, for those who name a network of its own

    try:
        names = _hub.own_names(_hub.read_config(str(folder), None, None), str(folder))
    except (ValueError, OSError):
        names = None
    is_named = names is not None and not all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    has_processor = any((folder / name).is_file() for name in _hub.PROCESSORS)
    constants = _hub.read_normalize(str(folder), None).constants if has_processor else None
    return names if is_named else None, constants


def weights_file(path: str | Path) -> Path:
    """The file of weights that a path, or an address on the Hub, in a recipe means."""
    path = place_of(path)
    if not path.exists():
        raise FileNotFoundError(
            f"there are no weights at {path}{near(path)}; give a .safetensors or .pth file, or a run folder"
        )
    if not path.is_dir():
        refuse_irregular(path)
        return path
    candidates = (RunFolder(path).student.weights_file, StudentFolder(path).weights_file, Checkpoint(path).weights_file)
    for file in candidates:
        if file.is_file():
            return file
    unfinished = " (a run writes student/ when it ends; this one has not)" if RunFolder(path).is_begun else ""
    names = [str(file.relative_to(path)) for file in candidates]
    raise FileNotFoundError(f"{path} holds no {', '.join(names[:-1])} or {names[-1]}{unfinished}")
