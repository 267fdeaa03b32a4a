"""The settings that a report shows: what is not a default, of sections and of parts alike."""

from segkd.runner.recipe.chosen import chosen
from segkd.runner.recipe.read import read


def test_what_is_not_a_default_is_told(folder):
    told = chosen(read(folder / "tiny.yaml"))
    assert told == {
        "data.dataset": "synthetic",
        "data.args.size": "[32, 48]",
        "data.args.length": "15",
        "data.crop_size": "[32, 32]",
        "data.batch_size": "4",
        "data.workers": "0",
        "networks.student.model": "pspnet",
        "networks.student.args.backbone": "mobilenetv2_035",
        "networks.student.args.output_stride": "16",
        "networks.student.args.width": "8",
        "losses.cross_entropy.loss": "cross_entropy",
        "optimizer.lr": "0.02",
        "schedule.iterations": "4",
        "evaluate.every": "2",
        "evaluate.batch_size": "5",
        "tracking.wandb": "disabled",
        "tracking.images": "1",
        "tracking.every": "2",
    }


def test_terms_stand_under_their_labels_and_parts_without_arguments_are_there(folder):
    teacher = "networks.teacher={source: timm, model: resnet18, weights: random, train: false}"
    losses = "losses=[{loss: cross_entropy, args: {aux_weight: 0.4}}, {loss: kl, label: far, args: {temperature: 4.0}}]"
    changes = (teacher, losses, "data.mix={}", "data.transform.flip=0.5", "evaluate.metrics=[boundary]")
    told = chosen(read(folder / "tiny.yaml", changes)).items()
    assert told >= {
        "networks.teacher.source": "timm", "networks.teacher.model": "resnet18", "losses.far.loss": "kl",
        "losses.far.args.temperature": "4.0", "data.mix": "{}", "evaluate.metrics.boundary": "{}",
    }.items()  # fmt: skip
    # written out in the recipe, but the default all the same
    assert not [key for key, _ in told if "aux_weight" in key or "transform" in key or key.endswith("label")]
