"""Class maps: which of their classes make up ours, and the scores that follow."""

import logging

import pytest
import torch
from torch import nn

from segkd.models._class_map import ClassMapped, read_class_map
from segkd.models._network import Network
from segkd.models._prediction import Normalize

THEIRS = ["wall", "building, edifice", "sky", "tree", "road, route", "grass", "sidewalk;pavement", "skyscraper"]
IMAGES = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
OURS = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree"]


def test_names_and_synonyms_in_any_letter_case():
    assert read_class_map("names", THEIRS, OURS) == [[2], [1], [], [4], [6], [3]]


def test_several_to_one_by_name_synonym_and_id():
    chosen = {"sky": "Sky", "EDIFICE": "building", "skyscraper": "1", "3": "Tree", "grass": "tree"}
    assert read_class_map(chosen, THEIRS, OURS) == [[2], [1, 7], [], [], [], [3, 5]]


def test_ids_as_numbers_and_a_name_made_of_digits():
    assert read_class_map({0: 5}, THEIRS, OURS) == [[], [], [], [], [], [0]]
    assert read_class_map({"1": "b"}, ["1", "0"], ["a", "b"]) == [[], [0]]  # the name comes before the id


@pytest.mark.parametrize(("chosen", "text"), [
    ({"skey": "Sky"}, "'skey' is none of the network's classes; did you mean 'sky'"),
    ({"sky": "Rood"}, "'Rood' is none of the data set's classes; did you mean 'road'"),
    ({"sky": "xyzzy"}, "there are: 'Sky', 'Building'"),
    ({"sky": "Sky", "2": "Tree"}, "'sky' goes to 'Sky' and to 'Tree'"),
    ({"8": "Sky"}, "no id 8 among the network's classes, they end at 7"),
    ({}, "none of the network's classes"),
])  # fmt: skip
def test_wrong_maps(chosen, text):
    with pytest.raises(ValueError, match=text):
        read_class_map(chosen, THEIRS, OURS)


def test_names_that_share_nothing_and_ambiguous_names():
    with pytest.raises(ValueError, match="none of the network's classes .'wall'.* goes to"):
        read_class_map("names", THEIRS, ["cat"])
    with pytest.raises(ValueError, match=r"more than one of the network's classes; give one of the ids \[0, 1\]"):
        read_class_map({"bank": "a"}, ["bank, shore", "bank, house"], ["a"])


class Theirs(Network):
    """Scores of eight classes from a table, whatever the image."""

    def __init__(self, dtype=torch.float32):
        super().__init__(8, align_corners=True)
        draw = torch.Generator().manual_seed(0)
        self.scores = nn.Parameter(4 * torch.randn(2, 8, 3, 5, generator=draw, dtype=torch.float64).to(dtype))
        self.add_features(["map"], 8, 4)
        self.norms, self.has_aux, self.backbone_prefixes = {"a": (1, 2)}, True, ("inner.",)

    def compute(self, x, wanted, prompt):
        self.read = x
        return {"logits": self.scores, "map": self.scores} | ({"aux": self.scores[:, :, :1]} if "aux" in wanted else {})


def mapped(**settings):
    groups = read_class_map({"sky": "Sky", "1": "Building", "7": "Building", "road": "Road"}, THEIRS, OURS)
    return ClassMapped(Theirs(**settings), groups, THEIRS, OURS)


def test_probabilities_are_summed_by_class_and_normalised():
    net = mapped(dtype=torch.float64)
    inner = net.network.scores.softmax(1)
    wanted = torch.stack([inner[:, 2], inner[:, 1] + inner[:, 7], inner[:, 4]], 1)
    logits = net(IMAGES).logits
    assert logits.shape == (2, 6, 3, 5)
    of_mapped = logits[:, [0, 1, 3]]
    torch.testing.assert_close(of_mapped.softmax(1), wanted / wanted.sum(1, keepdim=True))
    for index in (2, 4, 5):  # nothing maps to them
        assert torch.equal(logits[:, index], of_mapped.amin(1))
    logits.logsumexp(1).sum().backward()
    assert (net.network.scores.grad.abs().amax((0, 2, 3)) > 0).tolist() == [i in (1, 2, 4, 7) for i in range(8)]


def test_one_to_one_keeps_the_scores_and_half_types_are_raised():
    net = ClassMapped(Theirs(torch.bfloat16), [[i] for i in range(7, -1, -1)], THEIRS, THEIRS)
    assert torch.equal(net(IMAGES).logits, net.network.scores.float().flip(1))


def test_everything_else_is_the_networks():
    net = mapped().eval()
    assert (net.num_classes, net.align_corners, net.class_names) == (6, True, OURS)
    assert net.channels is net.network.channels and net.strides is net.network.strides
    assert net.norms is net.network.norms and net.has_aux and not net.takes_prompt
    plain = net(IMAGES)
    assert plain.aux is None and plain.features == {} and torch.equal(net.network.read, net.network.normalize(IMAGES))
    net.features_wanted, net.aux_wanted, net.normalize = {"map"}, True, Normalize.named("unit")
    prediction = net(IMAGES)
    assert torch.equal(net.network.read, IMAGES / 255)
    assert prediction.aux.shape == (2, 6, 1, 5) and prediction.features["map"] is net.network.scores
    assert prediction.align_corners
    assert list(net.state_dict()) == ["network.scores"] and net.backbone_prefixes == ("network.inner.",)
    assert not net.network.training


def test_classes_left_out_are_named_once(caplog):
    with caplog.at_level(logging.WARNING):
        net = mapped()
        net(IMAGES), net(IMAGES)
    assert len(caplog.records) == 2
    assert "4 classes of the network go to none of ours and are left out: 'wall', 'tree', 'grass'" in caplog.text
    assert "no class for 3 of ours, which score lowest there: 'Pole', 'Pavement', 'Tree'" in caplog.text


@pytest.mark.parametrize("groups", [[[], []], [[8]], [[-1]]])
def test_impossible_groups(groups):
    with pytest.raises(ValueError, match="has the classes 0..7"):
        ClassMapped(Theirs(), groups, THEIRS, OURS[: len(groups)])


def test_of_ours_with_the_same_word_the_one_counts_that_it_names_first():
    assert read_class_map("names", ["wall", "sky"], ["brick, wall", "wall", "sky"]) == [[], [0], [1]]
    assert read_class_map("names", ["screen"], ["door, screen", "screen, display"]) == [[], [0]]
    with pytest.raises(ValueError, match="'bank' is as much 'bank, shore' and 'bank, house'; say which in a map"):
        read_class_map("names", ["bank"], ["bank, shore", "bank, house"])
