"""Reading recipes: every mistake of a recipe in one pass, with its place, and defaults written out."""

import copy
import os
import textwrap

import pytest
import yaml

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read
from segkd.runner.recipe.section import OtherRecipe
from segkd.runner.recipe.term import Ramp

PLAIN = """\
name: plain
data: {dataset: synthetic, crop_size: [32, 48], batch_size: 4}
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035}}
losses:
  - {loss: cross_entropy}
schedule: {iterations: 10}
"""
DISTILLED = """\
name: distilled
data: {dataset: synthetic, crop_size: [32, 48], batch_size: 4}
networks:
  student: {model: pspnet, args: {backbone: mobilenetv2_035}}
  teacher: {model: deeplabv3, train: false, weights: somewhere}
losses:
  - {loss: cross_entropy}
  - {loss: kl, weight: {start: 0, end: 1, over: [0, 5]}, args: {temperature: 2.0}}
schedule: {iterations: 10}
"""


def written(folder, text, name="recipe.yaml"):
    file = folder / name
    file.write_text(textwrap.dedent(text))
    return file


def mistakes_of(folder, text, *assignments):
    """The mistakes without the folder in front of the file's name."""
    with pytest.raises(RecipeError) as caught:
        read(written(folder, text), assignments)
    return [mistake.replace(f"{folder}/", "") for mistake in caught.value.mistakes]


def test_defaults_are_written_out(tmp_path):
    recipe = read(written(tmp_path, DISTILLED))
    assert recipe.seed == 0 and recipe.optimizer.name == "sgd" and recipe.evaluate.scales == [1.0]
    assert recipe.networks["student"].args["output_stride"] == 8 and recipe.networks["student"].args["width"] is None
    assert recipe.data.args["size"] == [96, 128] and recipe.data.transform["flip"] == 0.5
    first = recipe.losses[0]
    assert (first.label, first.source, first.of) == ("cross_entropy", None, "student")
    assert recipe.losses[1].source == "teacher" and recipe.losses[1].args["reduction"] == "pixel"
    assert isinstance(recipe.losses[1].weight, Ramp) and recipe.losses[1].weight.hold == 1
    assert str(recipe.folder) == "runs/distilled"


def test_every_mistake_in_one_pass(tmp_path):
    found = mistakes_of(tmp_path, """\
        name: my run
        sede: 3
        data: {dataset: synthetik, crop_size: [32], batch_size: 4.5, transform: {flp: 1}}
        networks:
          student: {modle: pspnet, args: {backbone: resnet19, layers: 3}, model: pspnet}
          teacher: {model: deeplab, train: no way}
        losses:
          - {loss: cross_entropy, weight: lots}
          - {loss: kl, args: {temperature: hot, reduction: pixl}, after: -1}
          - {loss: fitnett}
        optimizer: {name: sdg, lr: 0}
        evaluate: {mode: slides, scales: []}
        """)  # fmt: skip
    places = [mistake.split(": ")[:2] for mistake in found]
    assert places == [
        ["recipe.yaml:1", "name"], ["recipe.yaml:1", "schedule"], ["recipe.yaml:2", "sede"],
        ["recipe.yaml:3", "data.crop_size.1"], ["recipe.yaml:3", "data.batch_size"], ["recipe.yaml:3", "data.dataset"],
        ["recipe.yaml:3", "data.transform.flp"],
        ["recipe.yaml:5", "networks.student.modle"], ["recipe.yaml:5", "networks.student.args.backbone"],
        ["recipe.yaml:5", "networks.student.args.layers"], ["recipe.yaml:6", "networks.teacher.train"],
        ["recipe.yaml:6", "networks.teacher.model"],
        ["recipe.yaml:8", "losses.0.weight"], ["recipe.yaml:9", "losses.1.after"],
        ["recipe.yaml:9", "losses.1.args.temperature"], ["recipe.yaml:9", "losses.1.args.reduction"],
        ["recipe.yaml:10", "losses.2.loss"], ["recipe.yaml:11", "optimizer.name"], ["recipe.yaml:11", "optimizer.lr"],
        ["recipe.yaml:12", "evaluate.mode"], ["recipe.yaml:12", "evaluate.scales"],
    ]  # fmt: skip
    text = "\n".join(found)
    for told in (
        "unknown key, did you mean 'seed'?", "no datasets/synthetik.py, did you mean 'synthetic'?; there are: ",
        "unknown key, did you mean 'flip'?; allowed here: scale, ",
        "unknown key, did you mean 'model'?; allowed here: source, model, args",
        "unknown key; allowed here: backbone, output_stride",
        "no models/deeplab.py, did you mean 'deeplabv3'?; there are: ",
        "must be a valid number or a mapping; got 'lots'", "must be 'pixel' or 'element'; got 'pixl'",
        "no losses/fitnett.py, did you mean 'fitnet'?", "must be 'sgd', 'adam' or 'adamw'; got 'sdg'",
        "must be greater than 0; got 0", "must have at least 1 item, not 0; got []",
        "schedule: is missing and has no default",
    ):  # fmt: skip
        assert told in text, told


@pytest.mark.parametrize("assignment, place, told", [
    ("data=3", "data", "must be a mapping; got 3"), ("loop=", "loop", "must be a mapping; got None"),
    ("losses={loss: kl}", "losses", "must be a list"), ("losses=[kl]", "losses.0", "must be a mapping; got 'kl'"),
    ("losses=[]", "losses", "at least 1 item"), ("networks={}", "networks", "at least 1 item"),
    ("networks.student=pspnet", "networks.student", "must be a mapping"),
    ("networks.student.args=[]", "networks.student.args", "mapping"),
    ("data.crop_size=32", "data.crop_size",
     "must be a list; got 32; allowed is a list of 2: a whole number from 1 to 32768 (height, width in pixels of a tr"),
    ("data.labelled=0", "data.labelled", "got 0; allowed is text or null (which training images have labels: a fraction"),
    ("data.batch_size=0", "data.batch_size", "or equal to 1; got 0; allowed is a whole number from 1 to 65536"),
    ("data.crop_size=[32, a]", "data.crop_size.1", "must be a valid integer"),
    ("data.crop_size=[32, 0]", "data.crop_size.1", "greater than or equal to 1"),
    ("data.batch_size='4'", "data.batch_size", "must be a valid integer; got '4'"),
    ("seed=1.5", "seed", "integer"), ("seed=-1", "seed", "greater than or equal to 0"),
    ("seed=true", "seed", "integer"),
    ("name=a/b", "name", "must be letters, digits"), ("name=-a", "name", "must be letters, digits"),
    ("name=''", "name", "must be letters"), ("name=../up", "name", "must be letters"),
    ("optimizer.lr=fast", "optimizer.lr", "number"), ("optimizer.lr=.nan", "optimizer.lr", "finite"),
    ("optimizer.betas=[0.9]", "optimizer.betas.1", "missing"),
    ("optimizer.no_decay=norm", "optimizer.no_decay", "must be a list"),
    ("schedule.name=polly", "schedule.name", "'poly', 'cosine'"),
    ("loop.precision=fp8", "loop.precision", "'fp32', 'bf16' or 'fp16'"), ("loop.ema=1", "loop.ema", "less than 1"),
    ("loop.accumulate=0", "loop.accumulate", "greater than or equal to 1"),
    ("evaluate.window=[1]", "evaluate.window.1", "missing"), ("evaluate.flip=1", "evaluate.flip", "boolean"),
    ("tracking.wandb=on-line", "tracking.wandb", "'auto', 'online'"),
    ("tracking.images=-1", "tracking.images", "or equal to 0"),
    ("losses.0.weight=.inf", "losses.0.weight", "finite"),
    ("losses.0.weight=-0.5", "losses.0.weight", "must be greater than or equal to 0 or a mapping; got -0.5"),
    ("evaluate.scales=[1, 1.0e+30]", "evaluate.scales.1", "must be less than or equal to 16; got 1e+30"),
    ("schedule.iterations=1" + 30 * "0", "schedule.iterations", "must be less than or equal to 1000000000; got 1000"),
    ("losses.0.weight={start: 0, end: 1, over: [9, 9]}", "losses.0.weight.over",
     "the last iteration must come after the first"),
    ("losses.0.form=a", "losses.0.form", "did you mean 'from'?; allowed here: loss, of, from, on, weight"),
    ("losses.0.on=all", "losses.0.on", "must be "),
    ("losses.0.args.class_weights=voc", "losses.0.args.class_weights",
     "'auto', 'median_frequency', 'inverse_log', 'inverse_sqrt' or 'effective_number'; got 'voc'"),
    ("losses.0.args.class_weights=[1, x]", "losses.0.args.class_weights.1", "number"),
    ("losses.0={loss: kl, args: {temperature: 0}}", "losses.0.args.temperature",
     "must be greater than or equal to 0.001; got 0"),
    ("losses.0.args.task=1", "losses.0.args.task", "unknown key"),
    ("losses.0.args.focal_gamma=.inf", "losses.0.args.focal_gamma", "finite"),
    ("networks.student.weights=5", "networks.student.weights", "must be a valid string or a mapping"),
    ("networks.student.args.num_classes=5", "networks.student.args.num_classes", "unknown key"),
    ("baseline=a.yaml", "baseline", "must be a mapping"),
    ("networks={'a b': {model: pspnet}}", "networks.a b", "must be letters, digits"),
    ("data.args.root=a", "data.args.root", "unknown key"),
    ("data.args.size=[64]", "data.args.size.1", "missing"),
    ("data.transform.scale=zoom", "data.transform.scale", "must be 'factor'"),
    ("data.transform.crop_size=[1, 1]", "data.transform.crop_size", "unknown key"),
])  # fmt: skip
def test_wrong_values(tmp_path, assignment, place, told):
    found = mistakes_of(tmp_path, PLAIN, assignment)
    assert any(mistake.startswith(f"command line: {place}: ") and told in mistake for mistake in found), found


RAMP = "losses.0.weight"


@pytest.mark.parametrize("assignment, told", [
    # a union is one mistake, and a mapping is judged as the section it could be
    (f"{RAMP}=a", {RAMP: "must be a valid number or a mapping; got 'a'"}),
    ("loop.sync_batchnorm=atuo", {"loop.sync_batchnorm": "must be a valid boolean or 'auto'; got 'atuo'"}),
    ("evaluate.mode=slid", {"evaluate.mode": "must be 'whole', 'slide' or 'halves'; got 'slid'"}),
    (f"{RAMP}={{strat: 1, end: 1, over: [0, 1]}}", {
        f"{RAMP}.start": "is missing and has no default",
        f"{RAMP}.strat": "unknown key, did you mean 'start'?; allowed here: start, end, over, hold",
    }),
    (f"{RAMP}={{start: 1, end: 2, over: [1, 2, 3]}}",
     {f"{RAMP}.over": "must have at most 2 items, not 3; got [1, 2, 3]; allowed is a list: a whole number from 0, a "
                      "whole number from 1 (first and last iteration of the linear change)"}),
    (f"{RAMP}={{start: 1, end: 2, over: [1, b]}}", {f"{RAMP}.over.1": "must be a valid integer; got 'b'"}),
    ("networks.student.weights={x: {y: 1}}", {
        "networks.student.weights.recipe": "is missing and has no default",
        "networks.student.weights.x": "unknown key; allowed here: recipe",
    }),
])  # fmt: skip
def test_one_place_is_one_mistake(tmp_path, assignment, told):
    mistakes = mistakes_of(tmp_path, PLAIN, assignment)
    found = [mistake.removeprefix("command line: ").split(": ", 1) for mistake in mistakes]
    assert dict(found) == told and len(found) == len(told)


def test_relations(tmp_path):
    text = DISTILLED + textwrap.dedent("""\
          - {loss: fitnet, from: teachr}
          - {loss: kl, of: studnet}
          - {loss: cross_entropy, of: teacher}
          - {loss: kl, from: student, label: self}
        loop: {accumulate: 3}
        """)
    text = text.replace("schedule: {iterations: 10}\n", "") + "schedule: {iterations: 10, name: step}\n"
    found = mistakes_of(tmp_path, text)
    assert found == [
        "recipe.yaml:9: losses.2.from: there is no network 'teachr', did you mean 'teacher'?; "
        "there are: student, teacher",
        "recipe.yaml:10: losses.3.of: there is no network 'studnet', did you mean 'student'?; "
        "there are: student, teacher",
        "recipe.yaml:10: losses.3: kl learns from another network; name it with from: (there are: student, teacher)",
        "recipe.yaml:10: losses.3: two terms are called 'kl' in the log; give one a label:",
        "recipe.yaml:11: losses.4.of: teacher is frozen (train: false), so no loss can train it",
        "recipe.yaml:11: losses.4: two terms are called 'cross_entropy' in the log; give one a label:",
        "recipe.yaml:12: losses.5.from: student cannot learn from itself",
        "recipe.yaml:13: loop.accumulate: 3 parts do not divide data.batch_size, which is 4 in total",
        "recipe.yaml:14: schedule.drop_every: is missing; name: step needs the iterations between two drops",
    ]


def test_a_student_and_somebody_to_learn_from(tmp_path):
    (mistake,) = mistakes_of(tmp_path, PLAIN, "losses.0.loss=kl")
    assert mistake == "recipe.yaml:6: losses.0: kl learns from another network; name it with from: (there are: student)"
    three = "networks.other={model: pspnet, train: false, weights: random}"
    (mistake,) = mistakes_of(tmp_path, DISTILLED, three)
    assert mistake.endswith(
        "losses.1: kl learns from another network; name it with from: (there are: student, teacher, other)"
    )
    assert read(written(tmp_path, DISTILLED), [three, "losses.1.from=other"]).losses[1].source == "other"
    found = mistakes_of(tmp_path, PLAIN.replace("student:", "pupil:"))
    assert "recipe.yaml:3: networks: one network must be called student; there are: pupil" in found


def test_relations_are_told_beside_other_mistakes(tmp_path):
    found = mistakes_of(tmp_path, DISTILLED, "optimizer.lr=a", "losses.1.from=teachr", "evaluate.evry=3")
    assert [mistake.split(": ")[1] for mistake in found] == ["optimizer.lr", "evaluate.evry", "losses.1.from"]


def every_key(values, path=()):
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(values, dict):
            yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from every_key(value, (*path, key))


def changed(values, path, new_key):
    """The values with the key at the path renamed, or deleted where there is no new one."""
    values = copy.deepcopy(values)
    place = values
    for word in path[:-1]:
        place = place[word]
    value = place.pop(path[-1])
    if new_key is not None:
        place[new_key] = value
    return values


def test_every_key_deleted_or_misspelt(tmp_path):
    recipe = read(written(tmp_path, DISTILLED), ["networks.student.weights={recipe: a.yaml}"])
    full = yaml.safe_load(recipe.dump())
    keys = list(every_key(full))
    assert len(keys) > 120
    required = {"data", "dataset", "crop_size", "networks", "model", "losses", "loss", "schedule", "iterations",
                "student", "teacher", "start", "end", "over", "recipe"}  # fmt: skip
    for path in keys:
        place = ".".join(map(str, path))
        optional = path[-2:] == ("schedule", "end") or (path[0] == "networks" and path[-1] == "schedule")
        if path[-1] in required and not optional:
            with pytest.raises(RecipeError) as caught:
                read(written(tmp_path, yaml.safe_dump(changed(full, path, None))))
            assert path[-1] in str(caught.value), place
        misspelt = path[-1] + "x"
        with pytest.raises(RecipeError) as caught:
            read(written(tmp_path, yaml.safe_dump(changed(full, path, misspelt))))
        if path[:-1] == ("networks",):  # any word is a network's name, but this one is nobody's
            assert misspelt in str(caught.value)
        else:
            told = f"{place}x: unknown key, did you mean {path[-1]!r}?"
            assert any(told in mistake for mistake in caught.value.mistakes), (told, caught.value.mistakes)


def test_dump_reads_back_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    text = DISTILLED.replace("weights: somewhere", "weights: {recipe: sub/teacher.yaml}")
    file = written(tmp_path, text + "baseline: {recipe: plain.yaml}\n", "recipes/distilled.yaml")
    recipe = read(file, ['tracking.group="1e-2"', "name='y'", "optimizer.lr=1e-5"])
    assert recipe.networks["teacher"].weights == OtherRecipe(recipe="recipes/sub/teacher.yaml")
    recipe.folder.mkdir(parents=True)
    again = read(written(tmp_path, recipe.dump(), "runs/y/recipe.yaml"))
    assert again == recipe and again.dump() == recipe.dump()
    # the run folder's recipe means the same files when it is read from elsewhere
    monkeypatch.chdir(tmp_path / "runs")
    elsewhere = read("y/recipe.yaml").networks["teacher"].weights.recipe
    assert os.path.abspath(elsewhere) == str(tmp_path / "recipes/sub/teacher.yaml")


def test_extends_and_overrides_are_read_as_one(tmp_path):
    written(tmp_path, PLAIN, "base.yaml")
    text = "extends: base.yaml\nname: child\nnetworks: {student: {args: {wdith: 8}}}\n"
    (mistake,) = mistakes_of(tmp_path, text)
    assert mistake.startswith("recipe.yaml:3: networks.student.args.wdith: unknown key, did you mean 'width'?")
    (mistake,) = mistakes_of(tmp_path, text.replace("wdith", "width"), "data.batch_size=none")
    assert mistake.startswith("command line: data.batch_size: must be a valid integer; got 'none'")
    written(tmp_path, PLAIN.replace("iterations: 10", "iterations: 0"), "base.yaml")
    (mistake,) = mistakes_of(tmp_path, text.replace("wdith", "width"))
    assert mistake.startswith("base.yaml:7: schedule.iterations: must be greater than or equal to 1")
    recipe = read(written(tmp_path, text.replace("wdith", "width")), ["schedule.iterations=7", "losses.0.weight=2"])
    assert (recipe.name, recipe.schedule.iterations, recipe.losses[0].weight) == ("child", 7, 2.0)
    assert recipe.networks["student"].args["width"] == 8 and recipe.networks["student"].model == "pspnet"


@pytest.mark.parametrize("assignments, place, told", [
    (["losses.0.weight=0", "losses.1.weight=0"], "losses", "every term has weight 0, so there is nothing to train"),
    (["losses.0.until=3", "losses.1.after=5"], "losses", "no term is active at iteration 4 (counted from 0)"),
    (["losses.0.after=10", "losses.1.after=10"], "losses", "no term is active at iteration 0"),
    (["losses.0.weight={start: 0, end: 1, over: [0, 9]}", "losses.1.weight=0"], "losses",
     "no term is active at iteration 0"),
    (["networks.teacher.train=true"], "networks.teacher", "no term trains it"),
    (["networks.student.schedule={name: step}"], "networks.student.schedule.drop_every", "name: step needs"),
    (["schedule.drop_every=3"], "schedule.drop_every", "read by name: step alone, and name is poly; leave it out"),
    (["schedule.min_lr=0.5"], "schedule.min_lr", "is 0.5, above the learning rate, "),
    (["schedule.name=constant", "schedule.min_lr=1.0e-4"], "schedule.min_lr", "is read by poly and cosine alone, and n"),
    (["schedule.name=step", "schedule.drop_every=2", "schedule.end=3"], "schedule.end", "is read by poly and cosine al"),
    (["networks.mean={ema_of: student, train: false, normalize: cirkd}"], "networks.mean.normalize",
     "a moving average has that of student; leave it out"),
    (["networks.mean={ema_of: student, train: false, lr_scale: 2.0}"], "networks.mean.lr_scale", "a moving average has"),
        (["networks.student.optimizer={lr: 1.0e-5}", "schedule.min_lr=0.001"], "networks.student.schedule.min_lr", "is 0.001, above"),
        (["optimizer.nesterov=true", "optimizer.name=adamw"], "optimizer.nesterov", "is for name: sgd with a momentum"),
        (["networks.student.optimizer={nesterov: true, momentum: 0.0}"], "networks.student.optimizer.nesterov", "is for name: sgd"),
        (["losses.0.from=teacher"], "losses.0.from", "cross_entropy reads no other network; leave it out"),
        (["losses.1.detach=false"], "losses.1.detach", "teacher is not trained, so no gradient goes into it"),
        (["networks.teacher.train=true", "losses.1.loss=cross_pseudo", "losses.1.detach=false"], "losses.1.detach",
         "cross_pseudo teaches one network alone"),
        (["networks.teacher={model: bare_encoder, args: {backbone: resnet18}, weights: a, train: false, class_map: names}"],
         "networks.teacher.class_map", "has no head"),
        (["networks.student.int8=true", "networks.student.train=lora"], "networks.student.int8", "additions are not rounded"),
    (["losses.1.after=5", "losses.1.until=5"], "losses.1.until", "is active behind iteration 5 (after) up to 5: never"),
    (["evaluate.mode=slide", "evaluate.stride=[32, 49]"], "evaluate.stride", "[32, 49] is larger than the window, [32, 48]"),
    (["networks.student={ema_of: teacher, train: false}"], "networks.student.ema_of", "and its average loop.ema"),
    (["networks.student.int8=true", "networks.student.train=head"], "networks.student.int8", "encoder is frozen, and"),
    (["data.test_split=val"], "data.test_split", "val is trained on, or chooses the student; name another split"),
])  # fmt: skip
def test_what_the_whole_recipe_shows_is_told_with_everything_else(tmp_path, assignments, place, told):
    """Before a data set, a network or a file of weights is looked at: none of them is there."""
    found = mistakes_of(tmp_path, DISTILLED, *assignments, "evaluate.evry=3")
    assert any(f": {place}: " in mistake and told in mistake for mistake in found), found
    assert any("evaluate.evry" in mistake for mistake in found)
    read(tmp_path / "recipe.yaml", ["losses.0.until=3", "losses.1.after=3"])  # one begins where the other ends
