"""What a recipe from a stranger can do, and what it cannot, each shown by one that tries."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from segkd.runner.building.networks import build_networks
from segkd.runner.loading.data_sets import build_dataset
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.folder import RunFolder

ROOT = Path(__file__).parents[2]
# runs a command with the Hub offline, and notes what it does that other programs could see
WATCHED = """\
import json, os, runpy, sys

sys.dont_write_bytecode = True
import huggingface_hub

huggingface_hub.constants.HF_HUB_CACHE = os.path.abspath("hub")
huggingface_hub.constants.HF_HUB_OFFLINE = True
seen = {"written": [], "contacted": [], "started": []}
CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MOVES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree",
         "shutil.copyfile", "shutil.move", "os.chmod")


def watch(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & CHANGES and not isinstance(args[0], int):
        seen["written"].append(os.fsdecode(args[0]))
    elif event in ("os.remove", "os.rmdir") and args[1] != -1:
        pass  # inside of a folder that shutil.rmtree has told
    elif event in MOVES:
        paths = args[1:2] if event == "os.symlink" else args[:2]  # what a link points to is not touched
        seen["written"] += [os.fsdecode(path) for path in paths if isinstance(path, (str, bytes, os.PathLike))]
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        seen["contacted"].append(repr(args[1:] if event == "socket.connect" else args))
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile"):
        seen["started"].append(os.fsdecode(args[0]))


sys.argv = [SCRIPT, *sys.argv[1:]]
sys.addaudithook(watch)
runpy.run_path(SCRIPT, run_name="__main__")
found = {key: sorted(set(values)) for key, values in seen.items()}
found["modules"] = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
open("seen.json", "w").write(json.dumps(found))
"""


@pytest.fixture
def here(recipes_on_hub, tmp_path, monkeypatch):
    """here("old text", "new text", ...) reads tiny.yaml as a stranger has changed it, in this process."""
    monkeypatch.chdir(tmp_path)

    def changed(old, new, *assignments):
        text = (recipes_on_hub / "base.yaml").read_text()
        assert old in text
        (recipes_on_hub / "strange.yaml").write_text(text.replace(old, new))
        return read("hf://user/repo/strange.yaml", assignments)

    return changed


def test_it_writes_below_runs_only_and_talks_to_nobody(server, tmp_path, recipes_on_hub):
    (tmp_path / "watched.py").write_text(f"SCRIPT = {str(ROOT / 'runner/distill.py')!r}\n{WATCHED}")
    before = {path for path in tmp_path.rglob("*")}
    home = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    for folder in home.values():
        Path(folder).mkdir()
    result = server(tmp_path, "watched.py", "hf://user/repo/recipes/student.yaml", environment=home)
    assert result.code == 0, result.err
    assert (tmp_path / "runs/student/student/model.safetensors").is_file() and (tmp_path / "runs/teacher").is_dir()
    seen = json.loads((tmp_path / "seen.json").read_text())
    allowed = (tmp_path / "runs", tmp_path / "tmp", tmp_path / "home/.cache", Path("/dev/null"))
    absolute = [Path(os.path.abspath(tmp_path / path)) for path in seen["written"]]
    assert [path for path in absolute if not any(path.is_relative_to(folder) for folder in allowed)] == []
    assert tmp_path / "runs/student/metrics.jsonl" in absolute, "the watch sees what is written"
    own = {"stdout.0", "stderr.0", "watched.py", "seen.json", "runs", "home", "tmp"}
    assert {path.relative_to(tmp_path).parts[0] for path in {*tmp_path.rglob("*")} - before} <= own
    assert seen["contacted"] == [] and set(seen["started"]) <= {"git", "uname"}, "for environment.json"
    assert [file for file in seen["modules"] if file.startswith(str(recipes_on_hub))] == []


@pytest.mark.parametrize("folder", ["/tmp/anywhere", "..", "runs/../..", "recipes", ".", "~/runs", ""])
def test_it_cannot_choose_to_write_elsewhere(here, folder):
    change = "tracking: {", f"tracking: {{folder: '{folder}', "
    with pytest.raises(RecipeError, match="hf://user/repo@.*strange.yaml:16: tracking.folder: .* below runs/ only"):
        here(*change)
    # whose machine it is may
    assert str(here(*change, "tracking.folder=/data/runs").folder) == "/data/runs/tiny"


def test_it_can_choose_a_folder_below_runs(here):
    assert str(here("{wandb", "{folder: runs/sweep, wandb").folder) == "runs/sweep/tiny"


@pytest.mark.parametrize("name", ["../a", "/a", "a/b", "..", ".hidden", "a\\nb", "a b", "~"])
def test_names_are_no_paths(here, name):
    with pytest.raises(RecipeError, match="name: must be letters"):
        here("name: tiny", f'name: "{name}"')
    with pytest.raises(RecipeError, match="(?s)networks.*: must be letters"):
        here("  student:", f'  "{name}": {{model: pspnet}}\n  student:')


def test_no_name_holds_a_nul_character(here):
    with pytest.raises(RecipeError, match="name: holds a NUL character, which no name, path or file can have"):
        here("name: tiny", 'name: "a\\0"')


@pytest.mark.parametrize(
    "path", ["../../../../mine.yaml", "/etc/passwd", "a/../../mine.yaml", "hf://user/repo/base.yaml"]
)
def test_it_builds_on_nothing_of_this_machine(here, recipes_on_hub, tmp_path, path):
    shutil.copy(recipes_on_hub / "base.yaml", tmp_path / "hub/mine.yaml")
    with pytest.raises((RecipeError, FileNotFoundError), match="does not lie beside this recipe|no recipe file"):
        here("name: tiny", f"name: tiny\nextends: {path}")
    with pytest.raises(RecipeError, match="baseline: .* does not lie beside this recipe"):
        here("name: tiny", f"name: tiny\nbaseline: {{recipe: '{path}'}}")


@pytest.mark.parametrize("old, new", [
    *(("model: pspnet", f"model: {name}") for name in ("os.system", "../tests/evil", "_hub", "_transforms")),
    ("model: pspnet", "source: timm, model: resnet18, args: {head: os}}\n  other: {model: pspnet"),
    ("loss: cross_entropy", "loss: subprocess"), ("loss: cross_entropy", "loss: segkd.losses.kl"),
    ("dataset: synthetic", "dataset: _mixing"), ("dataset: synthetic", "dataset: os"),
    ("width: 8", "_target_: os.system"), ("width: 8", "num_classes: 3"),
    ("wandb: disabled", "wandb: disabled, entity: stranger"),
    ("name: tiny", "name: tiny\ntrust_checkpoint: true"), ("name: tiny", "name: tiny\n_trust_checkpoint: true"),
    ("{model: pspnet", "{trust: true, model: pspnet"), ("{model: pspnet", "{trust_remote_code: true, model: pspnet"),
    ("width: 8", "width: !!python/object/apply:os.system ['touch exploded']"),
    ("width: 8", "width: !!python/name:os.system ''"),
])  # fmt: skip
def test_it_names_parts_of_ours_and_nothing_else(here, tmp_path, old, new):
    with pytest.raises(RecipeError) as caught:
        here(old, new)
    assert "not valid YAML" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_code_of_the_hub_cannot_be_asked_for(here):
    for words in ("trust_remote_code: true", "config: {trust_remote_code: true}, trust_remote_code: true"):
        with pytest.raises(RecipeError, match="trust_remote_code: unknown key"):
            here("{model: pspnet, args: {", f"{{source: hf, model: a/b, args: {{{words}, ")


@pytest.mark.parametrize("layout", ["", ", layout: mmseg", ", layout: segkd, strict: false", ", layout: os"])
def test_weights_that_start_code_are_refused_whatever_it_says(here, tmp_path, explosive, layout):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"state_dict": explosive}, protocol=2))
    recipe = here("{model: pspnet", f"{{weights: weights.pth{layout}, model: pspnet")
    dataset = build_dataset(recipe, "train")
    with pytest.raises(ValueError):
        build_networks(recipe, dataset)
    assert not recipe.trust_checkpoint and not (tmp_path / "exploded").exists()


def test_a_run_can_be_made_again_from_its_recipe_alone(server, folder, tmp_path):
    """Not a stranger's: what a run writes down is the whole of it, wherever it is read."""
    assert server(folder, "distill", "tiny.yaml", "seed=3", "optimizer.lr=0.05").code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / "runs/tiny/recipe.yaml", elsewhere / "shared.yaml")
    result = server(elsewhere, "distill", "shared.yaml")
    assert result.code == 0, result.err
    for file in ("recipe.yaml", "student/model.safetensors"):
        assert (elsewhere / "runs/tiny" / file).read_bytes() == (folder / "runs/tiny" / file).read_bytes()
    rows = [RunFolder(place / "runs/tiny").read_rows() for place in (folder, elsewhere)]
    losses = [[row["total"] for row in place] for place in rows]
    assert losses[0] == losses[1] and len(losses[0]) == 4
