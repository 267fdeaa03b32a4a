"""A data set as all else here sees it: its labels hold the train ids 0..K-1, and 255 where nothing counts."""

import functools

from PIL import Image

from segkd.datasets._files import IGNORE_INDEX, require_one_size
from segkd.runner.loading.around import Around


class TrainIds(Around):
    """A data set whose items are checked as they come, and whose own `ignore_index` is 255 from here on.

    So views, mixing, losses and scores know one value for what does not count. All else is the data set's own.

    Args:
        dataset: any, with what runner/README.md asks of one.

    Raises:
        ValueError: on access, an item that is no pair of an RGB image and a label of its size, or a label with an id
            that is neither a class nor `ignore_index`. 255 is never a class, and may always stand for what is ignored.
    """

    ignore_index = IGNORE_INDEX

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        image, target = self.dataset[index]
        where = f"data.dataset: {type(self.dataset).__name__}: {self.dataset.name(index)}"
        kinds = [getattr(one, "mode", type(one).__name__) for one in (image, target)]
        if kinds[0] != "RGB" or kinds[1] not in ("L", "P"):
            raise ValueError(
                f"{where}: an item must be an image of mode RGB and a label of mode L, both Pillow's; got {kinds[0]} and "
                f"{kinds[1]}"
            )
        require_one_size(where, image.size, "(of the same name)", target.size)
        return image, self._in_train_ids(target, where)

    def _in_train_ids(self, target: Image.Image, where: str) -> Image.Image:
        own, classes = self.dataset.ignore_index, self.dataset.num_classes
        found = [value for value, count in enumerate(target.histogram()) if count]
        wrong = [value for value in found if value >= classes and value not in (own, IGNORE_INDEX)]
        if wrong:
            shown = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
            raise ValueError(
                f"{where}: its label holds the ids {shown}, and may hold those of classes, 0..{classes - 1} (num_classes "
                f"is {classes}), and ignore_index, {own}; make the data set give one of these in their place"
            )
        return target if own == IGNORE_INDEX or own not in found else target.point(_moved(own), "L")


@functools.cache
def _moved(ignore_index: int) -> list[int]:
    """256 entries: every id as it is, but for one that is ignored."""
    return [IGNORE_INDEX if value == ignore_index else value for value in range(256)]
