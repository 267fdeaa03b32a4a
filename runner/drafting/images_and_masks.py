"""Which files of a folder are photographs and which are their masks, and what the paths of the two have in common."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice, zip_longest

from segkd.datasets._files import paths_below
from segkd.datasets._images import UNDECODABLE, as_rgb, open_image

PHOTOGRAPHS = frozenset("image images img imgs jpegimages photo photos photographs picture pictures rgb input inputs "
                        "frame frames original originals".split())  # fmt: skip
MASKS = frozenset("mask masks label labels annotation annotations annot gt groundtruth truth seg segmentation "
                  "segmentations segmentationclass target targets ids labelids labeltrainids".split())  # fmt: skip
# what folders and files of a split are called, in the order in which one is taken for it
TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing")
SPLIT = re.compile(rf"(?<![a-z])({'|'.join((*TRAIN, *VAL, *TEST))})(?![a-z])", re.IGNORECASE)
MOST_KINDS, MOST_NAMES = 20, 1000  # of masks that an image has; of masks whose names are looked at for them
FEW_COLORS = 64  # more, and it is a photograph, of which grey ones have up to 256


@dataclass
class Pairs:
    """Photographs and masks that belong together.

    Attributes:
        images, labels: templates of their paths, as the data set `folder` takes them.
        of_split: the word that stands for {split} -> (photograph, mask) paths; the word is empty without {split}.
        without_mask: how many photographs there have none.
        others: templates of further masks that photographs there have, also of such as are called photographs.
        elsewhere: template of other photographs with masks -> how many there are.
    """

    images: str
    labels: str
    of_split: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    without_mask: int = 0
    others: tuple[str, ...] = ()
    elsewhere: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> list[tuple[str, str]]:
        """Those of all splits."""
        return [pair for pairs in self.of_split.values() for pair in pairs]


@dataclass(frozen=True)
class Series:
    """Files of one folder with the same letters around their names: `mask_7.png`, `mask_8.png`."""

    folder: str
    before: str
    after: str
    ending: str

    def template(self, without: int, word: str) -> str:
        """Their path, `without` the last so many folders, which belong to the name then, and the `word` of a split."""
        folders = self.folder.split("/") if self.folder else []
        name = f"{self.before}{{name}}{self.after}"
        return "/".join([*folders[: len(folders) - without], with_split(name, word) if word else name]) + self.ending


Groups = dict[Series, dict[str, str]]


def image_files(root: str) -> dict[str, str]:
    """Path below root -> path of every image file, without what packing leaves behind."""
    return {name: path for name, path in paths_below(root).items() if "__MACOSX" not in name.split("/")}


def split_words(words: Iterable[str]) -> tuple[str | None, str | None]:
    """Which of the words stand for the training images and for those to score: a test set, where there is no other."""
    known = {word.lower(): word for word in words}
    train = next((known[word] for word in TRAIN if word in known), None)
    return train, next((known[word] for word in (*VAL, *TEST) if word in known), None)


def find_pairs(root: str) -> Pairs | None:
    """The most pairs whose paths are alike; None where no image has a mask."""
    files = image_files(root)
    # img_7 belongs to mask_7; but as long as it can, an image keeps its whole name
    return (
        _find_pairs(files, MASKS)
        or _find_pairs(files, MASKS | PHOTOGRAPHS)
        or _find_pairs(files, MASKS | PHOTOGRAPHS | _shared_words(files))
    )


def _shared_words(files: dict[str, str]) -> frozenset[str]:
    """What all names of a folder begin or end with, such as `sat` in 1_sat.jpg and 2_sat.jpg; no numbers."""
    names = [list(found) for found in _series(files, MASKS).values() if len(found) > 1]
    parts = [[re.split(r"[_\-. ]+", name) for name in found] for found in names]
    ends = [{each[place].lower() for each in found} for found in parts for place in (0, -1)]
    return frozenset(word for words in ends if len(words) == 1 for word in words if re.search("[a-z]", word))


def _find_pairs(files: dict[str, str], words: frozenset[str]) -> Pairs | None:
    """The most pairs whose paths are alike but for such words around their names."""
    photographs, masks = _photographs_and_masks(files, words)
    divided = _divided(series.folder for series in (*photographs, *masks))
    found: dict[tuple[str, str], Pairs] = {}
    having: dict[tuple[str, str], set[Series]] = defaultdict(set)
    for one, images in photographs.items():
        for other, labels in masks.items():
            for (before, after), names in _around(images, labels).items():
                templates, word = _templates(one, other, before, after, divided)
                if templates is None:
                    continue
                pairs = found.setdefault(templates, Pairs(*templates))
                pairs.of_split[word] += [(images[name], labels[f"{before}{name}{after}"]) for name in names]
                having[templates].add(one)
    if not found:
        return None
    # frames of one video are called as those of another: the masks of the nearest folder are theirs
    nearest = {images: min(_apart(*both) for both in found if both[0] == images) for images, _ in found}
    found = {both: pairs for both, pairs in found.items() if _apart(*both) == nearest[both[0]]}
    painted = _painted(found)
    found = {both: pairs for both, pairs in found.items() if both not in painted}

    def likeness(pairs: Pairs) -> tuple[int, bool, int]:
        return len(pairs.files), bool(_words(pairs.images) & PHOTOGRAPHS), -len(pairs.labels)

    best = max(found.values(), key=likeness)
    read = {image for image, _ in best.files}
    counts = {pairs.images: len({image for image, _ in pairs.files} - read) for pairs in found.values()}
    best.elsewhere = {images: count for images, count in counts.items() if count}
    best.others = (
        *(labels for images, labels in found if images == best.images and labels != best.labels),
        *(images for images, labels in painted if labels == best.labels),
    )
    best.without_mask = sum(len(photographs[one]) for one in having[best.images, best.labels]) - len(best.files)
    return best


def _painted(found: dict[tuple[str, str], Pairs]) -> list[tuple[str, str]]:
    """Pairs of masks and of the same masks in colours: their images have few, where others of these masks have many."""
    sharing = Counter(labels for _, labels in found)
    few = [
        both for both in found if sharing[both[1]] > 1 and _have_few_colors([image for image, _ in found[both].files])
    ]
    of_photographs = {labels for _, labels in found.keys() - few}
    return [both for both in few if both[1] in of_photographs]


def _apart(images: str, labels: str) -> int:
    """In how many folders two templates of paths differ."""
    folders = [template.split("/")[:-1] for template in (images, labels)]
    return sum(mine != other for mine, other in zip_longest(*folders))


def _photographs_and_masks(files: dict[str, str], words: frozenset[str]) -> tuple[Groups, Groups]:
    """Series of files -> name -> path, of photographs and of masks."""
    kinds: tuple[Groups, Groups] = ({}, {})
    for series, found in _series(files, words).items():
        kinds[_is_mask(series, list(found.values()))][series] = found
    return tuple(_with_any_ending(mine, others) for mine, others in (kinds, kinds[::-1]))


def _series(files: dict[str, str], words: frozenset[str]) -> Groups:
    """Series of files -> name -> path; such words around a name are none of it."""
    pattern = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    at_the_end = re.compile(rf"()(.+?)((?:[_\-. ]+(?:{pattern}))+)", re.IGNORECASE)
    at_the_start = re.compile(rf"((?:(?:{pattern})[_\-. ]+)+)(.+)()", re.IGNORECASE)
    groups: Groups = defaultdict(dict)
    for path, file in files.items():
        folder, _, name = path.rpartition("/")
        stem, ending = os.path.splitext(name)
        match = at_the_end.fullmatch(stem) or at_the_start.fullmatch(stem)
        before, name, after = match.groups() if match else ("", stem, "")
        groups[Series(folder, before, after, ending)][name] = file
    return groups


def _words(text: str) -> set[str]:
    found = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)
    return {word.lower() for word in (*found, *re.findall("[A-Za-z]+", text))}


def _is_mask(series: Series, files: list[str]) -> bool:
    """Whether files are masks: by the words around their names, then by those of their folders, then by their colours."""
    around = _words(f"{series.before} {series.after}")
    if around & MASKS:
        return True
    for folder in reversed(series.folder.split("/")):
        if _words(folder) & (MASKS | PHOTOGRAPHS):
            return bool(_words(folder) & MASKS)
    if around & PHOTOGRAPHS:
        return False
    return _have_few_colors(files)


def _have_few_colors(files: list[str]) -> bool:
    """Whether most of three files have."""
    looked_at = files[:: max(1, len(files) // 3)][:3]
    return 2 * sum(map(_has_few_colors, looked_at)) > len(looked_at)


def _has_few_colors(file: str) -> bool:
    try:
        with open_image(file) as image:
            return as_rgb(image).getcolors(FEW_COLORS) is not None
    except UNDECODABLE:  # whoever reads it in earnest says what is wrong
        return False


def _with_any_ending(mine: Groups, others: Groups) -> Groups:
    """Files that only their endings tell apart as one group, but where they tell photographs from masks."""
    taken = {(series.folder, series.before, series.after) for series in others}
    found: Groups = defaultdict(dict)
    for series, files in mine.items():
        is_told = (series.folder, series.before, series.after) in taken
        ending = series.ending.lower() if is_told else ".*"
        found[Series(series.folder, series.before, series.after, ending)] |= files
    return found


def _around(images: dict[str, str], labels: dict[str, str]) -> dict[tuple[str, str], list[str]]:
    """What stands before and after an image's name in that of its mask -> the names of the images that have one.

    There are several where an image has several masks, such as one for each class.
    """
    same = [name for name in images if name in labels]
    if same:
        return {("", ""): same}
    found: dict[tuple[str, str], list[str]] = {}
    joined: dict[tuple[str, str], list[str]] = {}  # to the name without a sign, as 10 is to 1_car in 101_car
    taken: set[str] = set()
    for label in islice(labels, MOST_NAMES):
        if label in taken or len(found) == MOST_KINDS:
            continue
        name = max((name for name in images if name in label), key=len, default=None)
        if name is None:
            break
        before, after = label.split(name, 1)
        having = [name for name in images if f"{before}{name}{after}" in labels]
        if before[-1:].isalnum() or after[:1].isalnum():
            joined = joined or {(before, after): having}
        else:
            found[before, after] = having
            taken |= {f"{before}{name}{after}" for name in having}
    return found or joined


def with_split(text: str, word: str) -> str:
    """A path with {split} for a word."""
    return re.sub(rf"(?<![a-zA-Z]){word}(?![a-zA-Z])", "{split}", text)


def _divided(folders: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Folder -> its path with {split} for the word of a split, and the word; itself and no word where there is none.

    Of several words, it is one that makes a path for training and for scoring, as `train` is in `dev-kit/train`, where
    there is one; else one that is a folder's whole name; else the last.
    """
    ways = {folder: _ways(folder) for folder in folders}
    words: dict[str, set[str]] = defaultdict(set)
    for path, word in (way for found in ways.values() for way in found):
        words[path].add(word)
    return {
        folder: max(found, key=lambda way: all(split_words(words[way[0]])), default=(folder, ""))
        for folder, found in ways.items()
    }


def _ways(folder: str) -> list[tuple[str, str]]:
    """The paths with {split} in place of a word, and the words, the likeliest first."""
    parts = folder.split("/")
    places = [(place, word) for place, part in enumerate(parts) for word in SPLIT.findall(part)]
    places.sort(key=lambda one: (parts[one[0]] == one[1], one[0]), reverse=True)
    alone = [
        ("/".join([*parts[:place], with_split(parts[place], word), *parts[place + 1 :]]), word)
        for place, word in places
    ]
    return alone + [(with_split(folder, word), word) for _, word in places]


def _templates(
    image: Series, label: Series, before: str, after: str, divided: dict[str, tuple[str, str]]
) -> tuple[tuple[str, str] | None, str]:
    """The templates of both paths, None where their splits differ, and the word that stands for {split} in them."""
    label = replace(label, before=label.before + before, after=after + label.after)
    if (image.before, image.after) == (label.before, label.after):
        image, label = (replace(one, before="", after="") for one in (image, label))
    (_, word), (_, other) = (divided[one.folder] for one in (image, label))
    if other not in ("", word):
        return None, word
    image, label = (replace(one, folder=divided[one.folder][0]) for one in (image, label))
    shared = 0  # folders at the end that both have belong to the name, unless they are splits
    if not (image.before or label.before):
        for mine, other in zip(reversed(image.folder.split("/")), reversed(label.folder.split("/"))):
            if mine != other or "{split}" in mine or not mine:
                break
            shared += 1
    paths = [one.template(shared, word) for one in (image, label)]
    return (paths[0], paths[1]), word
