"""compare.py from the command line."""

import numpy as np

COUNTS = np.array([[[5, 10, 5], [4, 8, 9]], [[9, 10, 9], [1, 8, 1]]])


def test_the_tables_lie_beside_the_runs_or_where_asked(server, folder, fabricate):
    fabricate("none", COUNTS)
    fabricate("kl", COUNTS, taught=True)
    (fabricate("begun", COUNTS, "seed=1", taught=True) / "student/config.json").unlink()
    result = server(folder, "compare", "runs", "--skip-unfinished", "--baseline", "kl")
    assert result.code == 0, result.err
    assert "| none | 1 | 46.90 | +0.00 | one seed | - |" in result.out
    assert "2 runs: runs/comparison/report.html, table.md" in result.out
    assert "Not in the table, as they failed or have not come to their end: begun." in result.out
    assert server(folder, "compare", "runs/none", "runs/k*", "--output", "elsewhere", "--sort").code == 0
    assert {path.name for path in (folder / "elsewhere").iterdir()} == {
        path.name for path in (folder / "runs/comparison").iterdir()
    }


def test_what_cannot_be_compared_is_one_sentence(server, folder, fabricate, assert_refused):
    fabricate("a", COUNTS)
    fabricate("b", COUNTS, "evaluate.flip=true")
    told = "runs/a and runs/b cannot be compared, they differ in protocol: "
    assert_refused(server(folder, "compare", "runs"), told)
    assert not (folder / "runs/comparison").exists()
    told = "runs/a/report.html belongs to the run"  # whose pages and curves it would replace
    assert_refused(server(folder, "compare", "runs/a", "--output", "runs/a"), told)


def test_results_that_are_kept_stand_beside_runs(server, folder, fabricate, assert_refused):
    fabricate("none", COUNTS)
    assert server(folder, "compare", "runs", "--keep", "kept").code == 0
    fabricate("kl", COUNTS, taught=True)
    result = server(folder, "compare", "kept", "runs/kl", "--output", "both")
    assert result.code == 0, result.err
    assert "| kl | 1 | 46.90 | +0.00 | one seed |" in result.out
    assert_refused(server(folder, "compare", "runs/none", "--keep", "runs"), "runs/none holds more than results")
