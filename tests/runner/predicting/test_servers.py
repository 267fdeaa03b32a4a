"""The servers' formats, by the rules their instructions give."""

import fnmatch

import pytest

from segkd.datasets.ade20k import ADE20K
from segkd.datasets.cityscapes import Cityscapes
from segkd.datasets.voc import VOC
from segkd.runner.predicting.servers import SERVERS


@pytest.mark.parametrize("name, dataset", [("cityscapes", Cityscapes), ("voc", VOC), ("ade20k", ADE20K)])
def test_each_class_has_an_id_of_its_own_in_a_byte(name, dataset):
    ids = SERVERS[name].ids
    assert len(ids) == len(set(ids)) == dataset.num_classes and 0 <= min(ids) and max(ids) < 255


def test_files_are_called_as_their_server_looks_for_them():
    path = SERVERS["cityscapes"].path("berlin_000123_000019", "test", "comp6")
    assert fnmatch.fnmatch(path, "berlin_000123_000019*.png") and "/" not in path
    path = SERVERS["voc"].path("2008_000006", "val", "comp5")
    assert path == "results/VOC2012/Segmentation/comp5_val_cls/2008_000006.png"
    assert SERVERS["ade20k"].path("ADE_test_00000001", "test", "comp6") == "ADE_test_00000001.png"
