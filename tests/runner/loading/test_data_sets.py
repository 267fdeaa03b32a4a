"""Data sets of recipes: what is said of a folder that is missing."""

import pytest

from segkd.runner.loading.data_sets import find_dataset
from segkd.runner.recipe import parts
from segkd.runner.recipe.schema import Data

NEEDED = {"folder": {"class_names": ["a", "b"]}, "huggingface": {"class_names": ["a", "b"]}}
OF_FILES = [name for name in parts.names("datasets") if name != "synthetic"]


def data(name, root):
    return Data(dataset=name, args=NEEDED.get(name, {}), root=root, crop_size=(32, 32), batch_size=2)


@pytest.mark.parametrize("name", OF_FILES)
def test_a_folder_that_is_missing_is_told_by_its_key(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"^data.root is missing; say where {name} lies"):
        find_dataset(data(name, ""), "train")
    with pytest.raises(FileNotFoundError, match="^data.root: there is no folder nowhere"):
        find_dataset(data(name, "nowhere"), "train")


def test_what_lacks_in_a_folder_that_is_there_is_told_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path}/train: no such folder. Expected layout"):
        find_dataset(data("camvid", str(tmp_path)), "train")
    with pytest.raises(ValueError, match="^split: no split called 'all'"):
        find_dataset(data("camvid", ""), "all")
    assert len(find_dataset(data("synthetic", ""), "val")) > 0
