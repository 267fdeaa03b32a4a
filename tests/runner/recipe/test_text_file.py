"""Files that are none: each is told in a sentence at once, whoever reads it."""

import os
import socket
from pathlib import Path

import pytest

from segkd.runner.comparing.sweep_plan import read_plan
from segkd.runner.recipe import text_file
from segkd.runner.recipe.read import read
from segkd.runner.recipe.text_file import read_json, read_text


def make_large(path):
    with path.open("wb") as file:
        file.truncate(2**30)  # with holes, which take no room on the disk


def make_socket(path):
    os.chdir(path.parent)  # the name of a socket may have 108 letters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path.name)


NO_TEXT = {
    "is a folder, not a text file": Path.mkdir,
    "is a pipe, not a text file": os.mkfifo,
    "is a socket, not a text file": make_socket,
    "is a device, not a text file": lambda path: path.symlink_to("/dev/zero"),
    "has 1024 MiB, which no file of its kind has": make_large,
    "is not a text file in UTF-8": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("told", NO_TEXT)
def test_what_is_no_text_is_said_at_once(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file.yaml"
    NO_TEXT[told](file)
    (tmp_path / "outer.yaml").write_text(f"extends: {file.name}\n")
    for reader in (read_text, read_json, read, read_plan):
        with pytest.raises(ValueError, match=f"file.yaml {told}"):
            reader(file)
    with pytest.raises(ValueError, match=rf"file.yaml {told}.*\(`extends` in .*outer.yaml asks for it\)"):
        read(tmp_path / "outer.yaml")


def test_a_file_of_the_system_is_read_no_further_than_its_kind_is_large(monkeypatch):
    monkeypatch.setattr(text_file, "LARGEST", 2)
    assert read_text("/proc/self/stat").startswith(str(os.getpid()))
    with pytest.raises(ValueError, match="/proc/self/stat has 0 MiB"):
        read_text("/proc/self/stat", 2)


@pytest.mark.parametrize("text, told", [
    ("", "is no JSON .*was it cut off"), ('{"device": "cp', "is no JSON"), ("[" * 100_000, "is no JSON"),
    (f'{{"device": {"1" * 5000}}}', "is no JSON"),
    ("[1]", "was not written by segkd: device, count missing or of another type"),
    ('{"device": 3, "count": true}', "device, count missing or of another type"),
])  # fmt: skip
def test_damaged_json(tmp_path, text, told):
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_json(file, {"device": str, "count": int})
    file.write_text('{"device": "cpu", "count": 2, "more": null}')
    assert read_json(file, {"device": str, "count": int}) == {"device": "cpu", "count": 2, "more": None}
