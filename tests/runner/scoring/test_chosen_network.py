"""Which network a score is of: a run's, a folder's, another code's file, several at once, one with a prompt."""

import json
import shutil

import pytest
import torch

from segkd.models._network import Network
from segkd.models._prediction import Prediction
from segkd.runner.loading.data_sets import build_dataset
from segkd.runner.recipe.read import read
from segkd.runner.scoring import chosen_network
from segkd.runner.scoring.chosen_network import GivenWeights, choose_network

NETWORK = "{model: pspnet, args: {backbone: mobilenetv2_035, width: 8}"


class Flat(Network):
    """Gives each class one score everywhere: 1 for its own class, or for the one it is prompted with."""

    def __init__(self, own, num_classes):
        super().__init__(num_classes, normalize="none")
        self.own, self.prompts = own, []

    def forward(self, images, prompt=None):
        self.prompts.append(prompt)
        logits = torch.zeros(len(images), self.num_classes, *images.shape[-2:])
        logits[:, self.own] = 1
        return Prediction(logits)


@pytest.fixture
def flat(monkeypatch, folder):
    """The recipe's networks replaced by Flat ones, and what choose_network finds."""
    built = {}

    def build(name, entry, num_classes, *rest, trust):
        return built.setdefault(name, Flat(len(built), num_classes))

    monkeypatch.setattr(chosen_network, "build_network", build)

    def find(words, *assignments, weights=GivenWeights()):
        recipe = read(folder / "tiny.yaml", assignments)
        return choose_network(words, recipe, build_dataset(recipe, "val"), recipe.folder, weights)

    return find, built


TEACHER = (f"networks.teacher={NETWORK}, weights: there, train: false}}",
           "losses=[{loss: cross_entropy}, {loss: kl, from: teacher}]")  # fmt: skip


def test_the_mean_of_several_is_of_their_probabilities(flat):
    find, built = flat
    network, origin = find("student+teacher", *TEACHER)
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    mean = sum(built[name](images).logits.softmax(1) for name in ("student", "teacher")) / 2
    torch.testing.assert_close(network(images).logits.exp(), mean)
    assert origin == "runs/tiny and there" and len(list(network.modules())) > 4


def test_a_prompted_network_gets_its_prompt(flat):
    find, built = flat
    network, _ = find("teacher", *TEACHER, "networks.teacher.prompted_by=student")
    logits = network(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).logits
    assert torch.equal(logits.argmax(1), torch.full((2, 8, 8), built["teacher"].own))
    assert built["student"].prompts == [None] and built["teacher"].prompts[0] is not None


@pytest.mark.parametrize("words, weights, told", [
    ("teachr", GivenWeights(), "--network teachr: the recipe has student, teacher, did you mean 'teacher'"),
    ("student+teacher", GivenWeights("there"), "--weights are of one network, and --network student+teacher asks for 2"),
    ("student", GivenWeights(part="student"), "name the file with --weights"),
])  # fmt: skip
def test_what_was_asked_wrongly_is_one_sentence(flat, words, weights, told):
    with pytest.raises(ValueError, match=told.replace("+", r"\+")):
        flat[0](words, *TEACHER, weights=weights)


def test_a_run_folder_a_student_folder_and_several_networks(trained, server, folder):
    student = trained("tiny").path / "student"
    teacher = (
        f"networks.teacher={NETWORK.replace('width', 'output_stride: 16, width')}, weights: runs/tiny, train: false}}"
    )
    trained("kl", teacher, "losses=[{loss: cross_entropy}, {loss: kl, from: teacher}]")

    def score(*arguments):
        result = server(
            folder, "score", *arguments, "--output", "scores.json", "--overwrite", "--metrics", "calibration"
        )
        assert result.code == 0, result.err
        return json.loads((folder / "scores.json").read_text())["calibration_error"]

    alone = score("runs/tiny")
    assert alone == score("runs/tiny/student") == score("runs/kl", "--network", "teacher")
    shutil.copytree(student, folder / "lone")
    # whatever the recipe's student is, a folder that describes its network is built from that
    assert alone == score("tiny.yaml", "networks.student.args.width=16", "--weights", "lone")
    assert alone == score("runs/kl", "--weights", "lone/model.safetensors", "--layout", "segkd")
    assert score("runs/kl", "--network", "student+teacher") not in (alone, score("runs/kl"))
    shutil.move(folder / "runs/kl", folder / "moved")
    assert score("moved") == score("moved", "--weights", "moved")
