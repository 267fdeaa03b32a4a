"""Which runs are one experiment, what it is compared with, and what cannot stand in one table."""

import json
from dataclasses import replace

import numpy as np
import pytest

from segkd.runner.comparing.bootstrap import mean_iou, resampled_gains, resamples
from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.finished_runs import find_runs
from segkd.runner.comparing.page import gain_marks
from segkd.runner.comparing.tables import deviation, report

TEACHER = "networks.teacher={model: pspnet, args: {backbone: resnet18}, weights: t, train: false}"
KL = (TEACHER, "losses=[{loss: cross_entropy}, {loss: kl, weight: 2}]")
DIST = (TEACHER, "losses=[{loss: cross_entropy}, {loss: dist}]")


def counts(share: float, seed: int = 0, images: int = 6) -> np.ndarray:
    """(N, 3, 3) counts with about `share` of the label found; the third class never occurs."""
    label = np.arange(1, 2 * images + 1).reshape(images, 2) * 10
    both = (label * (share + np.random.default_rng(seed).uniform(-0.1, 0.1, label.shape))).astype(int)
    return np.pad(np.stack([both, label, both + 3], -1), ((0, 0), (0, 1), (0, 0)))


def test_runs_that_differ_in_their_seed_are_one_row(fabricate):
    given = {}
    for seed in range(3):
        given["none", seed], given["kl", seed] = counts(0.5, seed), counts(0.6, 10 + seed)
        fabricate(f"x-kl-s{seed}", given["kl", seed], f"seed={seed}", *KL, teachers={"teacher": 0.7})
        fabricate(f"x-none-s{seed}", given["none", seed], f"seed={seed}", "tracking.every=7", f"data.workers={seed}")
    fabricate("x-dist-s1", counts(0.55), "seed=1", *DIST)
    none, dist, kl = compare(find_runs(["runs"])).rows
    assert [row.method for row in (none, dist, kl)] == ["none", "dist", "kl"]
    assert [run.recipe.seed for run in kl.runs] == [0, 1, 2] and [run.recipe.seed for run in dist.runs] == [1]
    assert (none.student, none.teacher) == ("pspnet mobilenetv2_035", "-")
    assert (kl.student, kl.teacher) == ("pspnet mobilenetv2_035", "pspnet resnet18 (70.00)")

    mious = [mean_iou(given["kl", seed].sum(0), "skip") for seed in range(3)]
    assert kl.miou == pytest.approx(mious) and deviation(kl.miou) == pytest.approx(np.std(mious) * (3 / 2) ** 0.5)
    assert np.isnan(deviation(dist.miou)) and none.gain is None
    assert kl.gain.mean == pytest.approx(np.mean(mious) - none.miou.mean())
    ours, theirs = (np.stack([given[method, seed] for seed in range(3)]) for method in ("kl", "none"))
    # 2000 resamples of the three seeds and the six images, the same for both
    expected = sorted(resampled_gains(ours, theirs, "skip", resamples(6, seed=0), 2 * [resamples(3, seed=1)]))
    assert kl.gain.low == pytest.approx(expected[50], abs=1e-3) and expected[49] <= kl.gain.low <= expected[50]
    assert expected[1949] <= kl.gain.high <= expected[1950]
    assert np.isnan(kl.gain.per_class[2]) and kl.gain.per_class[:2].mean() == pytest.approx(kl.gain.mean)


def test_one_seed_has_a_gain_and_no_interval(fabricate):
    for name, settings in {"none": (), "kl": KL}.items():
        for seed in (0, 1) if name == "none" else (1, 2):
            fabricate(f"{name}-s{seed}", counts(0.5 + 0.1 * seed, seed), f"seed={seed}", *settings)
    for given in (["runs/none-s0", "runs/kl-*"], ["runs/none-*", "runs/kl-s1"], ["runs/none-s0", "runs/kl-s1"]):
        none, kl = compare(find_runs(given)).rows
        assert kl.gain.mean == pytest.approx(kl.miou.mean() - none.miou.mean()) and not kl.gain.paired
        assert np.isnan([kl.gain.low, kl.gain.high]).all()


@pytest.mark.parametrize("plain, taught", [((0, 1), (2, 3)), ((0, 1), (1, 2)), ((0, 1, 2), (0, 1)), ((2, 0), (0, 2))])
def test_a_gain_is_that_of_all_runs_and_only_the_same_seeds_are_drawn_together(fabricate, plain, taught):
    for seed in plain:
        fabricate(f"none-{5 - seed}", counts(0.5, seed), f"seed={seed}")
    for seed in taught:
        fabricate(f"kl-{5 - seed}", counts(0.6, 10 + seed), f"seed={seed}", *KL)
    none, kl = compare(find_runs(["runs"])).rows  # the highest seed is found first
    assert (none.seeds, kl.seeds) == (sorted(plain), sorted(taught)) and kl.gain.paired == (none.seeds == kl.seeds)
    assert kl.gain.mean == pytest.approx(kl.miou.mean() - none.miou.mean(), rel=1e-12)
    assert kl.gain.per_class[:2] == pytest.approx(kl.per_class[:2] - none.per_class[:2])
    ours = np.stack([counts(0.6, 10 + seed) for seed in sorted(taught)])
    theirs = np.stack([counts(0.5, seed) for seed in sorted(plain)])
    seeds = resamples(len(ours), seed=1), resamples(len(theirs), seed=1 if kl.gain.paired else 2)
    expected = resampled_gains(ours, theirs, "skip", resamples(6, seed=0), seeds)
    assert [kl.gain.low, kl.gain.high] == pytest.approx(np.quantile(expected, [0.025, 0.975]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labelled", [1, 0])
def test_draws_without_a_labelled_pixel_are_left_out(fabricate, labelled):
    images = np.arange(3)[:, None, None] < labelled  # of three images, one has labels: 8 of 27 draws have none
    for seed in range(2):
        fabricate(f"none-s{seed}", images * counts(0.5, seed, 3), f"seed={seed}")
        fabricate(f"kl-s{seed}", images * counts(0.6, 9 + seed, 3), f"seed={seed}", *KL)
    comparison = compare(find_runs(["runs"]))
    none, kl = comparison.rows
    found = [kl.gain.low, kl.gain.mean, kl.gain.high]
    assert found == sorted(found) if labelled else np.isnan(found).all()
    shown = [line for line in report(comparison).splitlines() if "| kl | 2 |" in line]
    assert "one seed" not in shown[0] and (" to " in shown[0]) == bool(labelled)
    marks = gain_marks(comparison.rows)
    assert marks[0] is None and (marks[1] is None or 0 <= min(marks[1]["ends"]) <= max(marks[1]["ends"]) <= 1)


def test_networks_are_called_as_everywhere(fabricate):
    networks = "networks={student: {source: timm, model: convnext_tiny, args: {head: pspnet}}, " + (
        "average: {ema_of: student, train: false}, teacher: {model: sam, train: false, weights: random}}"
    )
    fabricate("x", counts(0.5), networks, "losses=[{loss: cross_entropy}, {loss: kl, from: average}]")
    (row,) = compare(find_runs(["runs"])).rows
    assert (row.student, row.teacher) == ("pspnet timm/convnext_tiny", "average of student + sam vit_b")


def test_a_score_keeps_the_protocol_it_was_made_with(fabricate):
    run = fabricate("resumed", counts(0.5))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"protocol": "whole images at half size"}))
    assert compare(find_runs(["runs"])).protocol == "whole images at half size"
    fabricate("other", counts(0.5), "seed=1")
    # the third class never occurs, so that its score of 0 is a third of the mean
    zero = json.loads((run / "summary.json").read_text()) | {"miou": 2 / 3 * summary["miou"], "absent": "zero"}
    (run / "summary.json").write_text(json.dumps(zero))
    assert compare(find_runs([str(run)])).rows[0].miou == pytest.approx([zero["miou"]])
    with pytest.raises(
        ValueError, match="differ in protocol: whole images at native size, .* and whole images at half"
    ):
        compare(find_runs(["runs"]))


def test_rows_that_would_read_the_same_are_told_apart_by_name(fabricate):
    fabricate("light-s0", counts(0.5), *KL)
    fabricate("heavy-s0", counts(0.5), *KL, "losses.kl.weight=9")
    fabricate("called-s0", counts(0.5), *KL, "losses.kl.weight=8", "method=KD")
    rows = compare(find_runs(["runs"])).rows
    assert [row.method for row in rows] == ["KD", "kl (heavy)", "kl (light)"]
    assert [row.gain for row in rows] == [None] * 3


def test_rows_of_one_name_are_told_apart_by_folder(fabricate):
    for number, weight in enumerate((2, 8, 9)):
        folder = f"tracking.folder=runs/{number}"
        fabricate("x-s0", counts(0.5 + number / 10), *KL, f"losses.kl.weight={weight}", "method=KD", folder)
    fabricate("y-s0", counts(0.5), *KL, "losses.kl.weight=7", "method=KD (x)")
    runs = find_runs(["runs"])
    rows = compare(runs).rows
    methods = ["KD (runs/0/x-s0)", "KD (runs/1/x-s0)", "KD (runs/2/x-s0)", "KD (x) (runs/y-s0)"]
    assert sorted(row.method for row in rows) == methods
    for method in methods:
        found = compare(runs, baseline=method).rows
        assert {row.gain.over.method for row in found if row.gain} == {method}
        assert [row.method for row in found if not row.gain] == [method]


def test_a_label_says_as_little_as_tells_a_row_from_others(fabricate):
    fabricate("none", counts(0.5))
    fabricate("kl", counts(0.6), *KL)
    fabricate("kl-deep", counts(0.7), *KL, "networks.teacher.args.backbone=resnet50", "data.labelled=1/4")
    fabricate("kl-wide", counts(0.7), *KL, "networks.student.args.width=16", "networks.student.args.backbone=resnet18")
    runs = find_runs(["runs/none", "runs/kl", "runs/kl-deep", "runs/kl-wide"])
    exported = replace(runs[0], folder=runs[0].folder / "export/student-int8.onnx", program="INT8", curve=[])
    found = [row.label for row in compare([*runs, exported]).rows]
    assert found == ["none", "none (INT8)", "kl (pspnet mobilenetv2_035, pspnet resnet18)", "kl (pspnet resnet50)",
                     "kl (pspnet resnet18)"]  # fmt: skip
    text = report(compare(runs[:3]))
    assert "| class | none | kl (pspnet resnet18) | kl (pspnet resnet50) |" in text, "columns differ in their titles"


def test_the_baseline_has_the_same_student_and_the_most_alike_settings(fabricate):
    quarter = ["data.labelled=1/4", "data.unlabelled={strong: {}}"]
    fabricate("all", counts(0.5))
    fabricate("quarter", counts(0.4), "data.labelled=1/4")
    fabricate("wide", counts(0.7), "networks.student.args.width=16")
    fabricate("kl", counts(0.6), *KL)
    fabricate("kl-quarter", counts(0.45), *KL, *quarter)
    fabricate("kl-wider", counts(0.9), *KL, "networks.student.args.width=24")
    rows = compare(find_runs(["runs"]), sort=True).rows
    over = {row.runs[0].folder.name: row.gain and row.gain.over.runs[0].folder.name for row in rows}
    assert over == {"kl-wider": None, "wide": None, "kl": "all", "all": None, "kl-quarter": "quarter", "quarter": None}
    assert list(over) == ["kl-wider", "wide", "kl", "all", "kl-quarter", "quarter"]


def test_any_method_or_run_can_be_the_baseline(fabricate):
    fabricate("none", counts(0.5))
    fabricate("kl", counts(0.6), *KL, "method=KD")
    fabricate("dist", counts(0.7), *DIST, "networks.student.args.width=16")
    runs = find_runs(["runs"])
    for asked in ("KD", "kl", "runs/kl"):
        none, dist, kl = compare(runs, baseline=asked).rows
        assert kl.gain is None and dist.gain.over is none.gain.over is kl
        assert none.gain.mean == pytest.approx(none.miou[0] - kl.miou[0])
    exported = [replace(run, folder=run.folder / "export/student-int8.onnx", program="INT8", curve=[]) for run in runs]
    with pytest.raises(ValueError, match="no method of that name is compared; these are exported files; add their runs"):
        compare(exported, baseline="none")
    with pytest.raises(ValueError, match="--baseline DK: no run and no method .*, did you mean 'KD'?.* none, dist, KD"):
        compare(runs, baseline="DK")


def test_runs_on_other_images_are_refused(fabricate):
    fabricate("none", counts(0.5))
    fabricate("kl", counts(0.6), *KL, "data.train_split=trainval")
    with pytest.raises(ValueError, match="they differ in split to train on: trainval and train"):
        compare(find_runs(["runs"]))


def test_two_baselines_that_are_equally_alike_must_be_chosen_from(fabricate):
    fabricate("a", counts(0.5), "optimizer.lr=0.01")
    fabricate("b", counts(0.5), "optimizer.lr=0.04")
    fabricate("kl", counts(0.6), *KL)
    with pytest.raises(ValueError, match="runs/kl could be compared with runs/a or runs/b; say which with --baseline"):
        compare(find_runs(["runs"]))
    rows = compare(find_runs(["runs"]), baseline="runs/b").rows
    assert [row.gain and row.gain.over for row in rows] == [rows[1], None, rows[1]]


def test_a_baseline_of_which_one_seed_was_scored_or_ended_otherwise_is_still_one(fabricate):
    for seed, changes in enumerate((["evaluate.every=2"], ["evaluate.every=2"], ["evaluate.every=1"])):
        fabricate(f"none-s{seed}", counts(0.5, seed), f"seed={seed}", *changes)
    for seed in (3, 4):
        summary = fabricate(f"none-s{seed}", counts(0.5, seed), f"seed={seed}", "evaluate.every=2") / "summary.json"
        summary.write_text(json.dumps(json.loads(summary.read_text()) | {"unfinished": "is unfinished"}))
    fabricate("kl-s0", counts(0.6), *KL, "evaluate.every=2")
    fabricate("dist-s2", counts(0.6), *DIST, "seed=2", "evaluate.every=1")
    fabricate("kd-s0", counts(0.6), *KL, "method=KD", "evaluate.every=3")
    for baseline in (None, "none"):
        rows = compare(find_runs(["runs"]), baseline=baseline).rows
        found = {row.recipe.method_name: row.gain.over.seeds for row in rows if row.gain}
        assert found == {"kl": [0, 1], "dist": [2], "KD": [0, 1]}


def test_of_equally_alike_baselines_the_one_counts_whose_losses_the_row_has(fabricate):
    weighed = "{loss: cross_entropy, args: {class_weights: inverse_sqrt}}"
    fabricate("none", counts(0.5), f"losses=[{weighed}]")
    fabricate("unweighed", counts(0.5), "method=unweighed")
    fabricate("kl", counts(0.6), TEACHER, f"losses=[{weighed}, {{loss: kl}}]")
    fabricate("dist", counts(0.6), *DIST)
    found = {row.method: row.gain and row.gain.over.method for row in compare(find_runs(["runs"])).rows}
    assert found == {"none": None, "unweighed": None, "kl": "none", "dist": "unweighed"}


@pytest.mark.parametrize("difference, told", [
    (["evaluate.mode=slide"], "they differ in protocol: whole images .* and windows of 32 x 32 "),
    (["evaluate.absent=zero"], "they differ in protocol: .*absent classes: skip and .*absent classes: zero"),
    (["data.val_split=test"], "they differ in split: val and test"),
    (["data={dataset: camvid, crop_size: [32, 32]}"], "they differ in data set: synthetic and camvid"),
])  # fmt: skip
def test_what_was_scored_otherwise_is_refused(fabricate, difference, told):
    fabricate("a", counts(0.5))
    fabricate("b", counts(0.5), *difference)
    with pytest.raises(ValueError, match=f"runs/a and runs/b cannot be compared, {told}"):
        compare(find_runs(["runs"]))


def test_other_images_or_labels_are_refused(fabricate):
    fabricate("a", counts(0.5))
    fewer = fabricate("fewer", counts(0.5, images=5))
    relabelled = counts(0.5)
    relabelled[2, 0, 1] += 1
    fabricate("labels", relabelled)
    renamed = fabricate("names", counts(0.5))
    np.savez(renamed / "images.npz", names=np.array(list("012345")), counts=counts(0.5))
    for other, told in (
        (fewer, "they differ in number of images: 6 and 5"),
        (renamed, "they differ in images: 0.png and 0"),
        ("runs/labels", r"they differ in label pixels of 2.png: \[50, 60, 0\] and \[51, 60, 0\]"),
    ):
        with pytest.raises(ValueError, match=told):
            compare(find_runs(["runs/a", str(other)]))


def test_one_experiment_counts_a_seed_once(fabricate):
    fabricate("a", counts(0.5))
    fabricate("b", counts(0.5))
    with pytest.raises(ValueError, match="runs/a and runs/b are the same experiment with the same seed, 0; leave one"):
        compare(find_runs(["runs"]))


def test_a_row_is_the_baseline_of_its_exported_file_in_any_order(fabricate):
    fabricate("none", counts(0.5))
    fabricate("kl", counts(0.6), *KL)
    none, kl = find_runs(["runs/none", "runs/kl"])
    int8 = replace(kl, folder=kl.folder / "export/student-int8.onnx", program="INT8", counts=counts(0.7), curve=[])
    for sort in (False, True):
        comparison = compare([none, kl, int8], sort=sort)
        found = {
            base.method + base.program: [row.program or row.method for row in rows] for base, rows in comparison.gains()
        }
        assert found == {"none": ["kl"], "kl": ["INT8"]}
        comparison = compare([none, kl, int8], sort=sort, baseline="kl")
        assert [base.program for base, _ in comparison.gains()] == [""], "a method's name is that of its training"


def test_an_exported_file_is_set_beside_the_run_it_was_exported_from(fabricate):
    for seed, share in enumerate((0.5, 0.7)):
        fabricate(f"none-s{seed}", counts(share), f"seed={seed}")
    first, second = find_runs(["runs/none-s0", "runs/none-s1"])
    int8 = replace(second, folder=second.folder / "export/student-int8.onnx", program="INT8", curve=[])
    row, exported = compare([first, second, int8]).rows
    assert exported.gain.over is row and exported.gain.mean == 0 and exported.gain.paired
