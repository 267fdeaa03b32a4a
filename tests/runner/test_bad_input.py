"""What a user can get wrong: one screen saying what, where and what to do, exit code 2, and nothing saved is lost."""

import os
import pickle
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TEACHER = "networks.teacher={model: deeplabv3, args: {backbone: resnet18, output_stride: 16, width: 8}, train: false, weights: random}"
CLASSES = "args: {class_names: [a, b, c]}"
FOLDER = f"data={{dataset: folder, root: data, {CLASSES}, crop_size: [32, 32], batch_size: 4, workers: 1}}"


def make_images(folder: Path, count: int = 6) -> None:
    """data/{train,val}/{images,labels}: noise with three classes."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / "data" / split / kind).mkdir(parents=True)
        for number in range(count):
            pixels, label = draw.integers(0, 256, (40, 48, 3), np.uint8), draw.integers(0, 3, (40, 48), np.uint8)
            Image.fromarray(pixels).save(folder / "data" / split / f"images/{number}.png")
            Image.fromarray(label).save(folder / "data" / split / f"labels/{number}.png")


@pytest.mark.parametrize("arguments, words", [
    (["optimizer.lr=fast", "data.batch_size=2.5", "networks.student.width=3"],
     ["3 mistakes", "command line: optimizer.lr", "'fast'", "data.batch_size", "2.5",
      "networks.student.width: unknown key"]),
    (["networks.student.model=pspent"], ["no models/pspent.py, did you mean 'pspnet'?", "deeplabv3"]),
    ([TEACHER, "losses=[{loss: cross_entropy}, {loss: fitnet, args: {feature: stage9}}]"],
     ["losses.1 (fitnet)", "networks.student has no feature 'stage9'", "stage4"]),
    (["data.dataset=camvid", "data.args={}", "data.root=nowhere"],
     ["data.root: there is no folder nowhere (nowhere/train: no such folder", "Expected layout"]),
    (["data.dataset=camvid", "data.args={}"], ["data.root is missing; say where camvid lies", "Expected layout"]),
    (["data.transform={scale_range: [2.0, 0.5]}"], ["scale_range"]),
    (["data.args={size: [8, 8]}"], ["size", "greater than or equal to 32"]),
    (["data.val_split=validation"], ["no split called 'validation'", "train, val"]),
    (["networks.student.weights=nowhere.pth"], ["no weights at nowhere.pth"]),
    (["networks.student.normalize=imagnet"], ["imagnet", "'imagenet', 'cirkd'"]),
    (["evaluate.mode=slide", "evaluate.stride=[40, 40]"], ["stride: [40, 40]", "the window, [32, 32]"]),
    (["data.batch_size=1"], ["batch"]),
])  # fmt: skip
def test_a_wrong_recipe(distill, folder, arguments, words, assert_refused):
    assert_refused(distill("tiny.yaml", *arguments), *words)
    if "batch_size=1" not in arguments[0] and "slide" not in arguments[0]:  # those two show when the networks run
        assert not (folder / "runs").exists(), "a start that failed leaves no run folder"


@pytest.mark.parametrize("text, words", [
    ("name: !!python/object/apply:os.system ['touch exploded']\n", ["bad.yaml:1"]),
    ("name: a\n  b: [\n", ["bad.yaml:2", "not valid YAML"]),
    ("extends: missing.yaml\n", ["there is no recipe file missing.yaml", "bad.yaml"]),
])  # fmt: skip
def test_a_file_that_is_no_recipe(distill, folder, text, words, assert_refused):
    (folder / "bad.yaml").write_text(text)
    assert_refused(distill("bad.yaml"), *words)
    assert not (folder / "exploded").exists()


def test_no_recipe_and_the_traceback_under_debug(distill, assert_refused):
    assert_refused(distill("nowhere.yaml"), "there is no recipe file nowhere.yaml")
    shown = distill("nowhere.yaml", "--debug")
    assert shown.code != 0 and "Traceback" in shown.err and "there is no recipe file nowhere.yaml" in shown.err


def save(file: Path, level: int, shape: tuple[int, ...]) -> None:
    Image.fromarray(np.full(shape, level, np.uint8)).save(file)


def make_second_size(image: Path, label: Path) -> None:
    for kind, shape in (("images", (32, 32, 3)), ("labels", (32, 32))):
        save(image.parents[2] / f"val/{kind}/1.png", 0, shape)


@pytest.mark.parametrize("damage, words", [
    (lambda image, label: image.write_bytes(b""), ["data/train/images/3.png", "cannot be decoded"]),
    (lambda image, label: image.write_bytes(image.read_bytes()[:2000]), ["train/images/3.png", "cannot be decoded"]),
    (lambda image, label: label.write_bytes(label.read_bytes()[:200]), ["train/labels/3.png", "cannot be decoded"]),
    (lambda image, label: save(label, 7, (40, 48)), ["train/labels/3.png", "label ids 7 are not allowed", "0..2"]),
    (lambda image, label: save(label, 0, (20, 24)), ["train/images/3.png is 40x48", "labels/3.png is 20x24"]),
    (lambda image, label: save(label, 0, (40, 48, 3)), ["data/train/labels/3.png", "colors: {background: [0, 0, 0]"]),
    (lambda image, label: label.unlink(), ["labels/3.png does not exist"]),
    (lambda image, label: shutil.rmtree(image.parents[2] / "val/images"), ["data/val/images: no such folder"]),
    (make_second_size, ["evaluate.batch_size"]),
    (lambda image, label: shutil.copyfile(image, image.parents[2] / "val/images/1.png"),
     ["1 of the 6 images to score (val) are also trained on", "a copy of data/train/images/3.png", "allow_overlap=true"]),
    (lambda image, label: [save(file, 1, (40, 48)) for file in label.parent.iterdir()],
     ["in the labels of 6 training images every pixel that counts is 'b'", "check the label folder"]),
    (lambda image, label: (image.unlink(), os.mkfifo(image)), ["train/images/3.png: is a FIFO and no file"]),
], ids=["empty image", "truncated image", "truncated label", "id out of range", "label of another size",
        "coloured label", "missing label", "missing folder", "images of two sizes", "an image of both splits",
        "labels of one class", "a FIFO"])  # fmt: skip
def test_damaged_data(distill, folder, damage, words, assert_refused):
    make_images(folder)
    damage(folder / "data/train/images/3.png", folder / "data/train/labels/3.png")
    assert_refused(distill("tiny.yaml", FOLDER), *words)


def test_teacher_and_student_of_different_class_counts(distill, folder, assert_refused):
    make_images(folder)
    assert distill("tiny.yaml", "name=eight", "schedule.iterations=1").code == 0
    teacher = TEACHER.replace("deeplabv3", "pspnet").replace("resnet18", "mobilenetv2_035")
    teacher = teacher.replace("weights: random", "weights: runs/eight")
    result = distill("tiny.yaml", FOLDER, "losses=[{loss: cross_entropy}, {loss: kl}]", teacher)
    told = "has 8 classes and the data set has 3; say with class_map", "{its name or number: ours}"
    assert_refused(result, "networks.teacher: runs/eight/student", *told)


def test_weights_of_another_network_and_damaged_or_dangerous_ones(distill, folder, assert_refused, explosive):
    assert distill("tiny.yaml", "schedule.iterations=1").code == 0
    good = (folder / "runs/tiny/student/model.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(good[: len(good) // 2])
    (folder / "code.pth").write_bytes(pickle.dumps({"state_dict": explosive}))
    for weights, words in (
        ("runs/tiny", ["runs/tiny was trained as pspnet mobilenetv2_035, the recipe says deeplabv3"]),
        ("cut.safetensors", ["cut.safetensors", "truncated?"]),
        ("code.pth", ["code.pth", "no file of weights"]),
    ):
        other = ("name=other", "networks.student.model=deeplabv3", f"networks.student.weights={weights}")
        assert_refused(distill("tiny.yaml", *other), *words)
    assert not (folder / "exploded").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_saved(distill, folder, assert_refused):
    steps = ["schedule={iterations: 6, name: constant}", "loop.save_every=1", "evaluate.every=6", "tracking.every=1"]
    steps += ["optimizer.lr=1000.0", "optimizer.weight_decay=1000.0"]
    result = distill("tiny.yaml", *steps, "data.workers=2")
    assert_refused(result, "the loss of iteration", "cross_entropy = nan", "lower optimizer.lr", "nan.json")
    assert (folder / "runs/tiny/checkpoints/step-00000001/training_state/state.pt").is_file()
    assert (folder / "runs/tiny/nan.json").is_file() and "NaN" not in (folder / "runs/tiny/metrics.jsonl").read_text()


def stopped_after(server, folder: Path, step: int) -> Path:
    """A run stopped by a signal after iteration `step` or the one behind it; its last checkpoint."""
    run = folder / "runs/tiny"
    server.start(folder, "distill", "tiny.yaml", "schedule.iterations=12", "loop.save_every=1", "evaluate.every=12")
    server.wait_for(f"runs/tiny/checkpoints/step-{step:08d}")
    server.signal(signal.SIGTERM)
    assert server.wait().code == 143
    return (run / "checkpoints/last").resolve()


def test_a_full_disk_loses_nothing(distill, server, folder, assert_refused):
    last = stopped_after(server, folder, 2)
    before = {path: path.read_bytes() for path in last.rglob("*") if path.is_file()}
    going_on = ["tiny.yaml", "schedule.iterations=12", "loop.save_every=1", "evaluate.every=12", "--resume"]
    # a limit on the size of a file stops a write half-way, as a full disk does
    assert_refused(distill(*going_on, file_limit=300_000), "could not be written", "make room and go on with --resume")
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (folder / "runs/tiny/checkpoints/last").resolve() == last
    assert distill(*going_on).code == 0


@pytest.mark.parametrize("damage", ["code", "another network's"])
def test_a_damaged_checkpoint_is_named_with_the_way_out(distill, server, folder, damage, assert_refused, explosive):
    last = stopped_after(server, folder, 2)
    state = last / "training_state/state.pt"
    if damage == "another network's":
        assert distill("tiny.yaml", "name=other", "networks.student.model=deeplabv3", "schedule.iterations=1").code == 0
        shutil.copyfile(folder / "runs/other/checkpoints/last/training_state/state.pt", state)
    else:
        state.write_bytes(pickle.dumps(explosive))
    going_on = ["tiny.yaml", "schedule.iterations=12", "loop.save_every=1", "evaluate.every=12", "--resume"]
    assert_refused(
        distill(*going_on), f"{last.name}/training_state/state.pt", f"delete runs/tiny/checkpoints/{last.name}"
    )
    assert not (folder / "exploded").exists()
    shutil.rmtree(last)  # as the message says
    assert distill(*going_on).code == 0
