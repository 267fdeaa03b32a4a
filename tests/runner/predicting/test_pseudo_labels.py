"""The labels that a recipe's teacher makes: of what they are a function, what is kept, what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.runner.building.device import start_accelerator
from segkd.runner.building.networks import build_networks
from segkd.runner.loading.data_sets import build_training_sets, divide
from segkd.runner.predicting.pseudo_labels import make_pseudo_labels
from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read

PSEUDO = """
extends: tiny.yaml
name: pseudo
data:
  args: {length: 9}
  labelled: 4/9
  resize: [48, 64]
  extra: {pseudo: {confidence: 0.18}, weight: 0.5}
networks:
  teacher: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}, train: false, weights: random}
"""


@pytest.fixture
def make(folder, monkeypatch):
    """make("seed=1") makes the labels of PSEUDO so changed; their folder."""
    monkeypatch.chdir(folder)
    (folder / "pseudo.yaml").write_text(PSEUDO)

    def made(*assignments):
        recipe = read("pseudo.yaml", assignments)
        return make_pseudo_labels(recipe, start_accelerator(recipe))

    return made


def contents(labels):
    return {file.name: file.read_bytes() for file in sorted(labels.iterdir())}


def test_labels_are_those_of_a_bare_loop_in_the_size_of_the_images(make):
    recipe, labels = read("pseudo.yaml"), make()
    labelled, rest = divide(recipe)
    teacher = build_networks(recipe, labelled)["teacher"].eval()
    assert len(rest) == 5 and sorted(contents(labels)) == sorted(f"{rest.name(index)}.png" for index in range(5))
    ignored = []
    for index in range(5):
        image = rest[index][0].resize((64, 48), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        with torch.no_grad():
            confidence, classes = teacher(pixels).resized((32, 48)).softmax(1).max(1)
        wanted = torch.where(confidence >= 0.18, classes, 255)[0].numpy()
        found = np.array(Image.open(labels / f"{rest.name(index)}.png"))
        assert found.shape == wanted.shape and (found == wanted).mean() > 0.98  # the resize of images rounds otherwise
        ignored.append((found == 255).mean())
    assert 0 < np.mean(ignored) < 1
    train_set, _ = build_training_sets(recipe, labels)
    assert len(train_set) == 9 and np.array(train_set[8][1]).tobytes() == found.tobytes()


@pytest.mark.parametrize("kept", [[], ["data.extra.pseudo.share=0.5", "data.extra.pseudo.confidence=null"]])
def test_what_is_there_stays_and_what_is_missing_is_made_as_before(make, kept):
    labels = make(*kept)
    before, files = contents(labels), sorted(labels.iterdir())
    times = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    (labels / ".1.half.png").write_bytes(b"cut off")
    assert make(*kept) == labels
    assert {name: one for name, one in contents(labels).items() if name[0] != "."} == before
    again = [file.stat().st_mtime_ns for file in files]
    assert [index for index in range(5) if again[index] != times[index]] == [1]
    for _ in range(2):  # from pixels that are kept, too
        given = make(*kept, "data.cache=disk", "data.extra.pseudo.folder=given")
        assert contents(given) == before
        next(given.iterdir()).unlink()


def test_another_teacher_images_or_threshold_make_other_labels_and_are_refused_in_a_folder_given_by_hand(make):
    others = {
        "networks.teacher.args.width=8": "of another teacher",
        "data.args.seed=3": "of other images",
        "data.extra.pseudo.confidence=0.19": "that another threshold has kept",
        "evaluate.flip=true": "of images that were predicted in another way",
    }
    first = make()
    assert len({first, *map(make, others)}) == 5
    given = "data.extra.pseudo.folder=given"
    assert contents(make(given)) == contents(first)
    for assignment, words in others.items():
        with pytest.raises(ValueError, match=f"data.extra.pseudo.folder: given holds labels {words}"):
            make(given, assignment)
    (first.parents[2].parent / "given/description.json").unlink()
    with pytest.raises(ValueError, match="given holds labels, and nothing there says whose"):
        make(given)
    (first.parents[2].parent / "begun/labels").mkdir(parents=True)  # whoever made it was ended before it said whose
    assert contents(make("data.extra.pseudo.folder=begun")) == contents(first)


@pytest.mark.parametrize("assignments, told", [
    (["data.extra={}"], "data.extra: must have either images and labels, or pseudo"),
    (["data.extra.labels=here"], "data.extra: must have either images and labels, or pseudo"),
    (["data.labelled=null"], "data.extra: no image is left over; say with data.labelled which have labels"),
    (["data.batch_size=1"], "data.extra: a batch of one image cannot have images of both kinds"),
    (["data.mix={kind: class_paste}"], "data.extra.weight: data.mix pastes images of both kinds into each other"),
    (["data.extra.pseudo.network=techer"], "data.extra.pseudo.network: there is no network 'techer', did you mean"),
    (["data.extra.pseudo.network=student"], "data.extra.pseudo.network: student is trained, an average or prompted"),
    (["data.extra.pseudo.share=0.5"], "data.extra.pseudo.share: either a confidence or a share of each class decides"),
    (["data.extra.share=1"], "data.extra.share: must be less than 1"),
    (["networks.teacher.cache={}", "losses=[{loss: kl}]"], "data.extra: the images are no part of teacher's cache"),
])  # fmt: skip
def test_mistakes(make, assignments, told):
    with pytest.raises(RecipeError) as caught:
        read("pseudo.yaml", assignments)
    assert any(told in mistake for mistake in caught.value.mistakes), caught.value.mistakes
