
import numpy as np

from segkd.datasets.synthetic import Synthetic


def test_scene_depends_on_seed_split_and_index_only() -> None:
    first, again = Synthetic(), Synthetic()
    again[5]
    for mine, yours in zip(first[3], again[3]):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(yours))
    others = (first[4], Synthetic(split="val")[3], Synthetic(seed=1)[3])
    assert all((np.asarray(other[1]) != np.asarray(first[3][1])).any() for other in others)


def test_items_have_the_size_modes_and_ids_promised() -> None:
    for size in ((96, 128), (64, 48), (32, 200)):
        for index in range(5):
            image, target = Synthetic(size=size)[index]
            assert (image.mode, target.mode) == ("RGB", "L")
            assert image.size == target.size == size[::-1]
            assert set(np.unique(target)) <= {*range(8), 255}


def test_every_class_occurs_and_none_rules() -> None:
    dataset = Synthetic()
    counts = sum(np.bincount(np.asarray(dataset[index][1]).reshape(-1), minlength=256) for index in range(60))
    shares = counts[[*range(8), 255]] / counts.sum()
    assert shares.min() > 0.002 and shares.max() < 0.5


def test_colour_alone_does_not_tell_the_classes_apart() -> None:
    """The best table from colour (in 16 levels a channel) to class, made on 60 scenes, fails often on others."""
    dataset, votes = Synthetic(), np.zeros((4096, 8), dtype=np.int64)

    def codes_and_ids(index: int) -> tuple[np.ndarray, np.ndarray]:
        image, target = (np.asarray(part) for part in dataset[index])
        levels = (image >> 4).astype(np.int64)
        counted = target < 8
        return (levels[..., 0] << 8 | levels[..., 1] << 4 | levels[..., 2])[counted], target[counted]

    for index in range(60):
        np.add.at(votes, codes_and_ids(index), 1)
    right = [votes.argmax(axis=1)[codes] == ids for codes, ids in map(codes_and_ids, range(60, 90))]
    assert np.concatenate(right).mean() < 0.7


def test_index_beyond_the_end_stops_iteration() -> None:
    dataset = Synthetic(length=3)
    assert len(list(dataset)) == 3 and dataset.name(-1) == "train_00002"
