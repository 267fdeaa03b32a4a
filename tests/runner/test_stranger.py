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
BASE = """\
data: {dataset: synthetic, args: {size: [32, 48], length: 15}, crop_size: [32, 32], batch_size: 4, workers: 0}
networks: {student: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8}}}
losses: [{loss: cross_entropy}]
schedule: {iterations: 2}
evaluate: {every: 2, batch_size: 5}
tracking: {wandb: disabled, images: 1, every: 2}
"""
TEACHER = "extends: base.yaml\nname: teacher\n"
STUDENT = """\
extends: base.yaml
name: student
networks:
  teacher:
    {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 8}, weights: {recipe: teacher.yaml},
     train: false}
losses: [{loss: cross_entropy}, {loss: kl}]
baseline: {recipe: teacher.yaml}
"""
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
def stranger(hub):
    """The folder of user/repo in the Hub's cache."""
    for name, text in (("base", BASE), ("teacher", TEACHER), ("student", STUDENT)):
        (hub / f"{name}.yaml").write_text(text)
    return hub


@pytest.fixture
def here(stranger, tmp_path, monkeypatch):
    """Reads a recipe of the stranger's in this process."""
    monkeypatch.chdir(tmp_path)

    def with_text(text, *assignments):
        (stranger / "strange.yaml").write_text(text)
        return read("hf://user/repo/strange.yaml", assignments)

    return with_text


def test_it_writes_below_runs_only_and_talks_to_nobody(server, tmp_path, stranger):
    (tmp_path / "watched.py").write_text(f"SCRIPT = {str(ROOT / 'runner/distill.py')!r}\n{WATCHED}")
    before = {path for path in tmp_path.rglob("*")}
    home = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    for folder in home.values():
        Path(folder).mkdir()
    result = server(tmp_path, "watched.py", "hf://user/repo/student.yaml", environment=home)
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
    assert [file for file in seen["modules"] if file.startswith(str(stranger))] == []


@pytest.mark.parametrize("folder", ["/tmp/anywhere", "..", "runs/../..", "recipes", ".", "~/runs", ""])
def test_it_cannot_choose_to_write_elsewhere(here, folder):
    text = BASE.replace("tracking: {", f"tracking: {{folder: '{folder}', ") + "name: strange\n"
    with pytest.raises(RecipeError, match="hf://user/repo@.*strange.yaml:6: tracking.folder: .* below runs/ only"):
        here(text)
    # whose machine it is may
    assert str(here(text, "tracking.folder=/data/runs").folder) == "/data/runs/strange"


def test_it_can_choose_a_folder_below_runs(here):
    assert str(here(BASE.replace("{wandb", "{folder: runs/sweep, wandb") + "name: a\n").folder) == "runs/sweep/a"


@pytest.mark.parametrize("name", ["../a", "/a", "a/b", "..", ".hidden", "a\\nb", "a b", "~", "a\\0"])
def test_names_are_no_paths(here, name):
    with pytest.raises(RecipeError, match="name: must be letters"):
        here(BASE + f'name: "{name}"\n')
    with pytest.raises(RecipeError, match="(?s)networks.*: must be letters"):
        here(BASE.replace("{student:", f'{{"{name}": {{model: pspnet}}, student:') + "name: a\n")


@pytest.mark.parametrize(
    "path", ["../../../../mine.yaml", "/etc/passwd", "a/../../mine.yaml", "hf://user/repo/base.yaml"]
)
def test_it_builds_on_nothing_of_this_machine(here, tmp_path, path):
    (tmp_path / "hub/mine.yaml").write_text(BASE)
    with pytest.raises((RecipeError, FileNotFoundError), match="does not lie beside this recipe|no recipe file"):
        here(f"extends: {path}\nname: a\n")
    with pytest.raises(RecipeError, match="baseline: .* does not lie beside this recipe"):
        here(f"{BASE}name: a\nbaseline: {{recipe: '{path}'}}\n")


@pytest.mark.parametrize("old, new", [
    *(("model: pspnet", f"model: {name}") for name in ("os.system", "../tests/evil", "_hub", "_transforms")),
    ("model: pspnet", "source: timm, model: resnet18, args: {head: os}}, other: {model: pspnet"),
    ("loss: cross_entropy", "loss: subprocess"), ("loss: cross_entropy", "loss: segkd.losses.kl"),
    ("dataset: synthetic", "dataset: _mixing"), ("dataset: synthetic", "dataset: os"),
    ("width: 8", "_target_: os.system"), ("width: 8", "num_classes: 3"),
    ("wandb: disabled", "wandb: disabled, entity: stranger"),
    ("name: a", "name: a\ntrust_checkpoint: true"), ("name: a", "name: a\n_trust_checkpoint: true"),
    ("{model: pspnet", "{trust: true, model: pspnet"), ("{model: pspnet", "{trust_remote_code: true, model: pspnet"),
    ("width: 8", "width: !!python/object/apply:os.system ['touch exploded']"),
    ("width: 8", "width: !!python/name:os.system"),
])  # fmt: skip
def test_it_names_parts_of_ours_and_nothing_else(here, tmp_path, old, new):
    text = BASE + "name: a\n"
    assert old in text
    with pytest.raises(RecipeError):
        here(text.replace(old, new))
    assert not (tmp_path / "exploded").exists()


def test_code_of_the_hub_cannot_be_asked_for(here):
    for words in ("trust_remote_code: true", "config: {trust_remote_code: true}, trust_remote_code: true"):
        with pytest.raises(RecipeError, match="trust_remote_code: unknown key"):
            here(BASE.replace("{model: pspnet, args: {", f"{{source: hf, model: a/b, args: {{{words}, "))


class Explosive:
    """Unpickling this makes a file called `exploded`."""

    def __reduce__(self):
        return open, ("exploded", "w")


@pytest.mark.parametrize("layout", ["", ", layout: mmseg", ", layout: segkd, strict: false", ", layout: os"])
def test_weights_that_start_code_are_refused_whatever_it_says(here, tmp_path, layout):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"state_dict": Explosive()}, protocol=2))
    recipe = here(BASE.replace("{model: pspnet", f"{{weights: weights.pth{layout}, model: pspnet") + "name: a\n")
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
