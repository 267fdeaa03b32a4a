"""A network whose classes differ from the data set's, seen as one that has the data set's."""

import difflib
import logging
import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ._network import Network
from ._prediction import at_least_float32
from ._state_dicts import shown

logger = logging.getLogger(__name__)


def read_class_map(
    class_map: dict[str, str] | Literal["names"], theirs: Sequence[str], ours: Sequence[str]
) -> list[list[int]]:
    """Which of a network's classes make up each class of the data set.

    Args:
        class_map: their class -> our class, several to one if need be, each a name in any letter case or an id. A
            name of theirs that lists synonyms (`building, edifice`) is met by any of them. `names`: every class of
            theirs goes to ours of the same name or synonym.
        theirs: the network's class names, in the order of its scores.
        ours: the data set's.

    Returns:
        For each of our classes the ids of theirs, ascending; empty where nothing maps to it.

    Raises:
        ValueError: an unknown or ambiguous name, an id out of range, a class of theirs mapped twice, or no class
            mapped at all.
    """
    if class_map == "names":
        pairs = _same_names(theirs, ours)
    else:
        pairs = [
            (_find(their_name, theirs, "the network's classes"), _find(our_name, ours, "the data set's classes"))
            for their_name, our_name in class_map.items()
        ]
    if not pairs:
        raise ValueError(
            f"class_map: none of the network's classes ({_few(theirs)}) goes to one of the data set's ({_few(ours)}); "
            f"give a map of their names to ours"
        )
    groups: list[list[int]] = [[] for _ in ours]
    taken: dict[int, int] = {}
    for source, target in pairs:
        if source in taken:
            raise ValueError(
                f"class_map: the network's class {theirs[source]!r} goes to {ours[taken[source]]!r} and to "
                f"{ours[target]!r}; it can go to one only"
            )
        taken[source] = target
        groups[target].append(source)
    return [sorted(group) for group in groups]


def _synonyms(name: str) -> list[str]:
    """The whole name first, then the names in it between commas and semicolons; lower case."""
    whole = " ".join(str(name).lower().split())
    return list(dict.fromkeys([whole, *(part.strip() for part in re.split("[,;]", whole))]))


def share_a_name(one: str, other: str) -> bool:
    """Whether two classes may be the same, by their names and synonyms; a name that is a number says nothing."""
    return bool({*_synonyms(one)} & {*_synonyms(other)}) or re.fullmatch(r"(?i)(label_)?[0-9]+", str(one)) is not None


def _same_names(theirs: Sequence[str], ours: Sequence[str]) -> list[tuple[int, int]]:
    """(their id, our id) of the classes that share a name; the whole name decides before a synonym does.

    Of our classes with the same synonym, the one that it is the whole name of, then the one that it comes first in.
    """
    pairs, known = [], [_synonyms(own) for own in ours]
    for source, name in enumerate(theirs):
        # the first of their words that any of ours has
        word = next((word for word in _synonyms(name) if any(word in words for words in known)), None)
        found = sorted((words.index(word), target) for target, words in enumerate(known) if word in words)
        if len(found) > 1 and found[0][0] == found[1][0]:
            names = " and ".join(repr(ours[target]) for _, target in found[:2])
            raise ValueError(f"class_map: names: the network's class {name!r} is as much {names}; say which in a map")
        pairs += [(source, target) for _, target in found[:1]]
    return pairs


def _find(wanted: str | int, names: Sequence[str], owner: str) -> int:
    """The id of one class, by name, synonym or id."""
    word = " ".join(str(wanted).lower().split())
    known = [_synonyms(name) for name in names]
    whole = [i for i, words in enumerate(known) if words[0] == word]
    found = whole or [i for i, words in enumerate(known) if word in words]
    if len(found) > 1:
        raise ValueError(f"class_map: {wanted!r} is more than one of {owner}; give one of the ids {found}")
    if found:
        return found[0]
    if word.isdecimal() and int(word) < len(names):
        return int(word)
    if word.isdecimal():
        raise ValueError(f"class_map: there is no id {word} among {owner}, they end at {len(names) - 1}")
    close = difflib.get_close_matches(word, [other for words in known for other in words], n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {_few(names)}"
    raise ValueError(f"class_map: {wanted!r} is none of {owner}; {hint}")


def _few(names: Sequence[str]) -> str:
    return shown([repr(name) for name in names], 10)


class ClassMapped(Network):
    """A network whose scores are those of our classes, each made of several, one or none of its own.

        logits'[k] = logsumexp over its classes c mapped to k of logits[c]

    softmax(logits') is then the probability of its mapped classes, summed by class and normalised over them: those
    mapped to nothing are left out. A class of ours that nothing maps to has no score; it gets, at each pixel, the
    lowest of the others, which keeps it finite and from ever winning alone. Both kinds are named in the log once.

    Everything but the scores is the wrapped network's. What it reads of `features_wanted`, `aux_wanted` and `normalize`
    is this one's.

    Args:
        network: a network of this room.
        groups: for each of our classes the ids of the network's, see `read_class_map`.
        theirs: the network's class names. ours: the data set's; both for the log only.
        name: what the network is called in the log.

    Shapes:
        as the network's, with K = len(groups) classes in logits and aux, at least float32.

    Raises:
        ValueError: an id the network does not have, or no class mapped.
    """

    def __init__(
        self,
        network: Network,
        groups: list[list[int]],
        theirs: Sequence[str],
        ours: Sequence[str],
        *,
        name: str = "the network",
    ):
        super().__init__(len(groups), align_corners=network.align_corners)
        mapped = [index for group in groups for index in group]
        if not mapped or max(mapped) >= network.num_classes or min(mapped) < 0:
            raise ValueError(f"class_map: {name} has the classes 0..{network.num_classes - 1}, got ids {mapped}")
        self.network = network
        self.class_names = list(ours)
        self.channels, self.strides, self.norms = network.channels, network.strides, network.norms
        self.normalize, self.has_aux, self.takes_prompt = network.normalize, network.has_aux, network.takes_prompt
        self.own_heads = {feature: f"network.{head}" for feature, head in network.own_heads.items()}
        self.sizes = [len(group) for group in groups]
        # found again from the recipe, so no entry of a checkpoint
        self.register_buffer("order", torch.tensor(mapped), persistent=False)
        # the optimizer's question which parameters learn at the backbone's rate
        self.backbone_prefixes = tuple(f"network.{prefix}" for prefix in network.backbone_prefixes)
        _report(groups, theirs, ours, name)

    def measure(self, name: str) -> None:
        """Lists a feature of the network inside."""
        self.network.measure(name)

    def mapped(self, logits: Tensor) -> Tensor:
        """Scores of our classes. (B, C, h, w) -> (B, K, h, w)"""
        parts = iter(
            at_least_float32(logits).index_select(1, self.order).split([size for size in self.sizes if size], dim=1)
        )
        scores = [next(parts).logsumexp(dim=1) if size else None for size in self.sizes]  # each (B, h, w)
        if None not in scores:
            return torch.stack(scores, dim=1)
        lowest = torch.stack([score for score in scores if score is not None], dim=1).amin(dim=1)
        return torch.stack([lowest if score is None else score for score in scores], dim=1)

    def compute(self, x: Tensor, wanted: set[str], prompt: Tensor | None) -> dict[str, Tensor]:
        found = self.network.compute_padded(x, wanted, prompt)
        return found | {name: self.mapped(found[name]) for name in {"logits", "aux"} & found.keys()}


def _report(groups: list[list[int]], theirs: Sequence[str], ours: Sequence[str], name: str) -> None:
    """Tells once which classes the map leaves out on either side."""
    mapped = {index for group in groups for index in group}
    dropped = [theirs[i] for i in range(len(theirs)) if i not in mapped]
    empty = [own for own, group in zip(ours, groups) if not group]
    if dropped:
        logger.warning("%d classes of %s go to none of ours and are left out: %s", len(dropped), name, _few(dropped))
    if empty:
        logger.warning("%s has no class for %d of ours, which score lowest there: %s", name, len(empty), _few(empty))
