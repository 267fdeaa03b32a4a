"""Which nodes stay in float follows from what an INT8 file loses, and from what it may lose."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segkd.models._int8 import in_float
from segkd.runner.building.delivered import Delivered
from segkd.runner.building.networks import build_network
from segkd.runner.exporting import int8
from segkd.runner.exporting.agreement import Export
from segkd.runner.exporting.int8 import Wish, spread, train_in_int8, write_int8
from segkd.runner.exporting.quantization import Sensitivity
from segkd.runner.loading.data_sets import build_dataset
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.run_folder.pretrained import from_pretrained
from segkd.runner.scoring.evaluation import Evaluation
from segkd.runner.scoring.program import OtherSize

LOST = {0: 3.0, 1: 2.0, 2: 1.5, 4: 0.7}  # points of mIoU by how many nodes are in float


@pytest.fixture
def write(folder, monkeypatch):
    """write(Wish()) as an INT8 file of ten nodes would be made, with what is scored and written in a list."""
    steps = []

    class Ranked:
        def __init__(self, file, folder, images, calibration, *, symmetric, learned):
            self.nodes = [f"n{index}" for index in range(10)]
            steps.append((calibration, symmetric, len(images)))

        def write(self, path, *, kept=()):
            steps.append(len(kept))

        def sensitivities(self):
            return [Sensitivity(f"n{index}", 0.5 / (index + 1), 1.0) for index in range(10)]

    def score(file, val_set, *rest):
        lost = 0 if file.name == "float32.onnx" else LOST.get(steps[-1], 0.6)
        return Evaluation({}, {"miou": 0.5 - lost / 100}, {}, [""] * len(val_set))

    def write_float(network, file, size, **settings):
        file.touch()
        return Export(None, None, "any size")

    def load(file):
        program = SimpleNamespace(name=file.name)
        program.to = lambda device: program
        return program

    monkeypatch.setattr(int8, "load_program", load)
    monkeypatch.setattr(int8, "seen_images", lambda network, dataset, recipe: [None] * len(dataset))
    for name, fake in (("evaluate", score), ("write_onnx", write_float), ("Quantizer", Ranked),
                       ("tell", lambda *_: None), ("told_of", lambda _: {})):  # fmt: skip
        monkeypatch.setattr(int8, name, fake)
    run = SimpleNamespace(read_recipe=lambda: read(folder / "tiny.yaml"))
    return lambda wish: (write_int8(Delivered(None, {}, run), folder / "x.onnx", (32, 48), wish).loss, steps)


def test_as_few_nodes_as_needed_stay_in_float(write, capsys):
    loss, steps = write(Wish(images=3, calibration="entropy", symmetric=True, max_loss=1.0, val_images=5))
    assert steps == [("entropy", True, 3), 0, 1, 2, 4]
    assert [one.node for one in loss.kept] == ["n0", "n1", "n2", "n3"] and loss.points == pytest.approx(0.7)
    assert "49.30 % mIoU on 5 images, in float 50.00 %; 4 of 10 nodes stay in float" in str(loss)
    assert "n1 stays in float: alone in INT8 it changes the class of 25.00 % of the pixels" in str(loss)
    assert "INT8 loses 3.00 points of mIoU with 0 nodes in float" in capsys.readouterr().out


def test_none_stays_in_float_where_all_of_it_may_be_lost(write):
    loss, steps = write(Wish(max_loss=3.5))
    assert loss.kept == [] and steps == [("minmax", False, 15), 0] and len(loss.int8.names) == 15


def test_too_much_is_one_sentence(write):
    with pytest.raises(ValueError, match=r"loses 0.60 points of mIoU with 5 of 10 nodes in float \(--max-loss 0.5\)"):
        write(Wish(max_loss=0.5))


def test_images_of_another_size_are_told_in_words_of_the_export(write, monkeypatch):
    def refuse(*_):
        raise OtherSize("/tmp/x/float32.onnx takes images of 32x48 only", (30, 40))

    monkeypatch.setattr(int8, "evaluate", refuse)
    with pytest.raises(
        ValueError, match="takes any size: 32 48. Among them are some of 30 40: give --input-size 30 40"
    ):
        write(Wish())


def test_a_student_without_its_run_has_no_training_images(folder):
    with pytest.raises(ValueError, match="--int8 needs the images the network was trained on"):
        write_int8(Delivered(None, {}, None), folder / "x.onnx", (32, 48), Wish())


def test_a_run_goes_on_in_int8_as_one_of_its_own(folder, deliver, monkeypatch):
    monkeypatch.chdir(folder)
    run, commands = RunFolder(Path("runs/tiny")), []
    deliver(run.student.path, [f"class {index}" for index in range(8)])
    run.recipe_file.write_text(
        read(
            "tiny.yaml",
            [
                "schedule.warmup=3",
                "schedule.min_lr=0.001",
                "networks.student.args.pretrained=true",
                "networks.student.optimizer={lr: 0.5}",
            ],
        ).dump()
    )
    monkeypatch.setattr(int8.subprocess, "run", lambda words: commands.append(words) or SimpleNamespace(returncode=0))
    assert train_in_int8(run, 3) == Path("runs/tiny-int8")
    _, script, source, *words, again = commands.pop()
    recipe = read(source, words)
    assert (Path(script).name, again) == ("distill.py", "--resume")
    assert (recipe.name, recipe.schedule.iterations) == ("tiny-int8", 3)
    assert recipe.networks["student"].optimizer.lr == pytest.approx(0.05)
    assert (recipe.schedule.min_lr, recipe.schedule.warmup) == (pytest.approx(0.0001), 0)
    assert recipe.optimizer.lr == pytest.approx(0.002) and recipe.losses == read("tiny.yaml").losses
    network = build_network("student", recipe.networks["student"], 8, recipe.seed)
    expected = from_pretrained(run.path)
    assert in_float(network) == {}, "no range is known before the first batch"
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in network.state_dict().items())
    (folder / "runs/tiny-int8/checkpoints/step-00000002").mkdir(parents=True)
    (folder / "runs/tiny-int8/recipe.yaml").write_text(recipe.dump())
    monkeypatch.setattr(int8.subprocess, "run", lambda words: commands.append(words) or SimpleNamespace(returncode=3))
    with pytest.raises(ValueError, match="in runs/tiny-int8 did not come to its end; the same command goes on with it"):
        train_in_int8(run, 3)
    assert commands.pop()[-1] == "--resume"
    with pytest.raises(
        ValueError, match="holds the run of another recipe; they differ in schedule.iterations: 3 there, 4"
    ):
        train_in_int8(run, 4)


def test_images_are_spread_over_the_split(folder):
    dataset = build_dataset(read(folder / "tiny.yaml"), "val")
    assert spread(dataset, 3).indices == [0, 7, 14] and spread(dataset, 15) is dataset is spread(dataset, None)
