"""The commands as functions: one after another in a process that lives on, errors as exceptions, a notebook."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segkd.runner import api, distill
from segkd.runner.building.device import start_accelerator
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.pretrained import from_pretrained

NOTEBOOK = Path(__file__).parents[2] / "recipes/quickstart.ipynb"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_recipe):
    """A working directory with tiny.yaml, and runs/first trained by it for two iterations."""
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "tiny.yaml").write_text(tiny_recipe)
        api.distill("tiny.yaml", {"schedule.iterations": 2}, name="first", loop__precision="bf16")
        yield folder


@pytest.fixture
def recipe(place, tiny_recipe):
    """The same recipe as a mapping."""
    return yaml.safe_load(tiny_recipe)


@pytest.fixture
def no_curves(monkeypatch):
    """What takes a third of a tiny run; that of `place` draws them."""
    monkeypatch.setattr("segkd.runner.training.report.curves", lambda rows, file: file.touch())


@pytest.fixture(autouse=True)
def as_before():
    """A function leaves no trace in how signals are taken."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_run(place):
    run = api.Run("runs/first")
    assert run.recipe.schedule.iterations == 2 and run.recipe.loop.precision == "bf16" and len(run.rows) == 2
    assert run.miou == run.rows[-1]["miou"] and "pspnet mobilenetv2_035" in run.report
    assert [file.suffix for file in run.pictures] == [".png"]


def test_arguments_that_are_none_are_sentences(place):
    run, image = api.Run("runs/first"), np.zeros((20, 30, 3), np.uint8)
    network = api.load(run)
    for call, told in (
        (lambda: api.predict(network, [image], scales=()), "at least one"),
        (lambda: api.predict(network, [image], scales=(-1.0,)), "from 0.05 to 16"),
        (lambda: api.predict(network, [image], scales=(float("nan"), 1.0)), "from 0.05 to 16"),
        (lambda: api.predict(network, [image], stride=(5, 5)), "give window, too"),
        (lambda: api.predict(network, [image[:0]]), r"got uint8 \(0, 30, 3\)"),
        (lambda: api.predict(network, ["tiny.yaml"]), "tiny.yaml: cannot be decoded"),
        (lambda: api.predict(torch.nn.Linear(2, 2), [image]), "Linear is no network of segkd's with a head"),
        (lambda: api.score(run, network="--help"), "--network --help: the recipe has student"),
        (lambda: api.export(run, "segkd", input_size="ab"), "an argument is none that the command takes"),
    ):
        with pytest.raises(ValueError, match=told):
            call()


def test_other_threads_score_and_predict_and_train_nothing(place):
    def go(_):
        with pytest.raises(ValueError, match="--network nobody"):
            api.score("runs/first", network="nobody")
        with pytest.raises(ValueError, match="to the main thread alone; start it there"):
            api.distill("tiny.yaml", name="thread")
        return api.predict("runs/first", [np.zeros((20, 30, 3), np.uint8)])[0].shape

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(go, range(2))) == [(20, 30)] * 2
    assert not Path("runs/thread").exists()


def test_a_score_is_the_one_of_the_run(place):
    assert api.score("runs/first", metrics="boundary")["boundary_miou"] is not None
    run = api.Run("runs/first")
    scores = api.score(run, metrics=["boundary"])
    assert scores["miou"] == run.miou and scores["boundary_miou"] is not None
    assert api.score("runs/first", {"data.args": {"size": [32, 48], "length": 3}})["miou"] != run.miou


def test_classes_of_images_of_any_kind(place):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels[0]).save("one.png")
    network = from_pretrained("runs/first")
    with torch.no_grad():
        scores = network(torch.from_numpy(pixels).permute(0, 3, 1, 2)).resized((40, 56))
    found = api.predict("runs/first", ["one.png", Image.fromarray(pixels[1])])
    assert [np.mean(labels == expected.numpy()) > 0.999 for labels, expected in zip(found, scores.argmax(1))] == [1, 1]
    assert np.array_equal(api.predict(api.load("runs/first"), pixels), found)
    assert np.array_equal(api.predict(network, "one.png"), found[:1]) and found[0].dtype == np.uint8
    opened = Image.open("one.png")
    for _ in range(2):  # decoded the second time
        assert np.array_equal(api.predict(network, [opened])[0], found[0])
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 arrays; got uint8 \(56, 3\)"):
        api.predict(network, pixels[0])


def test_more_classes_than_a_byte_holds_are_refused(place):
    network = api.load("runs/first")
    network.num_classes = 300
    with pytest.raises(ValueError, match="300 classes do not fit into arrays of 8 bits"):
        api.predict(network, [np.zeros((20, 30, 3), np.uint8)])


def test_a_network_sees_images_as_it_was_trained(place):
    network = api.load("runs/first")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    network.resize = (32, 48)
    assert not np.array_equal(api.predict(network, [pixels]), api.predict(network, [pixels], native=True))
    with pytest.raises(ValueError, match="brought to 32 48, as in training, and a window of 64 64 holds them whole"):
        api.predict(network, [pixels], window=(64, 64))
    assert len(api.predict(network, [pixels], window=(64, 64), native=True)) == 1


def test_an_export(place):
    path = api.export(api.Run("runs/first"), "segkd", output=place / "export")
    assert path == place / "export" and from_pretrained(path).num_classes == from_pretrained("runs/first").num_classes
    with pytest.raises(ValueError, match="--to onxn: there are segkd"):
        api.export("runs/first", "onxn")


def test_mistakes_in_a_mapping(recipe):
    with pytest.raises(RecipeError, match=r"the mapping: sede: unknown key, did you mean 'seed'\?"):
        api.distill({**recipe, "sede": 1})
    with pytest.raises(RecipeError, match="command line: schedule.iterations: must be"):
        api.distill(recipe, schedule__iterations=0)
    for given in ({**recipe, "seed": 1j}, recipe):
        with pytest.raises(RecipeError, match="1j cannot stand in a recipe, which has numbers, words, lists"):
            api.distill(given, seed=1j)
    with pytest.raises(FileNotFoundError, match="did you mean 'quickstart'"):
        api.distill("quickstrat")


def test_a_mapping_extends_a_file_and_takes_paths(place):
    values = {"extends": Path("tiny.yaml"), "networks": {"student": {"weights": Path("runs/first")}}, "name": "b"}
    found = read({**values, "tracking": {"folder": place}})
    assert found.networks["student"].weights == "runs/first" and found.folder == place / "b"


def test_who_has_failed_may_try_again(recipe, no_curves):
    """The folder is let go, and the next one computes in its own precision."""
    # the decay alone multiplies every weight by a million a step: no processor's rounding keeps them finite
    diverging = {"optimizer__lr": 1000.0, "optimizer__weight_decay": 1000.0}
    with pytest.raises(FloatingPointError, match="lower optimizer.lr"):
        api.distill(recipe, name="again", schedule__iterations=8, evaluate__every=8, **diverging)
    with pytest.raises(FloatingPointError, match="lower optimizer.lr"):  # nothing was saved: it begins anew
        api.distill(recipe, name="again", schedule__iterations=8, evaluate__every=8, **diverging)
    wrong = {"evaluate__metrics": {"foreground": {"leave_out": ["typo"]}}}
    with pytest.raises(ValueError, match="typo"):
        api.distill(recipe, name="again", overwrite=True, **wrong)
    assert Path("runs/again/environment.json").exists(), "what cannot begin costs no old run"
    assert api.distill(recipe, name="again", schedule__iterations=1, overwrite=True).rows[0]["iteration"] == 1
    state = next(Path("runs/again/checkpoints").glob("step-*/training_state/state.pt"))
    whole = state.read_bytes()
    state.write_bytes(whole[:-9])
    Path("runs/again/report.html").unlink()  # of what is done nothing would be read
    for _ in range(2):  # the second one is not told that this very process trains there
        with pytest.raises(ValueError, match="damaged"):
            api.distill(recipe, name="again", schedule__iterations=1, resume=True)


def test_an_interrupt_saves_and_is_raised(recipe, no_curves, monkeypatch):
    step, done = distill.take_training_step, []

    def interrupted(*given):
        step(*given)
        done.append(given)
        if len(done) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(distill, "take_training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        api.distill(recipe, name="stopped")
    assert len(api.Run("runs/stopped").rows) == 1
    assert len(api.distill(recipe, name="stopped", resume=True).rows) == 4 and len(done) == 4


def test_a_process_that_catches_what_a_training_met_obeys_signals_again(recipe, no_curves, monkeypatch):
    """Whoever calls the loop itself: the test around this one looks at the signals."""

    def broken(*given):
        raise ZeroDivisionError

    monkeypatch.setattr(distill, "take_training_step", broken)
    found = read({**recipe, "name": "broken"}, [])
    with pytest.raises(ZeroDivisionError):
        distill.train([found], start_accelerator(found), resume=False)


def test_the_notebook(place, monkeypatch):
    """Its code runs from the first cell to the last: with few scenes and one iteration a run."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells), "outputs are stripped"
    first, *others = ["".join(cell["source"]) for cell in cells]
    assert "iterations = 360\n" in first
    shown = []
    namespace = {"display": shown.append}
    exec(first.replace("iterations = 360", "iterations = 1"), namespace)
    smaller = {"data.args.length": 8, "data.labelled": "1/4", "data.batch_size": 2, "data.workers": 0}
    namespace["settings"] |= smaller | {"data.crop_size": [64, 64], "tracking.wandb": "disabled"}
    monkeypatch.setenv("MPLBACKEND", "agg")
    for text in others:
        exec(compile(text, NOTEBOOK.name, "exec"), namespace)
    assert namespace["run"].rows[-1]["iteration"] == 1 and len(shown) == 1 and namespace["labels"].shape == (120, 200)
