"""What is written beside its place and renamed into it."""

import pytest

from segkd.runner.run_folder.replacing import replacing, write_text


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    file = tmp_path / "a.tar.gz"
    for text in ("first", "second"):
        before = file.read_text() if file.exists() else None
        with replacing(file) as partial:
            partial.write_text(text)
            assert partial.suffix == ".gz" and (file.read_text() if file.exists() else None) == before
        assert file.read_text() == text and list(tmp_path.iterdir()) == [file]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("one", "two"):
        with replacing(tmp_path / "made", folder=True) as partial:
            (partial / name).mkdir()
            (partial / name / "file").write_text(name)
        assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("file")] == [f"made/{name}/file"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path, folder, error):
    final = tmp_path / "kept"
    final.mkdir() if folder else final.write_text("old")
    with pytest.raises(error):
        with replacing(final, folder=folder) as partial:
            (partial / "new" if folder else partial).write_text("new")
            raise error
    assert list(tmp_path.rglob("*")) == [final] and (folder or final.read_text() == "old")


def test_what_an_earlier_kill_left_is_no_part_of_it(tmp_path):
    (tmp_path / ".made.partial").mkdir()
    (tmp_path / ".made.partial/half").write_text("")
    with replacing(tmp_path / "made", folder=True) as partial:
        assert list(partial.iterdir()) == []


def test_write_text(tmp_path):
    for text in ("first", "second"):
        write_text(tmp_path / "a.json", text)
        assert (tmp_path / "a.json").read_text() == text and len(list(tmp_path.iterdir())) == 1
