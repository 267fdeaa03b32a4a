"""What a method costs beside plain training, and what plain training makes of the same time."""

import numpy as np
import pytest

from segkd.runner.comparing.comparison import compare
from segkd.runner.comparing.equal_time import plain_at_same_time, plain_of, relative_step
from segkd.runner.comparing.finished_runs import find_runs

AS_LONG = ("method=none, as long", "schedule.iterations=8")


def counts(best: float) -> np.ndarray:
    """(1, 1, 3): one class with this IoU."""
    return np.array([[[round(1000 * best), 1000, round(1000 * best)]]])


@pytest.fixture
def trained(fabricate):
    """trained("kl", seconds, mious, ...): mIoU every second iteration in that time; the rows by their methods."""

    def add(name, seconds, mious, *assignments, **settings):
        curve = tuple((2 * number, miou) for number, miou in enumerate(mious, start=1))
        fabricate(name, counts(max(mious)), *assignments, curve=curve, seconds=seconds, **settings)
        rows = compare(find_runs(["runs"])).rows
        return {row.method: plain_at_same_time(row, rows)[0] for row in rows}, {row.method: row for row in rows}

    return add


def test_a_method_can_lose_to_plain_training_of_its_time(trained):
    trained("none", 100.0, [0.3, 0.4])
    found, rows = trained("kl", 160.0, [0.3, 0.42], taught=True)
    assert rows["kl"].gain.mean == pytest.approx(0.02)
    assert np.isnan(list(found.values())).all(), "no plain run was trained for 160 s"
    # evaluated at 50, 100, 150 and 200 s: what it has at 160 s is that of its third
    found, rows = trained("long", 200.0, [0.2, 0.45, 0.45, 0.5], *AS_LONG)
    assert found["kl"] == pytest.approx(0.45) and np.isnan([found["none"], found["none, as long"]]).all()
    assert [rows[name].gain and rows[name].gain.over.method for name in rows] == [None, None, "none"]
    listed = list(rows.values())
    steps = [relative_step(rows[name], listed) for name in ("none", "none, as long", "kl")]
    assert steps == pytest.approx([1, 1, 1.6])


def test_the_best_until_then_counts_and_of_a_shorter_training_its_end(trained):
    trained("none", 100.0, [0.3, 0.4])
    trained("long", 200.0, [0.35, 0.2, 0.3, 0.5], *AS_LONG)
    found, _ = trained("kl", 120.0, [0.3, 0.42], taught=True)
    assert found["kl"] == pytest.approx(0.4), "0.35 of the long one at 120 s, 0.4 of the one that was over by then"
    found, _ = trained("cheap", 60.0, [0.3, 0.42], "method=cheap", "losses.kl.weight=2", taught=True)
    assert found["cheap"] == pytest.approx(0.35), "of the long one, 0.3 of the short one at 60 s"
    found, _ = trained("quick", 40.0, [0.3, 0.42], "method=quick", "losses.kl.weight=3", taught=True)
    assert np.isnan(found["quick"]), "nothing was scored by then"


def test_clocks_are_not_exact(trained):
    trained("none", 100.0, [0.3, 0.4])
    found, _ = trained("kl", 101.0, [0.3, 0.42], taught=True)
    assert found["kl"] == pytest.approx(0.4)
    # the long one was scored with 0.9 at 100.0 s, a moment after the end of the method
    trained("long", 200.0, [0.2, 0.9, 0.9, 0.9], *AS_LONG)
    found, _ = trained("dist", 99.0, [0.3, 0.42], "method=dist", "losses.kl.weight=2", taught=True)
    assert found["dist"] == pytest.approx(0.9)


def test_all_runs_of_both_are_asked(trained):
    for seed, end in enumerate((0.4, 0.6, 0.2)):
        trained(f"none-s{seed}", 100.0, [0.05, end], f"seed={seed}")
    for seed, seconds in enumerate((70.0, 130.0), start=2):  # 100 s on average
        found, _ = trained(f"kl-s{seed}", seconds, [0.3, 0.42], f"seed={seed}", taught=True)
    assert found["kl"] == pytest.approx(0.4)


@pytest.mark.parametrize("other", [
    ("networks.student.args.width=16",), ("optimizer.lr=0.5",), ("data.labelled=1/4",), ("loop.ema=0.9",),
])  # fmt: skip
def test_only_the_schedule_may_differ(trained, other):
    trained("none", 50.0, [0.3, 0.4])
    trained("other", 200.0, [0.5, 0.6], "method=other", *other)
    found, rows = trained("kl", 80.0, [0.3, 0.42], taught=True)
    assert np.isnan(found["kl"]) and plain_of(rows["kl"], list(rows.values())).method == "none"


def test_times_of_different_devices_do_not_compare(trained):
    trained("none", 100.0, [0.3, 0.4], device="a GPU")
    found, rows = trained("kl", 50.0, [0.3, 0.42], taught=True)
    assert np.isnan(found["kl"]) and np.isnan(relative_step(rows["kl"], list(rows.values())))


def test_a_plain_run_without_a_log_has_nothing_to_tell(trained, fabricate):
    (fabricate("none", counts(0.4), seconds=100.0) / "metrics.jsonl").unlink()
    found, rows = trained("kl", 50.0, [0.3, 0.42], taught=True)
    assert not rows["none"].runs[0].curve and np.isnan(found["kl"])


def test_a_long_training_without_a_log_is_not_told_by_a_short_one(trained, fabricate):
    trained("none", 100.0, [0.3, 0.4])
    (fabricate("long", counts(0.5), *AS_LONG, seconds=200.0) / "metrics.jsonl").unlink()
    found, _ = trained("kl", 150.0, [0.3, 0.42], taught=True)
    assert np.isnan(found["kl"])


def test_of_how_many_runs_plain_training_is(trained):
    trained("none", 100.0, [0.3, 0.4])
    trained("long-s0", 200.0, [0.2, 0.45, 0.45, 0.5], *AS_LONG)
    trained("long-s1", 200.0, [0.2, 0.35, 0.35, 0.5], *AS_LONG, "seed=1")
    for seed in range(3):
        _, rows = trained(f"kl-s{seed}", 100.0, [0.3, 0.42], f"seed={seed}", taught=True)
    found, _ = plain_at_same_time(rows["kl"], list(rows.values()))
    assert found == pytest.approx(0.4) and plain_at_same_time(rows["kl"], list(rows.values()))[1] == 2
    assert plain_at_same_time(rows["none"], list(rows.values()))[1] == 0


def test_another_baseline_leaves_the_cost_beside_plain_training(fabricate):
    fabricate("none", counts(0.4), seconds=100.0, curve=((2, 0.3), (4, 0.4)))
    fabricate("kl", counts(0.5), seconds=90.0, taught=True)
    fabricate("dist", counts(0.6), "method=dist", "losses.kl.weight=2", seconds=150.0, taught=True)
    listed = compare(find_runs(["runs"]), baseline="kl").rows
    rows = {row.method: row for row in listed}
    assert rows["dist"].gain.over.method == rows["none"].gain.over.method == "kl"
    assert plain_of(rows["none"], listed) is plain_of(rows["kl"], listed) is plain_of(rows["dist"], listed)
    assert [relative_step(rows[name], listed) for name in ("none", "kl", "dist")] == pytest.approx([1, 0.9, 1.5])
    assert plain_at_same_time(rows["kl"], listed) == (pytest.approx(0.3), 1)


def test_a_plain_row_is_no_measure_of_itself(trained):
    trained("none", 100.0, [0.3, 0.4])
    trained("large", 200.0, [0.3, 0.5], "method=large", "data.crop_size=[64, 64]")
    found, rows = trained("kl", 110.0, [0.3, 0.42], taught=True)
    listed = list(rows.values())
    assert relative_step(rows["large"], listed) == pytest.approx(2) and rows["large"].gain is None
    assert np.isnan(relative_step(rows["large"], [rows["none"], rows["large"]])), "nobody knows which one is plain"
    assert relative_step(rows["large"], [rows["large"]]) == 1


def test_of_a_mixture_of_devices_the_usual_one_s_times_compare(trained):
    for seed, (device, seconds) in enumerate([("A", 100.0), ("B", 10.0), ("B", 14.0)]):
        trained(f"none-s{seed}", seconds, [0.3, 0.1 * seed], f"seed={seed}", device=device)
    trained("long", 30.0, [0.05, 0.2, 0.5, 0.6], *AS_LONG, device="A")
    for seed, (device, seconds) in enumerate([("B", 15.0), ("A", 110.0), ("B", 15.0)]):
        found, rows = trained(f"kl-s{seed}", seconds, [0.3, 0.4], f"seed={seed}", device=device, taught=True)
    listed = list(rows.values())
    assert relative_step(rows["kl"], listed) == pytest.approx(1.25) and rows["kl"].cost("seconds") == 15.0
    assert np.isnan(found["kl"]), "on B nobody was trained for 15 s"
    _, rows = trained("long-s1", 30.0, [0.05, 0.2, 0.5, 0.6], *AS_LONG, "seed=1", device="B")
    assert plain_at_same_time(rows["kl"], list(rows.values())) == (pytest.approx(0.3), 2)


def test_a_longer_plain_training_counts_where_a_search_chose_its_own_rate(trained):
    trained("none", 100.0, [0.3, 0.4], "optimizer.lr=0.5", "tuned=search")
    trained("long", 200.0, [0.35, 0.4, 0.45, 0.5], *AS_LONG, "optimizer.lr=0.25", "tuned=search")
    found, _ = trained("kl", 150.0, [0.3, 0.42], "tuned=search", "optimizer.lr=0.5", taught=True)
    assert found["kl"] == pytest.approx(0.45)
