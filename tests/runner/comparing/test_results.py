"""Results without weights give the comparison that their runs give."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import find_runs
from segkd.runner.comparing.results import keep_results
from segkd.runner.comparing.tables import report, table_csv
from segkd.runner.run_folder.metrics_file import append_rows

COUNTS = np.array([[[5, 10, 5], [4, 8, 9]], [[9, 10, 9], [1, 8, 1]]])


@pytest.fixture
def runs(fabricate):
    for seed in (0, 1):
        phases = {"data": 0.001, "student": 0.2, "scoring": 3.0}
        fabricate(f"none-s{seed}", COUNTS - [seed, 0, 0], f"seed={seed}", "tracking.folder=runs/deep", phases=phases)
        taught = fabricate(f"kl-s{seed}", COUNTS, f"seed={seed}", taught=True, teachers={"teacher": 0.9})
        append_rows(taught / "metrics.jsonl", [{"iteration": 5, "loss/kl": 0.5}])  # between two writes
        (taught / "environment.json").write_text('{"device": "cpu, 1 thread", "command": ["/home/me/distill.py"]}')
        (taught / "checkpoints").mkdir()
        (taught / "curves.png").touch()
    return find_runs(["runs"])


def test_what_is_kept_compares_as_the_runs_do(runs):
    keep_results(runs, Path("kept"))
    kept = find_runs(["kept"])
    assert report(compare(kept)) == report(compare(runs))
    theirs, ours = (list(csv.DictReader(table_csv(compare(one)).splitlines())) for one in (runs, kept))
    assert [one.pop("runs") for one in ours] == ["kept/deep/none-s0 kept/deep/none-s1", "kept/kl-s0 kept/kl-s1"]
    assert [one.pop("runs") for one in theirs] == ["runs/deep/none-s0 runs/deep/none-s1", "runs/kl-s0 runs/kl-s1"]
    assert ours == theirs
    files = {path.relative_to("kept/kl-s0").as_posix() for path in Path("kept/kl-s0").rglob("*") if path.is_file()}
    assert files == {
        *("recipe.yaml", "summary.json", "images.npz", "student/config.json"),
        *("teachers.json", "environment.json", "metrics.jsonl"),
    }
    assert json.loads(Path("kept/kl-s0/environment.json").read_text()) == {"device": "cpu, 1 thread"}
    assert "loss/kl" not in Path("kept/kl-s0/metrics.jsonl").read_text()


def test_results_take_the_place_of_older_ones_but_of_no_run(runs, fabricate):
    keep_results(runs[:2], Path("kept"))
    Path("kept/none-s0/summary.json").write_text("{}")
    keep_results(runs[:2], Path("kept"))
    assert [run.folder.name for run in find_runs(["kept"])] == [run.folder.name for run in runs[:2]]
    told = "holds more than results, in whose place they would come; name another folder"
    for place in ("runs/deep", "runs/../runs/deep"):
        with pytest.raises(ValueError, match=told):
            keep_results(runs[:2], Path(place))
    assert find_runs(["runs/deep"])[0].folder.name == runs[0].folder.name
    Path("kept/none-s0/thesis.tex").touch()
    (runs[0].folder / "student/model.safetensors").unlink(missing_ok=True)  # its report and its losses are still there
    (runs[0].folder / "report.html").touch()
    for place in ("kept", "runs/deep"):
        with pytest.raises(ValueError, match=told):
            keep_results(runs[:2], Path(place))
    assert Path("kept/none-s0/thesis.tex").exists() and (runs[0].folder / "report.html").exists()


def test_results_of_before_do_not_stay_beside_those_that_are_kept(runs):
    keep_results(runs, Path("kept"))
    told = "kept holds kept/deep/none-s0, kept/deep/none-s1, kept/kl-s1, which this comparison does not have"
    before = sorted(Path("kept").rglob("*"))
    with pytest.raises(ValueError, match=told):
        keep_results([run for run in runs if run.folder.name == "kl-s0"], Path("kept"))
    with pytest.raises(ValueError, match="kept holds kept/deep/none-s0, .* delete them, or name another folder"):
        keep_results(find_runs(["runs/deep"]), Path("kept"))  # none-s0 would lie in kept now
    with pytest.raises(ValueError, match="kept/kl-s0 holds kept/kl-s0, which"):
        keep_results(runs[:2], Path("kept/kl-s0"))
    assert sorted(Path("kept").rglob("*")) == before
    keep_results(runs, Path("kept"))


def test_kept_runs_are_seeds_of_the_experiment_whose_teacher_is_the_same_recipe(fabricate):
    teacher = "networks.teacher={model: pspnet, weights: {recipe: recipes/teacher.yaml}, train: false}"
    taught = (teacher, "losses=[{loss: cross_entropy}, {loss: kl}]")
    for seed, miou in enumerate((0.9, 0.912)):
        fabricate(f"kl-s{seed}", COUNTS, f"seed={seed}", *taught, teachers={"teacher": miou})
    keep_results(find_runs(["runs/kl-s0"]), Path("far/away/kept"))
    found = find_runs(["far/away/kept", "runs/kl-s1"])
    assert len({run.recipe.networks["teacher"].weights.recipe for run in found}) == 2, "the ways there differ"
    (row,) = compare(found).rows
    assert len(row.runs) == 2 and row.teacher == "pspnet resnet18 (90.00 to 91.20)", "it was trained anew in between"
    with pytest.raises(ValueError, match="are the same experiment with the same seed, 0"):
        compare(find_runs(["far/away/kept", "runs"]))
