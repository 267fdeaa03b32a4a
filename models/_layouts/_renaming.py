"""Names of checkpoint entries in two codes, as one table that is read in both directions."""

import re
from collections.abc import Iterable

from torch import Tensor


class Renaming:
    """A table of pairs (theirs, ours) of key patterns, and the two directions it can be read in.

    In a pattern `#` stands for a number and a final `*` for any rest, in the same order on both sides. The first
    pair that fits a key decides; a key that none fits keeps its name, so that it is reported as unexpected.

    Args:
        pairs: no key may be reachable from two keys of the other side.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        self.pairs = list(pairs)
        self._to_ours = [(_expression(theirs), _template(ours)) for theirs, ours in self.pairs]
        self._to_theirs = [(_expression(ours), _template(theirs)) for theirs, ours in self.pairs]

    def knows(self, key: str) -> bool:
        """Whether this key of theirs stands in the table."""
        return any(expression.fullmatch(key) for expression, _ in self._to_ours)

    def to_ours(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors under our names."""
        return {_renamed(key, self._to_ours): value for key, value in state.items()}

    def to_theirs(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors under their names."""
        return {_renamed(key, self._to_theirs): value for key, value in state.items()}


def _expression(pattern: str) -> re.Pattern:
    """The pattern as a regular expression with a group for each wildcard."""
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(.*)"))


def _template(pattern: str) -> str:
    return pattern.replace("#", "{}").replace("*", "{}")


def _renamed(key: str, table: list[tuple[re.Pattern, str]]) -> str:
    for expression, template in table:
        found = expression.fullmatch(key)
        if found:
            return template.format(*found.groups())
    return key
