"""Searches of settings: what is tried, which trials end early or fail, what is left of them, and what is trained then."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from faults import sweeps
from faults.attempts import Running

from segkd.runner import sweep
from segkd.runner.comparing.finished_runs import find_runs
from segkd.runner.comparing.search import Method, tuned
from segkd.runner.comparing.sweep_plan import read_plan
from segkd.runner.loading.data_sets import build_training_sets, build_val_set
from segkd.runner.recipe.read import read

# in place of distill.py: four evaluations, the better the nearer lr is to 0.01; goes on from what the log has
STAND_IN = """
import json, pathlib, signal, sys, time
folder, lr, recipe = pathlib.Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
with open("order", "a") as order:
    order.write(f"{folder} {lr}\\n")
if lr > 0.09:
    sys.exit("the loss is nan")
(folder / "checkpoints/step-00000001").mkdir(parents=True, exist_ok=True)
(folder / "recipe.yaml").write_text(recipe)
log = folder / "metrics.jsonl"
done = len(log.read_text().splitlines()) if log.exists() else 0
best = 0.5 / (1 + abs(lr - 0.01) / 0.01)
for step in range(done + 1, 5):
    with log.open("a") as rows:
        rows.write(json.dumps({"iteration": step, "miou": best * step / 4}) + "\\n")
    time.sleep(float(sys.argv[4]))
(folder / "student").mkdir(exist_ok=True)
(folder / "summary.json").write_text(json.dumps({"miou": best}))
for name in ("config.json", "model.safetensors"):
    (folder / "student" / name).write_text("{}")
"""
KL = """
extends: tiny.yaml
networks:
  teacher: {model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 12}, train: false, weights: random}
losses: [{loss: cross_entropy}, {loss: kl}]
"""
SWEEP = """
name: s
seeds: [3, 5]
methods: {none: tiny.yaml, kd: kl.yaml}
search:
  trials: 5
  sampler: random
  pruner: none
  tuning_part: 0.2
  set: [evaluate.every=1]
  parameters:
    optimizer.lr: {low: 0.001, high: 0.08, log: true}
    losses.kl.weight: {choices: [1, 10]}
"""


@pytest.fixture
def stand_in(folder, monkeypatch):
    """The sweep file above (a text in its place, if one is given), its runs trained by the stand-in."""
    monkeypatch.chdir(folder)
    (folder / "kl.yaml").write_text(KL)
    (folder / "sweep.yaml").write_text(SWEEP)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(sweep, "POLL", 0.02)
    monkeypatch.setattr(sweep, "show", lambda plan: None)
    monkeypatch.setattr(sweep, "command_of", lambda job: command_for(job.runs[0].recipe))
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def command_for(recipe, pause=0.0):
    words = [recipe.folder, recipe.optimizer.lr, recipe.dump(), pause]
    return [sys.executable, "-S", "-c", STAND_IN, *map(str, words)]


def studies() -> dict[str, list]:
    """Method -> its trials, as the journal has them."""
    journal = optuna.storages.journal.JournalFileBackend("runs/s/search/journal.log")
    storage = optuna.storages.JournalStorage(journal)
    return {name: optuna.load_study(study_name=name, storage=storage).trials for name in ("kd", "none")}


def replace(*pairs):
    text = SWEEP
    for old, new in pairs:
        text = text.replace(old, new)
    Path("sweep.yaml").write_text(text)


def test_each_method_has_its_trials_and_the_best_setting_is_trained_with_all_seeds(stand_in, run_here, capsys):
    run_here(sweep, "sweep.yaml", "--dry-run")
    out = capsys.readouterr().out
    assert "search  runs/s/search/none: 5 trials of optimizer.lr\n" in out and not Path("runs").exists()
    assert "search  runs/s/search/kd: 5 trials of optimizer.lr, losses.kl.weight\n" in out
    run_here(sweep, "sweep.yaml")
    ran = [line.split() for line in Path("order").read_text().splitlines()]
    trials = [folder for folder, _ in ran[:10]]
    assert sorted(trials) == sorted(f"runs/s/search/{method}/trial-{n}" for method in ("none", "kd") for n in range(5))
    assert [folder for folder, _ in ran[10:]] == [f"runs/s/s-{m}-s{seed}" for seed in (3, 5) for m in ("none", "kd")]
    for method, found in studies().items():
        assert [trial.state.name for trial in found] == ["COMPLETE"] * 5
        best = max(found, key=lambda trial: trial.value)
        final = read(f"runs/s/s-{method}-s5/recipe.yaml")
        assert final.optimizer.lr == float(f"{best.params['optimizer.lr']:.4g}") and final.data.tuning_part is None
        assert final.evaluate.every == 2 and final.tuned.startswith(
            "5 trials by random of optimizer.lr 0.001 to 0.08 (log)"
        )
        assert final.tuned.endswith("; judged on 0.2 of train")
        if method == "kd":
            assert final.losses[1].weight == json.loads(best.params["losses.kl.weight"])
        for number in range(5):
            recipe = read(f"runs/s/search/{method}/trial-{number}/recipe.yaml")
            assert (recipe.seed, recipe.data.tuning_part, recipe.evaluate.every) == (3, 0.2, 1)
    # both methods tried the same rates
    assert len({tuple(t.params["optimizer.lr"] for t in found) for found in studies().values()}) == 1
    assert not list(Path("runs/s/search").rglob("checkpoints")) and not list(Path("runs").rglob("claim"))
    # trials are no results
    with pytest.raises(ValueError, match="s-kd-s3") as error:
        find_runs(["runs/s"])
    assert "trial-" not in str(error.value)
    run_here(sweep, "sweep.yaml")
    assert len(Path("order").read_text().splitlines()) == 14, "nothing is tried twice"
    replace(("high: 0.08", "high: 0.07"))
    with pytest.raises(ValueError, match="runs/s/search/journal.log holds another search of none; .*high: 0.08 there"):
        read_plan("sweep.yaml", tuned=tuned)


def test_trials_that_fall_behind_end_early_and_failed_ones_are_no_results(stand_in, run_here, monkeypatch):
    replace(("pruner: none", "pruner: median\n  startup: 2"), ("trials: 5", "trials: 8"), (", kd: kl.yaml", ""),
            ("    losses.kl.weight: {choices: [1, 10]}\n", ""), ("high: 0.08", "high: 0.9"))  # fmt: skip
    monkeypatch.setattr(sweep, "command_of", lambda job: command_for(job.runs[0].recipe, pause=0.05))
    run_here(sweep, "sweep.yaml")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("runs/s/search/journal.log"))
    trials = optuna.load_study(study_name="none", storage=storage).trials
    states = [trial.state.name for trial in trials]
    assert {"COMPLETE", "PRUNED", "FAIL"} == set(states) and len(states) == 8
    for trial in trials:
        folder = Path(f"runs/s/search/none/trial-{trial.number}")
        assert (trial.state.name == "FAIL") == (float(f"{trial.params['optimizer.lr']:.4g}") > 0.09)
        assert (folder / "student").exists() == (trial.state.name == "COMPLETE") and not (
            folder / "checkpoints"
        ).exists()
        if trial.state.name == "PRUNED":
            assert len(trial.intermediate_values) < 4 or not (folder / "student").exists()
    final = read("runs/s/s-none-s3/recipe.yaml")
    counts = f"8 trials ({states.count('PRUNED')} pruned, {states.count('FAIL')} failed) by random"
    assert final.tuned.startswith(counts)
    assert final.optimizer.lr == float(
        f"{max((t for t in trials if t.state.name == 'COMPLETE'), key=lambda t: t.value).params['optimizer.lr']:.4g}"
    )


def test_a_search_that_is_stopped_goes_on_with_its_trials(stand_in, run_here, monkeypatch):
    monkeypatch.setattr(sweep, "command_of", lambda job: command_for(job.runs[0].recipe, pause=0.2))

    def stop():
        while not (log := Path("runs/s/search/none/trial-0/metrics.jsonl")).is_file() or not log.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit) as end:
        run_here(sweep, "sweep.yaml")
    thread.join()
    assert end.value.code == 143 and studies()["none"][0].state.name == "RUNNING"
    rate = studies()["none"][0].params["optimizer.lr"]
    monkeypatch.setattr(sweep, "command_of", lambda job: command_for(job.runs[0].recipe))
    run_here(sweep, "sweep.yaml")
    assert studies()["none"][0].params["optimizer.lr"] == rate
    assert [trial.state.name for trial in studies()["none"]] == ["COMPLETE"] * 5
    lines = Path("runs/s/search/none/trial-0/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3, 4]


def test_a_search_whose_trials_all_fail_says_so(stand_in, run_here):
    replace(("low: 0.001, high: 0.08", "low: 0.1, high: 0.2"), ("trials: 5", "trials: 1"))
    with pytest.raises(
        ValueError, match="none of the 1 trials of none came to its end; see their logs in runs/s/search"
    ):
        run_here(sweep, "sweep.yaml")
    assert not list(Path("runs/s").glob("s-*"))


@pytest.mark.parametrize("pairs, told", [
    ([("optimizer.lr:", "optimizer.rl:")], ["optimizer.rl is a key of no method's recipe", "none has none of the"]),
    ([("low: 0.001", "low: -0.001")], ["optimizer.lr: low is -0.001; a logarithm needs it above 0"]),
    ([("low: 0.001, high: 0.08, log: true", "low: -1, high: 1")], ["none: command line: optimizer.lr: must be greater"]),
    ([("log: true", "log: true, step: 2")], ["either log or step"]),
    ([("optimizer.lr: {low: 0.001, high: 0.08, log: true}", "schedule.warmup: {low: 1, high: 3}")],
     ["in none: schedule.warmup takes whole numbers alone; give it step: 1, and no log"]),
    ([("choices: [1, 10]", "low: 0")], ["losses.kl.weight: needs either low and high, or choices"]),
    ([("[1, 10]", "[1, x]")], ["search.parameters, in kd: "]),
    ([("evaluate.every=1", "seed=1")], ["search.set: seed is what the sweep gives"]),
    ([("optimizer.lr:", "evaluate.every:")], ["evaluate.every does not change what is learnt"]),
])  # fmt: skip
def test_mistakes_in_a_search_are_told(stand_in, pairs, told):
    replace(*pairs)
    with pytest.raises(ValueError, match="nothing was started") as error:
        read_plan("sweep.yaml", tuned=tuned)
    assert all(words in str(error.value) for words in told), error.value


def test_settings_are_whole_numbers_where_low_high_and_step_are(stand_in):
    replace(("{choices: [1, 10]}", "{low: 1, high: 9, step: 4}"), ("optimizer.lr: {low: 0.001, high: 0.08, log: true}",
            "data.crop_size: {choices: [[16, 16], [32, 32]]}"), ("sampler: random", "sampler: tpe"))  # fmt: skip
    plan = read_plan("sweep.yaml", tuned=tuned)
    method = Method(plan.sweep, plan.tried[1])
    for number in range(5):
        taken = method.take()
        recipe = taken.job.runs[0].recipe
        assert recipe.losses[1].weight in (1, 5, 9) and recipe.data.crop_size in ((16, 16), (32, 32))
        for claim in taken.claims.values():
            claim.release()
        method.study.tell(number, 0.5)
    assert method.take() is None and method.left == 0


def test_methods_are_given_the_same_rates_whatever_else_they_search(stand_in):
    lines = [f"    {line}\n" for line in
             ("optimizer.lr: {low: 0.001, high: 0.08, log: true}", "losses.kl.weight: {choices: [1, 10]}")]  # fmt: skip
    replace(("".join(lines), "".join(reversed(lines))))
    plan = read_plan("sweep.yaml", tuned=tuned)
    for number in range(2):
        rates = set()
        for tried in plan.tried:
            taken = Method(plan.sweep, tried).take()
            rates.add(taken.job.runs[0].recipe.optimizer.lr)
        assert len(rates) == 1


@pytest.mark.parametrize("words", [[], ["data.labelled=2/3"]])
def test_the_part_that_settings_are_chosen_by_is_the_same_for_all_seeds_and_never_trained_on(folder, words):
    words = [*words, "data.tuning_part=0.25"]
    recipes = [read(folder / "tiny.yaml", [*words, f"seed={seed}"]) for seed in (0, 0, 1)]
    labelled = {"[]": 15}.get(str(words[:-1]), 10)
    for recipe in recipes:
        train, val = build_training_sets(recipe)[0], build_val_set(recipe)
        names = [{one.name(index) for index in range(len(one))} for one in (train, val)]
        assert len(val) == round(labelled / 4) and len(train) == labelled - len(val) and not names[0] & names[1]
    if len(words) == 1:
        parts = [build_val_set(recipe).indices for recipe in recipes]
        assert parts[0] == parts[1] == parts[2]
    whole = build_training_sets(read(folder / "tiny.yaml"))[0]
    assert len(whole) == 15


@pytest.mark.parametrize("words, count", [([], 2), (["data.labelled=labelled.txt"], 1)])
def test_settings_are_chosen_by_listed_images(folder, monkeypatch, words, count):
    monkeypatch.chdir(folder)
    whole = build_training_sets(read("tiny.yaml"))[0]
    names = [whole.name(index) for index in range(15)]
    Path("aside.txt").write_text("\n".join([names[3], names[8]]))
    Path("labelled.txt").write_text("\n".join(names[5:]))
    recipe = read("tiny.yaml", [*words, "data.tuning_part=aside.txt"])
    train, val = build_training_sets(recipe)[0], build_val_set(recipe)
    assert [val.name(index) for index in range(len(val))] == [names[3], names[8]][-count:]
    assert {train.name(index) for index in range(len(train))} == set(names[5 if words else 0 :]) - {names[3], names[8]}
    assert recipe.data.scored == "aside.txt of train"
    if words:  # nor are those without labels, be it to learn from a teacher
        _, unlabelled = build_training_sets(
            read("tiny.yaml", [*words, "data.tuning_part=aside.txt", "data.unlabelled={}"])
        )
        assert {unlabelled.name(index) for index in range(len(unlabelled))} == set(names[:5]) - {names[3]}


@pytest.mark.parametrize("part, told", [
    ("every.txt", "every.txt has 15 of the 15 labelled training images; some must be in it to be scored"),
    ("others.txt", "data.tuning_part: others.txt names 'elsewhere'"), ("none.txt", "data.tuning_part: 'none.txt' is no"),
    ("0.99", "0.99 has 15 of the 15"),
])  # fmt: skip
def test_parts_that_leave_nothing_to_choose_by_or_to_train_on(folder, monkeypatch, part, told):
    monkeypatch.chdir(folder)
    whole = build_training_sets(read("tiny.yaml"))[0]
    Path("every.txt").write_text("\n".join(whole.name(index) for index in range(15)))
    Path("others.txt").write_text("elsewhere")
    with pytest.raises(ValueError, match=told):
        build_val_set(read("tiny.yaml", [f"data.tuning_part={part}"]))


def test_a_real_search(folder):
    text = SWEEP.replace("seeds: [3, 5]", "seeds: [3]\nset: [schedule.iterations=2]").replace("trials: 5", "trials: 2")
    text = text.replace(", kd: kl.yaml", "").replace("    losses.kl.weight: {choices: [1, 10]}\n", "")
    (folder / "sweep.yaml").write_text(text)
    ending = Running(folder, lambda: sweeps.work(sweeps.real)).wait(100)
    assert ending.code == 0, (ending, *map(Path.read_text, (folder / "runs/s/search/none").glob("*.log")))
    assert "How settings were chosen: none: 2 trials by random of optimizer.lr 0.001 to 0.08 (log)" in ending.out
    assert "the best of 2 on `0.2 of train`" in (folder / "runs/s/search/none/trial-1/report.md").read_text()
    assert "the best of 1 on `val`" in (folder / "runs/s/s-none-s3/report.md").read_text()


@pytest.mark.parametrize("weights", ["{recipe: big.yaml}", "runs/big", "runs/big/checkpoints/last", "runs/big/student"])
def test_a_teacher_that_knows_the_part_that_settings_are_chosen_by_is_told(folder, server, weights):
    big = "extends: tiny.yaml\nname: big\nschedule: {iterations: 1}\nevaluate: {every: 1}\n"
    words = ("schedule.iterations=1", "evaluate.every=1", "data.tuning_part=0.25")
    (folder / "kl.yaml").write_text(
        KL.replace("weights: random", f"weights: {weights}").replace("width: 12", "width: 8")
    )
    (folder / "big.yaml").write_text(big)
    assert server(folder, "distill", "big.yaml").code == 0
    told = server(folder, "distill", "kl.yaml", "name=a", *words)
    assert "it was trained on these images, so that settings chosen by them trust it too much" in told.out, told.err
    (folder / "big.yaml").write_text(big + "data: {tuning_part: 0.25}\n")
    assert server(folder, "distill", "big.yaml", "--overwrite").code == 0
    told = server(folder, "distill", "kl.yaml", "name=b", *words)
    assert told.code == 0 and "teacher has" in told.out and "trust it" not in told.out, told.err
