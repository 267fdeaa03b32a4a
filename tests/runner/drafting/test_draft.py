"""Recipes that are drafted: they read, nothing is written over, and two commands lead to a trained student."""

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.runner.drafting import draft as drafting
from segkd.runner.drafting import plan
from segkd.runner.drafting.draft import draft
from segkd.runner.recipe.read import read

TINY = {"teacher": "mobilenetv2_050", "student": "mobilenetv2_035"}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Ten photographs with accents in their names, painted masks in a folder beside them, no splits."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for folder in ("Meine Fotos/bilder", "Meine Fotos/masks"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(10):
        picture = draw.integers(0, 256, (32, 48, 3)).astype(np.uint8)
        mask = np.zeros((32, 48, 3), np.uint8)
        mask[:, number:24] = (9, 8, 7)
        ending = ("jpg", "JPG", "png")[number % 3]
        Image.fromarray(picture).save(
            f"Meine Fotos/bilder/Foto {number} ä.{ending}", "JPEG" if number % 3 < 2 else "PNG"
        )
        Image.fromarray(mask).save(f"Meine Fotos/masks/Foto {number} ä.png")
    return tmp_path


def options(**changes):
    return {"output": None, "iterations": None, **TINY, **changes}


def test_a_recipe_and_one_for_its_teacher(photos, capsys):
    draft("Meine Fotos", **options())
    recipe, teacher = read("meine-fotos.yaml"), read("meine-fotos_teacher.yaml")
    assert recipe.data == teacher.data and (recipe.name, teacher.name) == ("meine-fotos", "meine-fotos-teacher")
    assert recipe.data.args["colors"] == {"background": [0, 0, 0], "foreground": [9, 8, 7]}
    assert recipe.data.crop_size == (32, 48) and recipe.data.resize is None and recipe.schedule.iterations == 600
    assert recipe.networks["teacher"].args == teacher.networks["student"].args
    assert recipe.networks["teacher"].title == "deeplabv3plus mobilenetv2_050" and not recipe.networks["teacher"].train
    assert recipe.networks["student"].args["backbone"] == "mobilenetv2_035"
    out = capsys.readouterr().out
    assert "saw       10 images like bilder/{name}.* with masks like masks/{name}.*" in out
    assert "python runner/distill.py meine-fotos.yaml" in out
    head = (photos / "meine-fotos.yaml").read_text()
    assert head.startswith("# A small network for the images in Meine Fotos") and "name=meine-fotos-alone" in head
    assert "segkd" not in head.split("extends")[0].replace("[imagenet]", "")


def test_nothing_is_written_over(photos):
    (photos / "mine_teacher.yaml").write_text("mine")
    with pytest.raises(ValueError, match="mine_teacher.yaml is there already; name another file with --output"):
        draft("Meine Fotos", **options(output="mine.yaml"))
    assert (photos / "mine_teacher.yaml").read_text() == "mine" and not (photos / "mine.yaml").exists()
    with pytest.raises(ValueError, match="--output mine: give the recipe a name that ends in .yaml"):
        draft("Meine Fotos", **options(output="mine"))
    with pytest.raises(ValueError, match="^--student nonsense: must be 'resnet18'"):  # which leaves nothing behind
        draft("Meine Fotos", **options(output="new.yaml", student="nonsense"))
    assert not list(photos.glob("new*"))


def test_images_that_are_large_or_differ_are_brought_to_one_size(photos, monkeypatch):
    monkeypatch.setitem(plan.PIXELS, "cpu", 32 * 32)
    draft("Meine Fotos", **options(output="small.yaml"))
    recipe = read("small.yaml")
    assert recipe.data.resize == recipe.data.crop_size == (32, 32) and recipe.evaluate.batch_size == 8
    monkeypatch.setitem(plan.PIXELS, "cpu", 10**6)
    for folder in ("bilder", "masks"):
        path = next((photos / "Meine Fotos" / folder).glob("Foto 0 *"))
        Image.open(path).resize((40, 40), Image.Resampling.NEAREST).save(path)
    draft("Meine Fotos", **options(output="mixed.yaml"))
    assert read("mixed.yaml").data.resize is None and read("mixed.yaml").evaluate.batch_size == 1


def test_a_teacher_that_is_there_needs_no_recipe(photos, deliver):
    deliver(photos / "their teacher", ["background", "foreground"])
    draft("Meine Fotos", **options(output="one.yaml", teacher="their teacher"))
    recipe = read("one.yaml")
    assert recipe.networks["teacher"].weights == "their teacher" and not list(photos.glob("one_teacher*"))
    assert recipe.name == "one" and recipe.losses[1].loss == "kl"


def test_a_teacher_with_classes_of_its_own(photos, deliver, capsys):
    deliver(photos / "driver", ["road", "Foreground, thing", "sky"])
    draft("Meine Fotos", **options(output="names.yaml", teacher="driver"))
    assert read("names.yaml").networks["teacher"].class_map == "names"
    deliver(photos / "stranger", ["road", "car", "sky"])
    with pytest.raises(ValueError, match="stranger has 3 classes and the images have 2.*--class-map THEIRS=OURS"):
        draft("Meine Fotos", **options(output="given.yaml", teacher="stranger"))
    deliver(photos / "gardener", ["background", "tree"])
    with pytest.raises(ValueError, match="gardener has 2 classes .*But for the background, no name is the same"):
        draft("Meine Fotos", **options(output="given.yaml", teacher="gardener"))
    with pytest.raises(ValueError, match="'cra' is none of the network's classes; did you mean 'car'"):
        draft("Meine Fotos", **options(output="given.yaml", teacher="stranger"), class_map={"cra": "foreground"})
    given = {"car": "foreground", "road": "background", "2": "background"}
    draft("Meine Fotos", **options(output="given.yaml", teacher="stranger"), class_map=given)
    assert read("given.yaml").networks["teacher"].class_map == given
    with pytest.raises(ValueError, match="--class-map is for a teacher that is trained"):
        draft("Meine Fotos", **options(output="none.yaml"), class_map=given)


def test_the_share_that_is_scored_is_met_as_well_as_it_can_be(photos):
    found, train_set, val_set = drafting._built(drafting.find_data("Meine Fotos"))
    assert len(val_set) == 2 and len(train_set) == 8
    assert "no splits" in found.said[-1] and "%" not in found.said[-1], "the share that is written may be another"
    for path in [*photos.glob("Meine Fotos/*/*")]:
        if " 0 " not in path.name:
            path.unlink()
    with pytest.raises(ValueError, match="too few images to train on some and to score others"):
        drafting._built(drafting.find_data("Meine Fotos"))


@pytest.mark.parametrize("student", ["timm/test_convnext", "mit_b0"])
def test_encoders_that_have_one_stride(photos, student):
    draft("Meine Fotos", **options(output="other.yaml", student=student))
    assert read("other.yaml").networks["student"].args["output_stride"] == 32


def test_names_that_look_like_numbers_stay_names(photos):
    draft("Meine Fotos", **options(output="2024.yaml"))
    assert (read("2024.yaml").name, read("2024_teacher.yaml").name) == ("2024", "2024-teacher")


def test_the_student_without_its_teacher_is_what_its_gain_is_over(photos):
    draft("Meine Fotos", **options(output="one.yaml"))
    alone = read("one.yaml", ["name=one-alone", "losses.kl.weight=0"])
    assert alone.learns_alone and alone.method_name == "none"
    assert not read("one.yaml").learns_alone and read("one.yaml").method_name == "kl"
    ramp = read("one.yaml", ["losses.kl.weight={start: 0.0, end: 1.0, over: [0, 100]}"])
    assert not ramp.learns_alone


def test_two_commands_from_a_folder_to_a_student(photos, server):
    made = server(photos, "recipes", "new", "--data", "Meine Fotos", "--teacher", TINY["teacher"], "--student",
                  TINY["student"], "--iterations", "1")  # fmt: skip
    assert made.code == 0, made.err
    trained = server(photos, "distill", "meine-fotos.yaml", "tracking.wandb=disabled", "tracking.images=0",
                     "data.workers=0")  # fmt: skip
    assert trained.code == 0, trained.err
    assert (photos / "runs/meine-fotos/student/model.safetensors").exists()
    assert "student, meine-fotos" in trained.out
    checked = server(photos, "check", "meine-fotos.yaml")
    assert checked.code == 0 and "warning" not in checked.out.lower(), checked.out
    assert "verdict   this recipe will run" in checked.out


def test_a_teacher_that_is_misspelt_is_told_by_its_option(photos):
    for word in ("techer.pth", "runs/nothere"):
        with pytest.raises(
            ValueError, match=f"^--teacher {word}: there is no such file or folder, and an encoder must be"
        ):
            draft("Meine Fotos", **options(teacher=word))
    assert not list(photos.glob("*.yaml"))
    with pytest.raises(
        ValueError, match="got 'them/their-b0'; if it is on the Hub, give .*download them/their-b0 --lo"
    ):
        draft("Meine Fotos", **options(teacher="them/their-b0"))


@pytest.fixture
def published(photos):
    """published(folder, names) leaves a MobileNetV2 with a segmentation head as transformers writes it."""
    transformers = pytest.importorskip("transformers")

    def made(folder, names, kind="MobileNetV2ForSemanticSegmentation"):
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
        config = transformers.MobileNetV2Config(depth_multiplier=0.35, **labels)
        getattr(transformers, kind)(config).save_pretrained(photos / folder)

    return made


@pytest.mark.parametrize("folder, given", [
    ("hf/theirs", "hf/theirs"), ("theirs", "theirs/model.safetensors"), ("my teacher", "my teacher"),
])  # fmt: skip
def test_a_folder_of_transformers_is_a_teacher(photos, published, folder, given):
    published(folder, ["sky", "foreground", "tree"])
    draft("Meine Fotos", **options(output="one.yaml", teacher=given))
    teacher = read("one.yaml").networks["teacher"]
    assert (teacher.source, teacher.model, teacher.train, teacher.class_map) == ("hf", folder, False, "names")
    assert not list(photos.glob("one_teacher*"))


def test_a_folder_of_transformers_with_other_classes(photos, published):
    published("theirs", ["sky", "car", "tree"])
    with pytest.raises(ValueError, match="theirs has 3 classes and the images have 2.*--class-map THEIRS=OURS"):
        draft("Meine Fotos", **options(output="one.yaml", teacher="theirs"))
    given = {"sky": "background", "car": "foreground"}
    draft("Meine Fotos", **options(output="one.yaml", teacher="theirs"), class_map=given)
    assert read("one.yaml").networks["teacher"].class_map == given
    published("encoder", ["sky", "car"], "MobileNetV2ForImageClassification")
    with pytest.raises(
        ValueError, match="^--teacher encoder: .* no segmentation head.*recipes.* suggest --teacher enc"
    ):
        draft("Meine Fotos", **options(output="two.yaml", teacher="encoder"))


def test_weights_that_tell_no_network_are_told_by_their_option(photos):
    torch.save({"some": torch.zeros(2)}, "odd.pth")
    with pytest.raises(ValueError, match="^--teacher odd.pth: odd.pth tells no network"):
        draft("Meine Fotos", **options(teacher="odd.pth"))
