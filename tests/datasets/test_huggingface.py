"""Hugging Face data sets: a stand-in for the package, which need not be installed, and the package itself where it is."""

import io
import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image as Pillow

from segkd.datasets.huggingface import HuggingFace

IDS = [[[0, 1, 2], [255, 2, 0]], [[1, 1, 1], [0, 0, 0]]]
NAMES = ("wand", "Tür", "sky")


class Image:
    """The package's feature of that name."""

    def __init__(self, decode: bool = True):
        self.decode = decode


class Table:
    """The package's table: rows are dictionaries, pictures dictionaries of bytes and path."""

    def __init__(self, features: dict, rows: list[dict]):
        self.features, self.rows, self._fingerprint = features, rows, "f00d"

    def cast_column(self, column: str, feature: Image) -> "Table":
        assert not feature.decode
        return Table(self.features | {column: feature}, self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict:
        assert all(feature.decode is False for feature in self.features.values() if isinstance(feature, Image))
        return self.rows[row]


def picture(pixels: object, path: str | None = None) -> dict:
    file = io.BytesIO()
    Pillow.fromarray(np.array(pixels, np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": path}


def table(masks: list = IDS, mask: str = "label", feature: object = None) -> Table:
    features = {"image": Image(), mask: feature or Image(), "caption": SimpleNamespace(names=["no", "class of pixels"])}
    shown = [masks[row] if feature else picture(masks[row]) for row in range(len(masks))]
    rows = [{"image": picture(np.zeros((2, 3, 3))), mask: one, "caption": 0} for one in shown]
    return Table(features, rows)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What `import datasets` gives; `asked` are the calls of load_dataset, `split` what they return."""
    stand_in = SimpleNamespace(__version__="5.2.0", Image=Image, asked=[], split={"train": table()})

    def load_dataset(path: str, **options: object) -> Table:
        stand_in.asked.append((path, options))
        if options["split"] not in stand_in.split:
            raise KeyError(f"Unknown split {options['split']}.")
        return stand_in.split[options["split"]]

    stand_in.load_dataset, stand_in.load_from_disk = load_dataset, lambda path: stand_in.split
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    return stand_in


def targets(dataset: HuggingFace) -> list:
    assert all(dataset[index][1].mode == "L" and dataset[index][0].mode == "RGB" for index in range(len(dataset)))
    return [np.asarray(dataset[index][1]).tolist() for index in range(len(dataset))]


def test_masks_are_the_data_sets_own_arrays(package: SimpleNamespace, tmp_path: Path) -> None:
    dataset = HuggingFace(str(tmp_path), "train", class_names=NAMES)
    assert targets(dataset) == IDS and dataset.class_names == NAMES and dataset.num_classes == len(dataset.palette) == 3
    assert [dataset.name(index) for index in range(len(dataset))] == ["train_000000", "train_000001"]
    assert dataset.stamp(0) != dataset.stamp(1) and not hasattr(dataset, "files")
    assert package.asked == [(str(tmp_path), {"name": None, "revision": None, "split": "train"})]


def test_where_a_data_set_lies(package: SimpleNamespace, tmp_path: Path) -> None:
    HuggingFace("user/streets", "train", class_names=NAMES, config="small", revision="v1")
    (tmp_path / "a.parquet").touch()
    HuggingFace(str(tmp_path / "a.parquet"), "train", class_names=NAMES)
    assert package.asked == [
        ("user/streets", {"name": "small", "revision": "v1", "split": "train"}),
        ("parquet", {"data_files": {"train": str(tmp_path / "a.parquet")}, "split": "train"}),
    ]
    (tmp_path / "dataset_dict.json").touch()
    assert targets(HuggingFace(str(tmp_path), "train", class_names=NAMES)) == IDS and len(package.asked) == 2
    with pytest.raises(ValueError, match="split val cannot be loaded: no split called 'val'; there are: train"):
        HuggingFace(str(tmp_path), "val", class_names=NAMES)
    with pytest.raises(ValueError, match="user/streets: split val cannot be loaded: .*Unknown split val"):
        HuggingFace("user/streets", "val", class_names=NAMES)
    with pytest.raises(FileNotFoundError, match="'nowhere': there is no such folder, and the Hub's names are like"):
        HuggingFace("nowhere", "train", class_names=NAMES)


def test_names_are_those_of_the_data_set(package: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="nothing says what the ids in the masks mean; say it with class_names or id2la"
    ):
        HuggingFace(str(tmp_path), "train")
    (tmp_path / "id2label.json").write_text(json.dumps({"2": "sky", "0": "wand", "1": "Tür"}))
    assert HuggingFace(str(tmp_path), "train").class_names == NAMES
    # the column itself, an array of class labels, says more
    labels = SimpleNamespace(feature=[SimpleNamespace(feature=SimpleNamespace(names=["a", "b", "c"]))])
    package.split = {"train": table(mask="mask", feature=labels)}
    dataset = HuggingFace(str(tmp_path), "train")
    assert dataset.class_names == ("a", "b", "c") and targets(dataset) == IDS
    (tmp_path / "id2label.json").write_text('{"x": "sky"}')
    package.split = {"train": table()}
    with pytest.raises(ValueError, match=r"id2label\.json: 'x' is no id from 0 to 255"):
        HuggingFace(str(tmp_path), "train")


def test_ids_with_gaps_reduced_labels_and_binary_masks(package: SimpleNamespace) -> None:
    options = {"class_names": ("one", "two"), "reduce_labels": True}
    assert targets(HuggingFace("u/x", "train", **options))[0] == [[255, 0, 1], [255, 1, 255]]
    gaps = {7: "sky", 0: "wand"}
    package.split = {"train": table([[[0, 7, 7], [255, 0, 0]]])}
    dataset = HuggingFace("u/x", "train", id2label=gaps, classes={"sky": "sky", "*": "rest"})
    assert dataset.class_names == ("sky", "rest") and targets(dataset) == [[[1, 0, 0], [255, 1, 1]]]
    with pytest.raises(
        ValueError, match=r"row 0, label: label ids 7 are not allowed; there are names for 0\.\.1; masks"
    ):
        HuggingFace("u/x", "train", class_names=("a", "b"))[0]
    package.split = {"train": table([[[0, 255], [255, 0]]])}
    package.split["train"].rows[0]["image"] = picture(np.zeros((2, 2, 3)))
    dataset = HuggingFace("u/x", "train", id2label={0: "background", 255: "building"})
    assert targets(dataset) == [[[0, 1], [1, 0]]]


def test_masks_in_colours(package: SimpleNamespace) -> None:
    package.split = {"train": table([[[[9, 9, 9], [1, 2, 3], [0, 0, 0]]] * 2])}
    options = {"colors": {"road": (1, 2, 3), "sky": (9, 9, 9)}}
    assert targets(HuggingFace("u/x", "train", void_colors=((0, 0, 0),), **options)) == [[[1, 0, 255]] * 2]
    with pytest.raises(ValueError, match=r"row 0, label: colour \(0, 0, 0\) is neither in the palette"):
        HuggingFace("u/x", "train", **options)[0]
    with pytest.raises(ValueError, match="colors: masks painted in colours have no ids"):
        HuggingFace("u/x", "train", class_names=NAMES, **options)
    with pytest.raises(ValueError, match=r"this file has mode RGB; .* such as colors: \{background"):
        HuggingFace("u/x", "train", class_names=NAMES)[0]


def test_one_split_is_divided(package: SimpleNamespace) -> None:
    package.split = {"train": table([IDS[0]] * 30)}
    parts = {split: HuggingFace("u/x", split, class_names=NAMES, val=0.2) for split in ("train", "val")}
    names = {split: [part.name(index) for index in range(len(part))] for split, part in parts.items()}
    assert sorted(names["train"] + names["val"]) == [f"train_{row:06d}" for row in range(30)] and names["val"]
    assert parts["val"].table.rows[parts["val"].rows[0]] and targets(parts["val"])[0] == IDS[0]


def test_masks_of_true_and_false(package: SimpleNamespace) -> None:
    package.split = {"train": table([[[True, False, True], [False, True, True]]])}
    found = HuggingFace("u/x", "train", class_names=NAMES)
    assert targets(found) == [[[1, 0, 1], [0, 1, 1]]]


def test_columns_are_found_or_asked_for(package: SimpleNamespace) -> None:
    package.split = {"train": table(mask="whatever")}
    assert targets(HuggingFace("u/x", "train", class_names=NAMES)) == IDS
    package.split["train"].features["depth"] = Image()
    with pytest.raises(
        ValueError, match="mask: which column it is cannot be told; say one of image, whatever, caption"
    ):
        HuggingFace("u/x", "train", class_names=NAMES)
    assert HuggingFace("u/x", "train", class_names=NAMES, mask="whatever").mask == "whatever"
    with pytest.raises(ValueError, match="image: there is no column 'picture'; say one of"):
        HuggingFace("u/x", "train", class_names=NAMES, image="picture", mask="whatever")


def test_rows_that_are_wrong_are_named(package: SimpleNamespace, tmp_path: Path) -> None:
    def first(options: dict | None = None, **other: object) -> None:
        package.split["train"].rows[0] |= other
        HuggingFace("u/x", "train", **options or {"class_names": NAMES})[0]

    Pillow.new("RGB", (3, 2)).save(tmp_path / "a ü.png")
    first(image={"bytes": None, "path": str(tmp_path / "a ü.png")})
    for other, told in (
        ({"image": {"bytes": b"no image", "path": None}}, "row 0, image: cannot be decoded"),
        ({"image": None}, "row 0, image: there is no picture"),
        ({"image": picture(np.zeros((4, 3, 3)))}, r"row 0, image is 4x3 but its label .*row 0, label is 2x3"),
        ({"label": [[0, 1], [2, -1]]}, "row 0, label: a mask has two dimensions and whole numbers from 0 to 255"),
    ):
        with pytest.raises(ValueError, match=rf"u/x \(train\), {told}"):
            first(**other)


def test_without_the_package_or_with_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (None, SimpleNamespace()):  # nothing, or our own folder of that name
        monkeypatch.setitem(sys.modules, "datasets", found)
        with pytest.raises(
            ValueError, match=r'need its package datasets, which is not installed: pip install -e "\.\[da'
        ):
            HuggingFace("u/x", "train", class_names=NAMES)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=None, __version__="2.21.0"))
    with pytest.raises(ValueError, match="package datasets is 2.21.0, which may run the code of a data set"):
        HuggingFace("u/x", "train", class_names=NAMES)


def real_package():
    package = pytest.importorskip("datasets")
    if not hasattr(package, "load_dataset"):
        pytest.skip("this is our own folder")
    return package


def test_the_package_itself(tmp_path: Path) -> None:
    package = real_package()
    rows = {"image": [picture(np.zeros((2, 3, 3)))] * 2, "label": [picture(ids) for ids in IDS]}
    features = package.Features({"image": package.Image(), "label": package.Image()})
    whole = package.Dataset.from_dict(rows, features=features)
    package.DatasetDict({"train": whole}).save_to_disk(str(tmp_path / "saved"))
    whole.save_to_disk(str(tmp_path / "one table"))
    whole.to_parquet(str(tmp_path / "files/train.parquet"))
    listed = []
    for row, ids in enumerate(IDS):
        for name, pixels in ((f"é {row}.png", np.zeros((2, 3, 3))), (f"mask {row}.png", ids)):
            (tmp_path / "pictures/train").mkdir(parents=True, exist_ok=True)
            (tmp_path / "pictures/train" / name).write_bytes(picture(pixels)["bytes"])
        listed.append({"file_name": f"é {row}.png", "mask_file_name": f"mask {row}.png"})
    (tmp_path / "pictures/train/metadata.jsonl").write_text("\n".join(map(json.dumps, listed)))
    with pytest.raises(ValueError, match="no split called 'val'; one file is train .args: {val: 0.1} divides it"):
        HuggingFace(str(tmp_path / "files/train.parquet"), "val")
    for place in ("saved", "one table", "files", "files/train.parquet", "pictures"):
        dataset = HuggingFace(str(tmp_path / place), "train", class_names=NAMES)
        assert targets(dataset) == IDS == [np.asarray(row["label"]).tolist() for row in whole]
        assert targets(pickle.loads(pickle.dumps(dataset))) == IDS, "loading processes get a copy"
    for place, told in (
        ("saved", "train .args: {val: 0.1}"),
        ("one table", "train .args: {val: 0.1}"),
        ("pictures", ""),
    ):
        with pytest.raises(ValueError, match=f"{place}: split val cannot be loaded: .*val.*{told}"):
            HuggingFace(str(tmp_path / place), "val", class_names=NAMES)


def test_the_packages_own_arrays_and_names(tmp_path: Path) -> None:
    package = real_package()
    listed = getattr(package, "List", package.Sequence)
    labels = [[[0, 1, 2], [1, 2, 0]]] * 2
    for kind, feature, masks in (
        ("names", listed(listed(package.ClassLabel(names=list(NAMES)))), labels),
        ("array", package.Array2D((2, 3), "uint8"), IDS),
    ):
        rows = {"image": [picture(np.zeros((2, 3, 3)))] * 2, "mask": masks}
        features = package.Features({"image": package.Image(), "mask": feature})
        package.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / f"{kind}.parquet"))
        options = {} if kind == "names" else {"class_names": NAMES}
        dataset = HuggingFace(str(tmp_path / f"{kind}.parquet"), "train", **options)
        assert dataset.class_names == NAMES and targets(dataset) == masks
