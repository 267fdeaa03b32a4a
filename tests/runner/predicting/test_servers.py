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


def test_cityscapes_files_are_found_by_the_images_name():
    path = SERVERS["cityscapes"].path("berlin_000123_000019", "test", "comp6")
    assert fnmatch.fnmatch(path, "berlin_000123_000019*.png") and "/" not in path
    assert not fnmatch.fnmatch(SERVERS["cityscapes"].path("berlin_000123_000020", "test", ""), "berlin_000123_000019*")


def test_voc_files_lie_in_the_folder_of_their_competition():
    path = SERVERS["voc"].path
    assert path("2008_000006", "test", "comp6") == "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"
    assert path("2008_000006", "val", "comp5") == "results/VOC2012/Segmentation/comp5_val_cls/2008_000006.png"
    assert SERVERS["voc"].palette[15] == (192, 128, 128) and len(SERVERS["voc"].palette) == 256


def test_ade20k_files_are_called_as_their_images():
    assert SERVERS["ade20k"].path("ADE_test_00000001", "test", "comp6") == "ADE_test_00000001.png"
    assert SERVERS["ade20k"].ids == tuple(range(1, 151))
