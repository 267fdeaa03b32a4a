"""A run folder whose files were emptied, cut or replaced: who reads them says which file it is, whatever the command."""

import numpy as np
import pytest

from segkd.runner import submit
from segkd.runner.comparing.finished_runs import find_runs
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.opening import is_finished, refuse_used_folder
from segkd.runner.run_folder.weights import find_weights

DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "other bytes": lambda content: b"\x80\x04\xff" + content[3:],
    "a list": lambda content: b"[1, 2]\n",
    "another mapping": lambda content: b'{"miou": "high", "student": {"miou": []}, "model": 3}\n',
    "numbers": lambda content: b'{"model": "pspnet", "args": {}, "num_classes": 1000000000000000000000000000000}\n',
}
FILES = ("recipe.yaml", "summary.json", "teachers.json", "environment.json", "student/config.json", "images.npz",
         "metrics.jsonl", "student/model.safetensors")  # fmt: skip
READERS = {
    "compare": lambda run, recipe: find_runs([str(run)]),
    "export": lambda run, recipe: (RunFolder(run).student.read_config(), RunFolder(run).read_recipe()),
    "weights": lambda run, recipe: find_weights(run, owner="networks.teacher"),
    "submit": lambda run, recipe: submit.read_run(run, []),
    "resume": lambda run, recipe: (refuse_used_folder(recipe, resume=True, overwrite=False), is_finished(recipe)),
    "report": lambda run, recipe: (RunFolder(run).read_rows(), RunFolder(run).read_teachers()),
}


@pytest.mark.parametrize("file", FILES)
def test_every_reader_says_what_is_damaged(fabricate, folder, monkeypatch, file):
    monkeypatch.chdir(folder)
    run = fabricate("tiny", np.ones((3, 2, 3), dtype=np.int64), teachers={"teacher": 0.5})
    recipe, place = read("tiny.yaml"), run / file
    whole = place.read_bytes()
    for damage in DAMAGES:
        refused = {}
        place.write_bytes(DAMAGES[damage](whole))
        for name, reader in READERS.items():
            try:
                reader(run, recipe)
            except (ValueError, FileNotFoundError) as error:
                refused[name] = str(error)
        if file == "recipe.yaml":
            assert {"compare", "submit", "resume"} <= refused.keys(), damage
        told = [text for name, text in refused.items() if name in ("compare", "export", "resume", "submit", "report")]
        assert all(place.name in text for text in told), (damage, told)
        assert told or file in ("metrics.jsonl", "student/model.safetensors"), damage
