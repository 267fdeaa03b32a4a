"""Kept views on the disk: places, damage, several writers, readers that may not write."""

import json
import logging
import os

import numpy as np
import pytest

from segkd.runner.run_folder.view_store import ViewFile, ViewStore


def payload(place, size=40):
    return np.random.default_rng(place).integers(0, 256, size, dtype=np.uint8)


def found(file, place):
    """What is read at a place, None where there is nothing."""
    row = np.zeros(file.size, np.uint8)
    return row.tolist() if file.read(place, 0, row) else None


def test_places_are_filled_in_any_order_by_anybody(tmp_path):
    path = tmp_path / "logits.bin"
    ours, theirs = ViewFile(path, 9, 1, 40), ViewFile(path, 9, 1, 40)
    assert found(ours, 3) is None and not path.exists() and not ours.filled().any()
    for writer, places in ((ours, (8, 2)), (theirs, (0, 2, 5))):  # both have the 2
        for place in places:
            writer.write(place, 0, payload(place))
    for reader in (ours, theirs, ViewFile(path, 9, 1, 40)):
        assert np.flatnonzero(reader.filled()[:, 0]).tolist() == [0, 2, 5, 8]
        for place in range(9):
            assert found(reader, place) == (payload(place).tolist() if place in (0, 2, 5, 8) else None)
    assert path.stat().st_size == ours.whole_size == 9 * 48


def test_a_file_takes_the_room_of_what_is_in_it(tmp_path):
    file = ViewFile(tmp_path / "large.bin", 1000, 1, 2**20)
    file.write(999, 0, payload(0, 2**20))
    assert file.path.stat().st_size == file.whole_size > 1000 * 2**20
    assert file.path.stat().st_blocks * 512 < 3 * 2**20


@pytest.mark.parametrize("at", [8 * 2 + 5, 8 * 9 + 40 * 2, 8 * 9 + 40 * 2 + 39])
def test_a_flipped_bit_is_found_and_told_once(tmp_path, caplog, at):
    """In the checksum, or in the payload."""
    file = ViewFile(tmp_path / "logits.bin", 9, 1, 40)
    for place in range(9):
        file.write(place, 0, payload(place))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    file = ViewFile(file.path, 9, 1, 40)
    with caplog.at_level(logging.WARNING):
        assert [place for place in range(9) if found(file, place) is None] == [2]
        assert found(file, 2) is None
    (told,) = caplog.messages
    assert "logits.bin: an entry is damaged" in told
    file.write(2, 0, payload(2))
    assert file.path.read_bytes() == whole and found(file, 2) == payload(2).tolist()


def test_a_payload_that_was_cut_off_is_none(tmp_path):
    file = ViewFile(tmp_path / "logits.bin", 9, 1, 40)
    file.write(1, 0, payload(1))
    file.write(8, 0, payload(8))
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[:-1])
    assert found(ViewFile(file.path, 9, 1, 40), 8) is None and found(ViewFile(file.path, 9, 1, 40), 1) is not None
    # the header comes last, so a kill before it leaves none
    file.path.write_bytes(bytes(8 * 9) + whole[8 * 9 :])
    assert not ViewFile(file.path, 9, 1, 40).filled().any() and found(ViewFile(file.path, 9, 1, 40), 1) is None
    file.path.write_bytes(whole[:30])
    assert all(found(ViewFile(file.path, 9, 1, 40), place) is None for place in range(9))
    assert ViewFile(file.path, 9, 1, 40).filled()[:, 0].tolist() == [False, True] + 7 * [False]


def test_who_may_only_read_reads(tmp_path, monkeypatch):
    file = ViewFile(tmp_path / "logits.bin", 2, 1, 40)
    file.write(0, 0, payload(0))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write whatever the mode says
    reader = ViewFile(file.path, 2, 1, 40)
    assert found(reader, 0) == payload(0).tolist() and found(reader, 1) is None
    with pytest.raises(PermissionError, match="logits.bin may only be read here, and it lacks entries"):
        reader.write(1, 0, payload(1))


def test_views_lie_one_after_another(tmp_path):
    few, many = ViewFile(tmp_path / "logits.bin", 3, 2, 40), ViewFile(tmp_path / "logits.bin", 3, 4, 40)
    places = {(0, 1): 5, (2, 1): 6, (2, 0): 7}
    for (image, view), number in places.items():
        few.write(image, view, payload(number))
    many.write(1, 3, payload(8))
    row = np.zeros(40, np.uint8)
    for file, known in ((few, places), (many, places | {(1, 3): 8})):
        assert set(map(tuple, np.argwhere(file.filled()).tolist())) == known.keys()
        for (image, view), number in known.items():
            assert file.read(image, view, row) and row.tolist() == payload(number).tolist()


def rows(seed, **sizes):
    return {name: payload(seed, size) for name, size in sizes.items()}


def files(sizes):
    return {name: (f"{name}-full16", size) for name, size in sizes.items()}


def test_a_store_of_maps(tmp_path):
    sizes = {"logits": 40, "stage4": 16}
    store = ViewStore(tmp_path / "cache", {"teacher": 1}, files(sizes), images=3, views=2)
    assert not (tmp_path / "cache").exists() and store.view_size == 56 and store.missing_size() == 6 * 56
    store.write(2, 1, rows(5, **sizes))
    assert json.loads((store.folder / "description.json").read_text()) == {"teacher": 1}
    assert store.filled().tolist() == [[False, False], [False, False], [False, True]]
    read = rows(0, **sizes)
    assert not store.read(1, 1, read) and store.read(2, 1, read)
    assert {name: row.tolist() for name, row in read.items()} == {
        name: row.tolist() for name, row in rows(5, **sizes).items()
    }
    # with more views, or another map, it goes on with what is there; another description is another place
    more = ViewStore(tmp_path / "cache", {"teacher": 1}, files(sizes), images=3, views=4)
    assert more.folder == store.folder and np.argwhere(more.filled()).tolist() == [[2, 1]]
    one = ViewStore(tmp_path / "cache", {"teacher": 1}, files({"logits": 40}), images=3, views=2)
    assert np.argwhere(one.filled()).tolist() == [[2, 1]]
    third = ViewStore(tmp_path / "cache", {"teacher": 1}, files(sizes | {"head": 8}), images=3, views=2)
    assert not third.filled().any() and third.missing_size() == 5 * 56 + 6 * 8
    assert ViewStore(tmp_path / "cache", {"teacher": 2}, files(sizes), images=3, views=2).folder != store.folder
    for damaged in (b"{}", b"", b"\xff{"):
        (store.folder / "description.json").write_bytes(damaged)
        with pytest.raises(ValueError, match="description.json describes other maps than its folder's name .* delete "):
            ViewStore(tmp_path / "cache", {"teacher": 1}, files(sizes), images=3, views=2)


def test_several_processes_fill_one_store(tmp_path):
    sizes, children = {"logits": 4000}, []
    for number in range(3):
        children.append(os.fork())
        if children[-1] == 0:
            store = ViewStore(tmp_path, {"teacher": 1}, files(sizes), images=30, views=1)
            for place in range(number * 5, number * 5 + 20):  # most places have several writers
                store.write(place, 0, rows(place, **sizes))
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    store, row = ViewStore(tmp_path, {"teacher": 1}, files(sizes), images=30, views=1), rows(0, **sizes)
    for place in range(30):
        assert store.read(place, 0, row) and row["logits"].tolist() == payload(place, 4000).tolist()
    assert sorted(path.name for path in store.folder.iterdir()) == ["description.json", "logits-full16.bin"]
