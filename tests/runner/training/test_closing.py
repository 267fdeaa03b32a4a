"""What is said of what a run has over its baseline."""

import numpy as np

from segkd.runner.recipe.read import read
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.training.closing import say_closing, scored_alike, scored_on_the_same, unlike


def test_a_gain_says_what_the_baseline_had_that_is_no_part_of_a_method(folder, capsys, monkeypatch):
    ours = read(folder / "tiny.yaml", ["baseline={recipe: tiny.yaml}"])
    rows = [{"network": name, "model": "m", "miou": miou, "parameters": 1, "milliseconds": 1.0}
            for name, miou in (("student, plain", 0.25), ("student, kl", 0.5))]  # fmt: skip
    for changes, told in [
        ([], "against plain with this seed (25.00 -> 50.00)"),
        (["optimizer.lr=0.5", "losses.cross_entropy.weight=2"], "against plain with this seed"),
        (["seed=3"], "against plain, which had seed 3 (25.00 -> 50.00)"),
        (["seed=3", "schedule.iterations=9"], "against plain, which had seed 3, 9 iterations"),
    ]:  # fmt: skip
        theirs = read(folder / "tiny.yaml", changes)
        assert scored_alike(ours, theirs)
        rows[0]["unlike"] = unlike(ours, theirs, (ours.schedule.iterations, theirs.schedule.iterations))
        say_closing(ours, rows, RunFolder(ours.folder), "is done")
        assert f"has +25.00 points of mIoU {told}" in capsys.readouterr().out
    two, other = (read(folder / "tiny.yaml", [f"schedule.hours={hours}"]) for hours in (2, 0.5))
    for one, base, trained, told in [
        (ours, ours, (4, 3), "3 iterations"),  # patience, or somebody, has ended it
        (two, ours, (9000, 4), "4 iterations"),
        (two, other, (9000, 450), "450 iterations in 30:00"),
        (ours, other, (4, 4), "4 iterations in 30:00"),
        (two.with_iterations(9), two.with_iterations(7), (9, 7), ""),
        (two.with_iterations(9), two.with_iterations(7), (9, 5), "5 iterations"),
    ]:
        assert unlike(one, base, trained) == told
    headless = read(folder / "tiny.yaml")
    with monkeypatch.context() as patched:
        patched.setattr(type(ours), "judged_by_loss", property(lambda one: one is headless))
        assert not scored_alike(ours, headless)
    for change in ("evaluate.absent=zero", "evaluate.flip=true", "data.val_split=train", "data.tuning_part=0.5"):
        assert not scored_alike(ours, read(folder / "tiny.yaml", [change])), change
    rows[0]["test"], rows[1]["test"] = 0.4, 0.375
    tested = read(folder / "tiny.yaml", ["baseline={recipe: tiny.yaml}", "data.test_split=test"])
    say_closing(tested, rows, RunFolder(ours.folder), "is done")
    assert "(25.00 -> 50.00); on test -2.50 (40.00 -> 37.50)\n" in capsys.readouterr().out
    rows[0] |= {"miou": None, "unlike": "it was scored in another way"}
    say_closing(ours, rows, RunFolder(ours.folder), "is done")
    assert "tiny cannot be set beside plain: it was scored in another way" in capsys.readouterr().out


def test_runs_that_were_scored_on_other_images_or_labels_are_not_set_beside_each_other(tmp_path):
    runs = {}
    for name, images, pixels in (
        ("a", ["1", "2"], 7),
        ("same", ["1", "2"], 7),
        ("b", ["1", "3"], 7),
        ("c", ["1", "2"], 9),
    ):
        runs[name] = RunFolder(tmp_path / name)
        runs[name].path.mkdir()
        counts = np.full((2, 3, 3), pixels)
        counts[..., 2] = len(name)  # what was predicted may differ
        np.savez(runs[name].images_file, names=np.array(images), counts=counts)
    assert scored_on_the_same(runs["a"], runs["same"])
    assert not scored_on_the_same(runs["a"], runs["b"]) and not scored_on_the_same(runs["a"], runs["c"])
