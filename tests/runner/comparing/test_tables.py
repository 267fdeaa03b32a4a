"""The tables of a comparison, against numbers worked out by hand from the counts."""

import csv
import io
import json
import re

import numpy as np
import pytest

from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import find_runs
from segkd.runner.comparing.page import settings
from segkd.runner.comparing.tables import report, table_csv, write_comparison


@pytest.fixture
def runs(fabricate):
    """Two plain runs and two distilled ones of four images and three classes, the last one absent."""
    for seed, (plain, taught) in enumerate([(50, 60), (40, 80)]):
        phases = {"data": 0.001, "student": 0.2 + 0.1 * seed, "scoring": 3.0}
        fabricate(f"none-s{seed}", counts(plain), f"seed={seed}", seconds=60 + 2 * seed, phases=phases)
        settings = {"taught": True, "teachers": {"teacher": 0.9}, "device": "a GPU"}
        fabricate(f"kl-s{seed}", counts(taught), f"seed={seed}", phases=phases | {"teacher": 0.5}, **settings)
    fabricate(
        "long", counts(70), "method=long", "schedule.iterations=9", "data.labelled=1/4", taught=True, seconds=3700.0
    )
    return find_runs(["runs"])


def counts(found: int) -> np.ndarray:
    """(4, 3, 3): in each image 100 pixels of class 0 of which `found` are found, 100 of class 1 all found."""
    return np.tile(np.array([[found, 100, found], [100, 100, 100], [0, 0, 0]]), (4, 1, 1))


def test_the_table_says_what_the_counts_say(runs):
    lines = report(compare(runs)).splitlines()
    rows = [[word.strip() for word in line.strip("|").split("|")] for line in lines if line.startswith("| synthetic")]
    # mIoU of one run: (found / 100 + 1) / 2
    assert rows == [
        ["synthetic", "-", "pspnet mobilenetv2_035", "none", "2", "72.50 +- 3.54", "-", "-", "-",
         "2.50 M", "3.00", "125.0", "1.00x", "1:01"],
        ["synthetic", "deeplabv3 resnet18 (90.00)", "pspnet mobilenetv2_035", "kl", "2", "85.00 +- 7.07", "+12.50",
         "+5.00 to +20.00", "-", "2.50 M", "3.00", "125.0", "-", "1:30"],
        ["synthetic, 1/4 labelled", "deeplabv3 resnet18", "pspnet mobilenetv2_035", "long", "1", "85.00", "+12.50",
         "one seed", "-", "2.50 M", "3.00", "125.0", "26.96x", "1:01:40"],
    ]  # fmt: skip
    assert "| class 0 | 45.00 | +25.00 | +25.00 |" in lines and "| class 1 | 100.00 | +0.00 | +0.00 |" in lines
    assert "| class 2 | - | - | - |" in lines


def test_notes_say_what_must_be_known_before_comparing(runs):
    text = report(compare(runs))
    assert "mIoU of the best checkpoint on 4 images of synthetic val" in text and "Gains are over none." in text
    told = (
        "Trained differently: none, kl: 4 iterations of 4 crops of 32 x 32; long: 9 iterations of 4 crops of 32 x 32."
    )
    assert told in text
    assert "Made on different devices" in text and "none, long: cpu, 1 thread; kl: a GPU." in text
    alike = report(compare([run for run in runs if run.recipe.method_name == "none"]))
    assert "differently" not in alike and "devices" not in alike and "Gains are" not in alike


def test_a_table_tells_the_further_split_that_all_were_scored_on(fabricate):
    for seed, found in enumerate([50, 60]):
        summary = fabricate(f"none-s{seed}", counts(found), f"seed={seed}") / "summary.json"
        tested = {"split": "held back", "images": 7, "miou": 0.4 + 0.1 * seed}
        summary.write_text(json.dumps(json.loads(summary.read_text()) | {"test": tested}))
    comparison = compare(find_runs(["runs"]))
    text = report(comparison)
    assert "| held back (%) |" in text and "| 45.00 +- 7.07 |" in text
    assert "held back: mIoU of the same checkpoints on that split, which chose nothing" in text
    (row,) = csv.DictReader(io.StringIO(table_csv(comparison)))
    assert (float(row["test_miou"]), float(row["test_miou_std"])) == pytest.approx((0.45, 0.1 / 2**0.5))
    fabricate("kl", counts(60), taught=True)
    text = report(compare(find_runs(["runs"])))
    assert re.search(r"\| kl \|.* \| - \| - \|", text), "one that was not scored there has no number"
    assert "Not scored on held back, so that their rows have no score there: kl: seed 0." in text


def test_a_class_without_labels_that_some_runs_predict_is_told(fabricate):
    stray = counts(50)
    stray[0, 2, 2] = 5
    fabricate("none-s0", counts(50))
    fabricate("none-s1", stray, "seed=1")
    fabricate("kl-s0", stray, taught=True)
    told = "No label has a pixel of class 2. It counts as 0 in the mean of the runs that predict it somewhere"
    text = report(compare(find_runs(["runs"])))
    assert told in text and "(evaluate.absent): none: seed 1; kl: seed 0." in text
    assert told not in report(compare(find_runs(["runs/none-s1", "runs/kl-s0"]))), "it counts alike in all"
    assert told not in report(compare(find_runs(["runs/none-s0"])))


def test_scores_on_further_splits_of_other_images_are_left_out_and_told(fabricate):
    for method, images in (("none", 7), ("kl", 3)):
        summary = fabricate(method, counts(50), taught=method != "none") / "summary.json"
        tested = {"split": "test", "images": images, "miou": 0.4}
        summary.write_text(json.dumps(json.loads(summary.read_text()) | {"test": tested}))
    comparison = compare(find_runs(["runs"]))
    text = report(comparison)
    assert "test gain" not in text and "Scores on 3 images of test and 7 images of test are not of the same" in text
    for row in csv.DictReader(io.StringIO(table_csv(comparison))):
        assert not any(value for key, value in row.items() if key.startswith("test_"))


def test_seeds_that_took_unlike_times_are_told(fabricate):
    for seed, seconds in enumerate((160.0, 100.0)):
        fabricate(f"none-s{seed}", counts(50), f"seed={seed}", seconds=100.0 + seed)
        fabricate(f"kl-s{seed}", counts(50), f"seed={seed}", seconds=seconds, taught=True)
    assert "differs from seed to seed" in (text := report(compare(find_runs(["runs"]))))
    assert "what else the machine did: kl 25.00 to 40.00 s." in text


def test_how_often_runs_were_scored_is_told(fabricate):
    fabricate("none", counts(50), "evaluate.every=200")
    fabricate("kl-s0", counts(50), "evaluate.every=20", taught=True)
    comparison = compare(find_runs(["runs"]))
    assert ["evaluate.every", "200", "20"] in settings(comparison).lines
    assert "more or less often" not in report(comparison), "what was done counts: a resume may change it"
    fabricate("kl-s1", counts(50), "evaluate.every=20", "seed=1", taught=True, curve=((1, 0.1), (2, 0.2), (4, 0.2)))
    (fabricate("dist", counts(50), "method=dist", taught=True) / "metrics.jsonl").unlink()
    told = "Scored more or less often, and the best of more scores is higher by chance: none, kl: 2 times; kl: 3 times."
    assert told in report(compare(find_runs(["runs"])))


@pytest.mark.parametrize("change, told", [
    ("optimizer.lr=0.5", "optimizer.lr: 0.02 there, 0.5 here"),
    ("loop.precision=bf16", "loop.precision: fp32 there, bf16 here"),
    ("data.args.length=9", "data.args.length: 15 there, 9 here"),
    ("data.labelled=1/4", "data.labelled: null there, 1/4 here"),
    ("data.transform={flip: 0.25}", "data.transform.flip: 0.5 there, 0.25 here"),
    ("networks.student.weights=w.pth", "student.weights: null there, w.pth here"),
    ("losses.cross_entropy.args={class_weights: inverse_sqrt}", "losses.cross_entropy.args.class_weights: null there"),
    ("losses.cross_entropy.weight=3", "losses.cross_entropy.weight: 1.0 there, 3.0 here"),
    ("losses.kl.weight=3", None),
    ("networks.teacher.model=pspnet", None),
    ("data.workers=1", None),
    ("schedule.iterations=8", None),
])  # fmt: skip
def test_what_differs_from_the_baseline_beside_the_method_is_told(fabricate, change, told):
    fabricate("none", counts(50))
    fabricate("kl", counts(60), taught=True)
    fabricate("dist", counts(60), "method=dist", change, taught=True)
    text = report(compare(find_runs(["runs"])))
    before = "Rows that differ from what their gain is over (there) in more than the method: "
    assert f"{before}dist: {told}" in text if told else before not in text


def test_versions_of_the_code_are_told_where_they_differ(fabricate):
    for name, code in {"none-s0": "a" * 40, "none-s1": None, "kl-s0": f"{'a' * 40} and {'b' * 40}-dirty"}.items():
        run = fabricate(name, counts(50), f"seed={name[-1]}", taught=name == "kl-s0")
        (run / "environment.json").write_text(json.dumps({"device": "cpu", "git": code}))
    told = "of the code: none: aaaaaaaa; none: an unknown one; kl: aaaaaaaa and bbbbbbbb-dirty."
    assert told in report(compare(find_runs(["runs"])))
    assert "of the code" not in report(compare(find_runs(["runs/none-s0"])))


def test_gains_of_other_seeds_than_the_baseline_has_are_told(fabricate):
    for seed in (0, 1):
        fabricate(f"none-s{seed}", counts(50), f"seed={seed}")
        fabricate(f"kl-s{seed}", counts(60), f"seed={seed + 1}", taught=True)
        fabricate(f"dist-s{seed}", counts(60), f"seed={seed}", "method=dist", taught=True)
    assert "Not of the same seeds, so that each one's are drawn apart for the interval: kl and none." in report(
        compare(find_runs(["runs"]))
    )


def test_a_gain_on_the_further_split_is_that_of_each_seed_where_both_have_the_same(fabricate):
    tested = {"none": [0.40, 0.50], "kl": [0.43, 0.55], "alone": [0.6]}
    for method, found in tested.items():
        for seed, miou in enumerate(found):
            which = f"seed={seed if method != 'alone' else 7}", f"method={method}"
            summary = fabricate(f"{method}-s{seed}", counts(50), *which, taught=method != "none") / "summary.json"
            held_back = {"split": "test", "images": 7, "miou": miou}
            summary.write_text(json.dumps(json.loads(summary.read_text()) | {"test": held_back}))
    comparison = compare(find_runs(["runs"]))
    lines = [[cell.strip() for cell in line.split("|")] for line in report(comparison).splitlines() if "|" in line]
    place, method = lines[0].index("test gain"), lines[0].index("method")
    shown = {line[method]: line[place] for line in lines[2:5]}
    assert shown == {"none": "-", "kl": "+4.00 +- 1.41", "alone": "+15.00"}
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(table_csv(comparison)))}
    assert float(rows["kl"]["test_gain"]) == pytest.approx(0.04)
    assert float(rows["kl"]["test_gain_std"]) == pytest.approx(0.02 / 2**0.5)
    assert (rows["none"]["test_gain"], rows["alone"]["test_gain_std"]) == ("", "")


def test_a_table_says_how_settings_were_chosen_and_how_many_iterations_fitted(fabricate):
    for seed, count in ((0, 40), (1, 42)):
        measured = "schedule={seconds: 90, measured: true, iterations: %d}" % count
        fabricate(f"none-s{seed}", counts(50), f"seed={seed}", measured, 'tuned="3 trials of optimizer.lr"')
    fabricate("kl", counts(60), taught=True)
    comparison = compare(find_runs(["runs"]))
    text = report(comparison)
    assert "How settings were chosen: none: 3 trials of optimizer.lr; kl: not tuned here." in text
    assert "none: 40 to 42 iterations (as fit into 1:30) of 4 crops of 32 x 32; kl: 4 iterations of" in text
    none, kl = csv.DictReader(io.StringIO(table_csv(comparison)))
    assert (none["tuned"], kl["tuned"], none["seeds"]) == ("3 trials of optimizer.lr", "", "0 1")
    assert float(none["step_seconds"]) == pytest.approx((90 / 40 + 90 / 42) / 2)


def test_a_table_says_where_the_time_goes(runs):
    lines = report(compare(runs)).splitlines()
    first = lines.index("Where a step's time goes (ms):") + 2
    assert [[word.strip() for word in line.strip("|").split("|")] for line in lines[first : first + 5]] == [
        ["student", "method", "step", "data", "teacher", "student", "an evaluation (s)"],
        ["---"] * 7,
        # the step of 61 s in 4 iterations, the mean of both seeds' phases
        ["pspnet mobilenetv2_035", "none", "15250.0", "1.0", "-", "250.0", "3.00"],
        ["pspnet mobilenetv2_035", "kl", "22500.0", "1.0", "500.0", "250.0", "3.00"],
        ["pspnet mobilenetv2_035", "long", "411111.1", "-", "-", "-", "-"],
    ]
    assert "time goes" not in report(compare([run for run in runs if run.recipe.method_name == "long"]))


def test_a_table_can_show_that_plain_training_has_more_of_the_same_time(fabricate):
    fabricate("none", counts(50), seconds=60.0)
    fabricate("kl", counts(60), taught=True, seconds=90.0)
    fabricate("long", counts(70), "method=long", "schedule.iterations=6", seconds=90.0, curve=((3, 0.6), (6, 0.85)))
    comparison = compare(find_runs(["runs"]))
    text = report(comparison)
    (line,) = [line for line in text.splitlines() if "| kl | 1 |" in line]
    assert "| 80.00 | +5.00 | one seed | 85.00 |" in line and "| 1.50x | 1:30 |" in line
    assert [row["none_same_time"] for row in csv.DictReader(io.StringIO(table_csv(comparison)))] == ["", "", "0.85"]
    assert "is of fewer runs" not in text
    for method, seed in (("kl", 1), ("dist", 0), ("dist", 1), ("dist", 2)):
        which = f"seed={seed}", f"method={method}" if method == "dist" else "data.workers=0"
        fabricate(f"{method}-s{seed}", counts(60), *which, taught=True, seconds=90.0)
    assert "none, same time is of fewer runs than the row: dist, kl: 1 run." in report(compare(find_runs(["runs"])))


def test_names_from_recipes_and_data_are_text(fabricate, folder):
    for name, found, method in (("plain", 50, r"<b>a|$\b$"), ("kl", 60, "_")):
        run = fabricate(name, counts(found), f"method={method}", taught=name == "kl")
        student = json.loads((run / "student/config.json").read_text())
        (run / "student/config.json").write_text(json.dumps(student | {"class_names": ["a|b", "two\nlines", "_"]}))
    text = write_comparison(compare(find_runs(["runs"])), folder / "out")  # pictures included
    assert r"| \<b>a\|\$\\b\$ | 1 | 75.00 |" in text and r"Gains are over \<b>a\|\$\\b\$." in text
    assert r"| a\|b | 50.00 | +10.00 |" in text and "| two lines | 100.00 |" in text


def test_the_csv_has_the_same_numbers_with_all_digits(runs):
    none, kl, long = csv.DictReader(io.StringIO(table_csv(compare(runs))))
    assert float(none["miou"]) == pytest.approx((0.75 + 0.7) / 2) and float(kl["miou"]) == pytest.approx(0.85)
    assert float(kl["miou_std"]) == pytest.approx(0.1 / 2**0.5)
    assert (kl["baseline"], kl["method"], kl["seeds"], kl["runs"]) == ("none", "kl", "0 1", "runs/kl-s0 runs/kl-s1")
    for key, expected in {"gain": 0.125, "gain_low": 0.05, "gain_high": 0.2, "gain/class 0": 0.25}.items():
        assert float(kl[key]) == pytest.approx(expected) and none[key] == ""
    assert float(kl["iou/class 0"]) == pytest.approx(0.7) and kl["iou/class 2"] == kl["gain/class 2"] == ""
    assert (float(kl["flops"]), float(kl["images_per_second"]), float(kl["training_seconds"])) == (3e9, 125, 90)
    assert (float(kl["step_seconds"]), kl["step_relative"], kl["none_same_time"]) == (22.5, "", "")
    assert (float(none["step_relative"]), float(long["step_relative"])) == pytest.approx((1, 3700 / 9 / (61 / 4)))
    assert float(kl["seconds/student"]) == pytest.approx(0.25) and float(kl["seconds/teacher"]) == 0.5
    assert none["seconds/teacher"] == long["seconds/student"] == long["gain_low"] == ""
    assert kl["split"] == "val" and kl["protocol"].startswith("whole images")


def test_a_comparison_is_written_over_an_earlier_one(runs, folder):
    write_comparison(compare(runs[:2]), folder / "out")
    text = write_comparison(compare(runs), folder / "out")
    assert {path.name for path in (folder / "out").iterdir()} == {"table.md", "table.csv", "report.html", "table.png",
                                                               "curves.png", "curves_over_time.png"}  # fmt: skip
    assert (folder / "out/table.md").read_text().startswith(text)
