"""What a sweep file makes of recipes, methods and seeds, and everything that can be wrong with it."""

import pytest

from segkd.runner.comparing.sweep_plan import read_plan
from segkd.runner.recipe import hub
from segkd.runner.recipe.read import read

KL = """
extends: tiny.yaml
name: kl
networks:
  teacher: {model: pspnet, args: {backbone: mobilenetv2_035, width: 16}, weights: {recipe: big.yaml}, train: false}
losses: [{loss: cross_entropy}, {loss: kl}]
baseline: {recipe: tiny.yaml}
"""
SWEEP = """
name: small
seeds: [0, 3]
set: [optimizer.lr=0.5, schedule.iterations=7]
methods:
  none: tiny.yaml
  kd: {recipe: kl.yaml, set: ["losses.kl.weight=2", schedule.iterations=8]}
"""


@pytest.fixture(autouse=True)
def files(folder):
    (folder / "big.yaml").write_text("extends: tiny.yaml\nname: big\nnetworks: {student: {args: {width: 16}}}")
    (folder / "kl.yaml").write_text(KL)
    (folder / "sweep.yaml").write_text(SWEEP)


def test_all_methods_of_a_seed_come_before_the_next_seed():
    plan = read_plan("sweep.yaml")
    names = [str(run.recipe.folder) for run in plan.runs]
    assert names == [f"runs/small/small-{method}-s{seed}" for seed in (0, 3) for method in ("none", "kd")]
    for run in plan.runs:
        assert run.recipe == read(run.path, run.recipe.assignments)  # what distill.py will read
        assert (run.recipe.tracking.group, run.recipe.baseline, run.state()) == ("small", None, "new")
        assert run.log.with_suffix("") == run.recipe.folder
    none, kd = plan.runs[2:]
    assert (none.recipe.seed, none.recipe.method_name, none.recipe.optimizer.lr) == (3, "none", 0.5)
    assert (kd.recipe.seed, kd.recipe.method_name, kd.recipe.losses[1].weight) == (3, "kd", 2)
    assert (none.recipe.schedule.iterations, kd.recipe.schedule.iterations) == (7, 8)


def test_overrides_of_the_command_line_go_over_those_of_the_file():
    plan = read_plan("sweep.yaml", ["schedule.iterations=9", "tracking.folder=else where"], only=["kd"])
    assert [run.recipe.method_name for run in plan.runs] == ["kd", "kd"]
    assert {run.recipe.schedule.iterations for run in plan.runs} == {9}
    assert str(plan.runs[0].recipe.folder) == "else where/small/small-kd-s0"


def test_teachers_that_are_recipes_come_first_and_once(folder):
    (folder / "giant.yaml").write_text(KL.replace("name: kl", "name: giant").replace("baseline", "# baseline"))
    (folder / "two.yaml").write_text(KL.replace("big.yaml", "giant.yaml").replace("width: 16", "width: 8"))
    (folder / "sweep.yaml").write_text(SWEEP + "  second: kl.yaml\n  third: two.yaml\n")
    plan = read_plan("sweep.yaml", ["tracking.wandb=offline", "optimizer.lr=0.3"])
    assert [str(run.recipe.folder) for run in plan.teachers] == ["runs/big", "runs/giant"]
    for run in plan.teachers:  # what is said of the place is for them too
        assert run.recipe.assignments == ("tracking.wandb=offline",) and run.recipe == read(
            run.path, run.recipe.assignments
        )
    assert [[str(path) for path in run.needs] for run in plan.runs[:4]] == [
        [],
        ["runs/big"],
        ["runs/big"],
        ["runs/giant"],
    ]
    assert all(run.recipe.schedule.iterations == 4 for run in plan.teachers)  # the sweep's overrides are not theirs


def test_recipes_that_need_each_other_are_a_mistake(folder):
    text = KL.replace("width: 16", "width: 8")  # of the students of both
    (folder / "kl.yaml").write_text(text)
    (folder / "big.yaml").write_text(text.replace("name: kl", "name: big").replace("big.yaml", "kl.yaml"))
    with pytest.raises(ValueError, match="methods.kd: each of these runs needs the next one first, in a circle"):
        read_plan("sweep.yaml")


def test_a_recipe_keeps_the_method_it_names(folder):
    (folder / "kl.yaml").write_text(KL + "method: KD 2015\n")
    assert {run.recipe.method_name for run in read_plan("sweep.yaml", only=["kd"]).runs} == {"KD 2015"}


def test_names_that_look_like_numbers_stay_names(folder):
    (folder / "sweep.yaml").write_text('name: "1"\nmethods: {"2": tiny.yaml}')
    run = read_plan("sweep.yaml").runs[0]
    assert (run.recipe.name, run.recipe.tracking.group, run.recipe.method_name) == ("1-2-s0", "1", "2")


def test_a_recipe_may_be_an_address(folder, monkeypatch):
    (folder / "hub").mkdir()
    (folder / "hub/tiny.yaml").write_text((folder / "tiny.yaml").read_text())
    monkeypatch.setattr(hub, "download", lambda repo, revision, files: folder / "hub")
    (folder / "sweep.yaml").write_text(
        "name: small\nmethods: {none: hf://user/repo/tiny.yaml, gone: {recipe: hf://user/repo/gone.yaml}}"
    )
    (run,) = read_plan("sweep.yaml", only=["none"]).runs
    assert (run.path, str(run.recipe.folder)) == ("hf://user/repo/tiny.yaml", "runs/small/small-none-s0")
    assert run.recipe == read(run.path, run.recipe.assignments)
    with pytest.raises(ValueError, match="methods.gone: hf://user/repo/gone.yaml: the Hub's user/repo has no file"):
        read_plan("sweep.yaml")


@pytest.mark.parametrize("text, told", [
    (SWEEP.replace("seeds", "seedz"), ["sweep.yaml:3: seedz: unknown key, did you mean 'seeds'?"]),
    (SWEEP.replace("recipe:", "recip:"), ["sweep.yaml:7: methods.kd.recip: unknown key", "is missing"]),
    (SWEEP.replace("[0, 3]", "[0, 0]"), ["sweep.yaml:3: seeds: each must be given once; got [0, 0]"]),
    (SWEEP.replace("[0, 3]", "[]"), ["sweep.yaml:3: seeds: "]),
    (SWEEP + "at_once: 0\nthreads: many\n", ["sweep.yaml:8: at_once: ", "sweep.yaml:9: threads: ", "2 mistakes"]),
    (SWEEP + "  kd: tiny.yaml\n", ["sweep.yaml:8: methods.kd is given twice (first on line 7)"]),
    (SWEEP.replace("tiny.yaml", "tinny.yaml").replace("kl.yaml", "kkl.yaml"),
     ["sweep.yaml:6: methods.none: there is no recipe file tinny.yaml", "there is no recipe file kkl.yaml"]),
    (SWEEP.replace("kl.weight", "kll.weight").replace("optimizer.lr", "optimizer.rl"),
     ["methods.none: command line: optimizer.rl: unknown key", "methods.kd: command line: losses.kll.weight: "]),
    (SWEEP.replace("optimizer.lr=0.5", "seed=2").replace('"losses.kl.weight=2"', "name=x"),
     ["sweep.yaml:4: set: seed is what the sweep gives each of its runs", "sweep.yaml:7: methods.kd: name is what"]),
])  # fmt: skip
def test_all_mistakes_are_told_at_once(folder, text, told):
    (folder / "sweep.yaml").write_text(text)
    with pytest.raises(ValueError, match="the sweep sweep.yaml has .* nothing was started") as error:
        read_plan("sweep.yaml")
    assert all(words in str(error.value) for words in told), error.value
    assert len(str(error.value).splitlines()) <= 3


def test_a_mistake_of_many_methods_is_told_once(folder):
    methods = "".join(f"  kd{i}: kl.yaml\n" for i in range(9))
    (folder / "sweep.yaml").write_text(f"name: small\nmethods:\n{methods}")
    (folder / "big.yaml").write_text("extends: tiny.yaml\nname: big\noptimiser: {lr: 1}")
    with pytest.raises(ValueError, match="the sweep sweep.yaml has 1 mistake, nothing was started") as error:
        read_plan("sweep.yaml")
    assert "methods.kd0, methods.kd1, methods.kd2 and 6 more: big.yaml:3: optimiser" in str(error.value)


def test_mistakes_in_a_teacher_and_in_run_folders_are_told_too(folder):
    (folder / "runs/small/small-none-s0/checkpoints/step-00000002").mkdir(parents=True)
    (folder / "runs/small/small-none-s0/recipe.yaml").write_text(read("tiny.yaml").dump())
    (folder / "big.yaml").write_text("extends: tiny.yaml\nname: big\noptimiser: {lr: 1}")
    with pytest.raises(ValueError, match="2 mistakes") as error:
        read_plan("sweep.yaml")
    assert "methods.none: runs/small/small-none-s0 holds the run of another recipe; they differ in" in str(error.value)
    assert "methods.kd: big.yaml:3: optimiser: unknown key" in str(error.value)


def test_what_is_not_there_is_named():
    with pytest.raises(
        ValueError, match="tiny.yaml is a recipe and not a sweep; `python .*runner/distill.py tiny.yaml`"
    ):
        read_plan("tiny.yaml")
    with pytest.raises(FileNotFoundError, match="there is no sweep file nowhere.yaml"):
        read_plan("nowhere.yaml")
    with pytest.raises(
        ValueError, match="--only dk: sweep.yaml has no such method, did you mean 'kd'.; it has none, kd"
    ):
        read_plan("sweep.yaml", only=["dk"])
    with pytest.raises(ValueError, match="command line: seed is what the sweep gives"):
        read_plan("sweep.yaml", ["seed=4"])
