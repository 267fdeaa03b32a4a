"""What layouts are made of: what a file tells about its network, and a table of names that is read both ways."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from .._state_dicts import shown


@dataclass
class Described:
    """A network a checkpoint fits.

    Attributes:
        model: file name in models/.
        num_classes: K.
        args: the network's arguments, those the tensors tell and those this layout implies (its published strides,
            dilation rule, align_corners, ...). Whether a network was dilated cannot be seen in its weights.
        normalize: the constants its images were normalised with, a name in models/_prediction.py.
    """

    model: str
    num_classes: int
    args: dict = field(default_factory=dict)
    normalize: str = "imagenet"


def model_of(
    state: dict[str, Tensor], marks: dict[str, tuple[str, str]], names: Literal["theirs", "ours"], otherwise: str
) -> str:
    """Which network a state is, by the first mark in it: model -> an entry only it has, in their names and in ours.

    ValueError, which begins with `otherwise`: none of them.
    """
    for model, (theirs, ours) in marks.items():
        if (theirs if names == "theirs" else ours) in state:
            return model
    raise ValueError(f"{otherwise}; there are: {', '.join(marks)}")


class Renaming:
    """A table of pairs (theirs, ours) of key patterns, and the two directions it can be read in.

    In a pattern `#` stands for a number and a final `*` for any rest, in the same order on both sides. The first
    pair that fits a key decides; a key that none fits keeps its name, so that it is reported as unexpected.

    Args:
        pairs: no key may be reachable from two keys of the other side.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        pairs = list(pairs)
        self._to_ours = [(_expression(theirs), _template(ours)) for theirs, ours in pairs]
        self._to_theirs = [(_expression(ours), _template(theirs)) for theirs, ours in pairs]

    def to_ours(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors under our names. ValueError where two of them get the same name."""
        return _renamed(state, self._to_ours)

    def to_theirs(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors under their names. ValueError where two of them get the same name."""
        return _renamed(state, self._to_theirs)

    def write(self, state: dict[str, Tensor], code: str) -> dict[str, Tensor]:
        """`to_theirs` where all of it can be told in the other code, called `code` in the ValueError otherwise."""
        nameless = [key for key in state if not any(expression.fullmatch(key) for expression, _ in self._to_theirs)]
        if nameless:
            raise ValueError(f"{code} has no name for the entries {shown(nameless)} of this network")
        return self.to_theirs(state)


@dataclass(frozen=True)
class NetworkLayout:
    """How one code saves one network whose entries differ from ours in their names alone; works as a layout, too.

    Attributes:
        code: what it is called in errors.
        theirs, ours: entries that only its files have all of, and one that only our network has.
        renaming: from entries, in whose names ever, to the table of names.
        described: from their entries to the network these fit.
    """

    code: str
    theirs: tuple[str, ...]
    ours: str
    renaming: Callable[[dict[str, Tensor]], Renaming]
    described: Callable[[dict[str, Tensor]], Described]

    def fits(self, state: dict[str, Tensor]) -> bool:
        """Whether these are the entries of such a file."""
        return all(key in state for key in self.theirs)

    def is_ours(self, state: dict[str, Tensor]) -> bool:
        """Whether these are the entries of our network."""
        return self.ours in state

    def describe(self, state: dict[str, Tensor]) -> Described:
        """The network these entries fit."""
        return self.described(state)

    def read(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Their entries under our names."""
        return self.renaming(state).to_ours(state)

    def write(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our entries under their names. ValueError: another network."""
        if not self.is_ours(state):
            raise ValueError(f"{self.code} has no such network")
        return self.renaming(state).write(state, self.code)


def conv_bn(theirs: str, ours: str, conv: str | int = 0, bn: str | int = 1) -> list[tuple[str, str]]:
    """Rows of a convolution and its batch norm, which another code numbers and our ConvBNReLU calls conv and bn."""
    return [(f"{theirs}.{conv}.*", f"{ours}.conv.*"), (f"{theirs}.{bn}.*", f"{ours}.bn.*")]


def _expression(pattern: str) -> re.Pattern:
    """The pattern as a regular expression with a group for each wildcard."""
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(.*)"))


def _template(pattern: str) -> str:
    return pattern.replace("#", "{}").replace("*", "{}")


def _renamed(state: dict[str, Tensor], table: list[tuple[re.Pattern, str]]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        fits = ((expression.fullmatch(key), template) for expression, template in table)
        name = next((template.format(*found.groups()) for found, template in fits if found), key)
        if name in renamed:
            raise ValueError(f"two entries of this checkpoint mean {name}; one of them is {key}")
        renamed[name] = value
    return renamed
