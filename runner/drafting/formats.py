"""Which data set of ours reads a folder: its format, arguments and splits, guessed from the names of its files."""

import os
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from segkd.datasets._files import files_below, read_json, read_list, read_text, written_alike
from segkd.runner.console import some
from segkd.runner.drafting.images_and_masks import SPLIT, find_pairs, image_files, split_words, with_split
from segkd.runner.drafting.masks import find_names, look_at_masks, meaning_of

LOOKED_AT = 500  # masks
FEW = 200  # images
BEGINNING = 1 << 16  # bytes of a JSON file that tell of which kind it is
HELP = (
    "one of these is read: a mask for each image, in a folder `masks` beside `images`, or beside the image as "
    "<name>_mask.png; COCO's JSON; YOLO's data.yaml with polygons; LabelMe's JSON files; CVAT's \"Segmentation mask\"; "
    "a Hugging Face data set. Other names are told to dataset folder in a recipe of your own, by templates such as "
    "images: photos/{name}_left.jpg and labels: truth/{name}_ids.png (datasets/folder.py)"
)


@dataclass
class Found:
    """What a folder holds: the `data` of a recipe, and in words what was seen."""

    dataset: str
    root: str
    args: dict = field(default_factory=dict)
    train: str = "train"
    val: str = "val"
    said: list[str] = field(default_factory=list)

    def divided(self, count: int | None) -> "Found":
        """The same with a share of its images to be scored: a tenth, or a fifth where it is known that they are few."""
        share = 0.1 if count is None or count >= FEW else 0.2
        told = "no splits, so some of the images are scored and not trained on, drawn by their names"
        return replace(self, args=self.args | {"val": share}, said=[*self.said, told])


def find_data(root: str) -> Found:
    """The first format whose files are there.

    Raises:
        FileNotFoundError: no such folder. ValueError: no images in it, or none with labels.
    """
    place = Path(root)
    if not place.is_dir():
        raise FileNotFoundError(f"--data {root}: there is no such folder")
    inside = [path for path in place.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    if len(inside) == 1 and inside[0].is_dir():  # as an archive was unpacked
        return find_data(str(inside[0]))
    for guess in (_published, _cvat, _hugging_face, _yolo, _coco, _labelme, _images_and_masks):
        found = guess(root)
        if found is not None:
            return found
    images = len(image_files(root))
    if not images:
        raise ValueError(f"--data {root}: there are no images in it; {HELP}")
    raise ValueError(f"--data {root}: there are {images} images and no labels that are known; {HELP}")


def _published(root: str) -> Found | None:
    """The arrangements of data sets that have a file of their own."""
    place = Path(root)
    if (place / "leftImg8bit").is_dir() and (place / "gtFine").is_dir():
        is_own = any(name.endswith("_labelIds.png") for _, name in files_below(place / "gtFine"))
        args = {} if is_own else {"labels": "labelTrainIds"}
        return Found("cityscapes", root, args, said=["Cityscapes' folders leftImg8bit and gtFine"])
    lists = place / "ImageSets/Segmentation"
    if all((lists / f"{split}.txt").is_file() for split in ("train", "val")) and not (place / "labelmap.txt").exists():
        if re.fullmatch(r"\d{4}_\d{6}", read_list(lists / "train.txt", "")[0]):
            return Found("voc", root, said=["VOC's folders JPEGImages, SegmentationClass and ImageSets"])
    if (place / "train").is_dir() and (place / "trainannot").is_dir():
        return _annot_folders(root)
    if (place / "annotations/training").is_dir() and any((place / "images/training").glob("ADE_train_*.jpg")):
        return Found("ade20k", root, said=["ADE20K's folders images and annotations"])
    return None


def _annot_folders(root: str) -> Found | None:
    """CamVid in SegNet's arrangement, or another data set in it."""
    labels = list(image_files(f"{root}/trainannot").values())
    scored = next((split for split in ("val", "test") if Path(root, f"{split}annot").is_dir()), None)
    if not labels or scored is None:
        return None
    seen = look_at_masks(_some(labels))
    names = find_names(root)
    if seen.ids is not None and max(seen.ids) == 11 and scored == "val" and names is None:
        return Found("camvid", root, said=["CamVid's folders train, trainannot and so on, with its ids 0..11"])
    meaning = meaning_of(seen, names, len(labels) <= LOOKED_AT)
    args = {"images": "{split}/{name}.*", "labels": "{split}annot/{name}.*"} | meaning.args
    return Found("folder", root, args, val=scored, said=[f"images in train, masks in trainannot, which {meaning.said}"])


def _cvat(root: str) -> Found | None:
    lists = {path.stem: path for path in sorted(Path(root, "ImageSets/Segmentation").glob("*.txt"))}
    if not lists or not Path(root, "labelmap.txt").is_file():
        return None
    train, scored = split_words(lists)
    said = [f"CVAT's labelmap.txt, and lists of {', '.join(lists)} in ImageSets"]
    if train and scored:
        return Found("cvat", root, {}, train, scored, said)
    subset = train or next(iter(lists))
    return Found("cvat", root, {"subset": subset}, said=said).divided(len(read_list(lists[subset], "")))


def _hugging_face(root: str) -> Found | None:
    place = Path(root)
    saved, tables = place / "dataset_dict.json", [*place.glob("*.parquet"), *place.glob("data/*.parquet")]
    listed = [
        path
        for kind in ("csv", "jsonl")
        for path in (*place.glob(f"metadata.{kind}"), *place.glob(f"*/metadata.{kind}"))
    ]
    if saved.is_file() or (place / "state.json").is_file():
        kind, words = "written by save_to_disk", read_json(saved, "").get("splits", []) if saved.is_file() else []
    elif tables or any("mask" in read_text(path).partition("\n")[0] for path in listed):
        kind = "of Parquet files" if tables else "of images with metadata"
        words = [word for path in (*tables, *listed) for word in SPLIT.findall(str(path.relative_to(place)))]
    else:
        return None
    train, scored = split_words(words)
    said = [f"a Hugging Face data set {kind}, with the splits {', '.join(dict.fromkeys(words)) or 'train'}"]
    if train and scored:
        scored = scored if saved.is_file() else _as_the_package_says(scored)  # which has written its own words there
        return Found("huggingface", root, {}, train, scored, said)
    return Found("huggingface", root, said=said).divided(None)


def _as_the_package_says(word: str) -> str:
    """The package `datasets` calls files of val, valid and dev `validation`."""
    return "validation" if word in ("val", "valid", "dev") else word


def _yolo(root: str) -> Found | None:
    for path in sorted([*Path(root).glob("*.yaml"), *Path(root).glob("*.yml")]):
        try:
            content = yaml.safe_load(read_text(path))
        except (yaml.YAMLError, ValueError):
            continue
        if not isinstance(content, dict) or not {"names", "train"} <= content.keys():
            continue
        args = {} if path.name == "data.yaml" else {"data": path.name}
        names = content["names"]  # what is wrong with them says the data set
        said = [f"YOLO's {path.name} with {len(names) if isinstance(names, list | dict) else 'no'} names"]
        for scored in ("val", "test"):
            if content.get(scored) and content[scored] != content["train"]:
                return Found("yolo", root, args, val=scored, said=said)
        return Found("yolo", root, args, said=said).divided(len(image_files(root)))
    return None


def _coco(root: str) -> Found | None:
    """JSON files that hold images, annotations and categories."""
    found = {name: content for name, path in _json_files(root).items() if (content := _coco_json(path)) is not None}
    if not found:
        return None
    present = image_files(root)
    folders = {name: _folder_of(name, content, present) for name, content in found.items()}
    lacking = next((name for name, folder in folders.items() if folder is None), None)
    if lacking:
        first = found[lacking]["images"][0].get("file_name")
        raise ValueError(f"--data {root}: the images that {lacking} names, such as {first}, are not below this folder")
    # of several with the same images, those that are called instances, as COCO's own are
    of_split = {(SPLIT.findall(name) or [""])[-1]: name for name in sorted(found, key=lambda name: "instances" in name)}
    train, scored = split_words(of_split)
    said = [f"COCO's JSON: {', '.join(found)}"]
    if train and scored:
        first, second = (
            [with_split(text, word) for text in (of_split[word], folders[of_split[word]])] for word in (train, scored)
        )
        if first == second:
            return Found("coco", root, {"annotations": first[0], "images": first[1]}, train, scored, said)
    name = of_split.get(train, next(iter(found)))
    said += [f"of these, {name} is read"] if len(found) > 1 else []
    args = {"annotations": name, "images": folders[name]}
    return Found("coco", root, args, said=said).divided(len(found[name]["images"]))


def _coco_json(path: str) -> dict | None:
    with open(path, "rb") as file:
        if not re.search(rb'"(images|annotations|categories)"\s*:\s*\[', file.read(BEGINNING)):
            return None
    content = read_json(path, "")
    lists = [content.get(key) for key in ("images", "annotations", "categories")]
    is_whole = all(lists) and isinstance(lists[0], list) and all(isinstance(image, dict) for image in lists[0])
    return content if is_whole else None


def _json_files(root: str) -> dict[str, str]:
    paths = ((parent, name) for parent, name in files_below(root) if name.lower().endswith(".json"))
    return {str(Path(parent, name).relative_to(root)): f"{parent}/{name}" for parent, name in paths}


def _folder_of(name: str, content: dict, present: dict[str, str]) -> str | None:
    """The folder, from the root, below which a JSON's images lie: of several the one most like its own path."""
    votes: Counter = Counter()
    for record in content["images"][:20]:
        ending = f"/{written_alike(str(record.get('file_name')))}"
        votes.update({f"/{path}"[: -len(ending)].lstrip("/") for path in present if f"/{path}".endswith(ending)})

    def likeness(folder: str) -> tuple[int, bool, int]:
        shared = os.path.commonprefix([folder.split("/"), name.split("/")])
        return votes[folder], SPLIT.findall(folder) == SPLIT.findall(name), len(shared)

    return max(votes, key=likeness, default=None)


def _labelme(root: str) -> Found | None:
    files = []
    for name, path in _json_files(root).items():
        with open(path, "rb") as file:
            if re.search(rb'"(shapes|imagePath)"\s*:', file.read(BEGINNING)):
                files.append(name)
    if not files:
        return None
    words = dict.fromkeys(name.split("/")[0] for name in files if "/" in name)
    train, scored = split_words(words)
    said = [f"LabelMe's JSON files, {len(files)} of them"]
    if train and scored:
        return Found("labelme", root, {}, train, scored, said)
    return Found("labelme", root, {"labels": train or ""}, said=said).divided(len(files))


def _images_and_masks(root: str) -> Found | None:
    pairs = find_pairs(root)
    if pairs is None:
        return None
    train, scored = split_words(pairs.of_split)
    if not (train and scored):
        word = train or next(iter(pairs.of_split))
        pairs.images, pairs.labels = (text.replace("{split}", word) for text in (pairs.images, pairs.labels))
        pairs.of_split = {word: pairs.of_split[word]}
    masks = [mask for _, mask in pairs.files]
    names = find_names(root, *dict.fromkeys(map(os.path.dirname, masks)))
    meaning = meaning_of(look_at_masks(_some(masks)), names, len(masks) <= LOOKED_AT)
    which = "the masks" if len(masks) <= LOOKED_AT else f"{LOOKED_AT} of the masks"
    said = [f"{len(masks)} images like {pairs.images} with masks like {pairs.labels}", f"{which} {meaning.said}"]
    args = {"images": pairs.images, "labels": pairs.labels} | meaning.args
    if pairs.others:
        is_one_class = len(args.get("class_names") or args["colors"]) == 2
        merge = " (where each mask shows one class, merge those of an image into one, with an id for each)"
        told = f"of the same images there are also {some(pairs.others, 5)}, which are not read"
        said.append(told + (merge if is_one_class else ""))
    if pairs.elsewhere:
        like = some([*pairs.elsewhere], 5)
        said.append(f"{sum(pairs.elsewhere.values())} further images with masks, like {like}, are not read")
    if pairs.without_mask:
        args["without_label"] = "skip"
        said.append(f"{pairs.without_mask} further images have no mask and are left out")
    found = Found("folder", root, args, said=said)
    if train and scored:
        return replace(found, train=train, val=scored)
    listed = _lists(root, [image for image, _ in pairs.files])
    if listed is None:
        unread = [str(path.relative_to(root)) for path in _told_by_name(root)]
        if unread:
            said.append(
                f"{some(unread, 5)} may say which images are to be scored, and cannot be read: lists of them are text "
                f"files such as train.txt and val.txt, with one image on each line"
            )
        return found.divided(len(masks))
    pattern, train, scored = listed
    words = f"lists of its images, {pattern.format(split=train)} and {pattern.format(split=scored)}"
    return replace(found, args=args | {"list_file": pattern}, train=train, val=scored, said=[*said, words])


def _lists(root: str, images: list[str]) -> tuple[str, str, str] | None:
    """The path of lists of the images to train on and of those to score, `{split}` for their words, and the two words."""
    known = {Path(image).stem for image in images}
    found: dict[str, dict[str, str]] = {}  # path with {split} -> word -> list
    for path in _told_by_name(root):
        words = SPLIT.findall(path.stem)
        if path.suffix == ".txt" and len(words) == 1:
            pattern = path.relative_to(root).with_name(with_split(path.name, words[0]))
            found.setdefault(str(pattern), {})[words[0]] = str(path)
    for pattern in sorted(found, key=lambda pattern: (Path(pattern).stem != "{split}", pattern)):
        train, scored = split_words(found[pattern])
        if train and scored and all(_lists_images(found[pattern][word], known) for word in (train, scored)):
            return pattern, train, scored
    return None


def _told_by_name(root: str) -> list[Path]:
    """The text and CSV files that are called as if they said which images belong to a split."""
    files = [
        Path(parent, name) for parent, name in files_below(root) if name.lower().endswith((".txt", ".csv", ".tsv"))
    ]
    return [path for path in files if SPLIT.search(path.stem) or re.search("split|fold", path.stem, re.IGNORECASE)]


def _lists_images(file: str, known: set[str]) -> bool:
    """Whether each line begins with a known image; names with blanks would be taken for pairs."""
    try:
        lines = [line.split() for line in read_list(file, "")]
    except ValueError:  # of another kind, or empty
        return False
    return all(Path(words[0]).stem in known and len(words) < 3 for words in lines)


def _some(files: list[str]) -> list[str]:
    """Up to so many, spread over all."""
    return files if len(files) <= LOOKED_AT else [files[index * len(files) // LOOKED_AT] for index in range(LOOKED_AT)]
