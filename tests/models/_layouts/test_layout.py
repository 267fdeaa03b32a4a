"""Tables of names, read in both directions."""

import pytest
import torch

from segkd.models._layouts._layout import Renaming

TABLE = Renaming([("head.last.*", "classifier.*"), ("head.#.conv#.*", "levels.#.#.*"), ("stem.weight", "conv1.weight")])


def numbered(*keys):
    return {key: torch.tensor(float(i)) for i, key in enumerate(keys)}


def test_both_directions():
    theirs = numbered("head.last.weight", "head.12.conv3.bn.bias", "stem.weight")
    ours = TABLE.to_ours(theirs)
    assert ours == numbered("classifier.weight", "levels.12.3.bn.bias", "conv1.weight")
    assert TABLE.to_theirs(ours) == TABLE.write(ours, "code") == theirs


def test_a_point_in_a_pattern_is_a_point():
    assert TABLE.to_ours(numbered("stem.weight")).keys() == {"conv1.weight"}
    for other in ("stem_weight", "stem.weight.more"):
        assert TABLE.to_ours(numbered(other)).keys() == {other}


def test_what_no_pair_fits():
    assert TABLE.to_ours(numbered("head.x")) == TABLE.to_theirs(numbered("head.x")) == numbered("head.x")
    with pytest.raises(ValueError, match="TheirCode has no name for the entries a, b, c and 1 more of this network"):
        TABLE.write(numbered("conv1.weight", "a", "b", "c", "d"), "TheirCode")


def test_two_entries_for_one_name():
    with pytest.raises(
        ValueError, match="two entries of this checkpoint mean classifier.bias; one of them is head.last"
    ):
        TABLE.to_ours(numbered("classifier.bias", "head.last.bias"))
