"""The closing table of a run: teachers, baseline and student, what the student has gained, and how all that is said."""

import numpy as np
from torch import nn

from segkd.runner.console import clock, command, markdown, number, percent, say, say_table
from segkd.runner.recipe.protocols import protocol_words
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.folder import RunFolder
from segkd.runner.scoring.cost import parameters
from segkd.runner.scoring.held_out import TOTAL


def row(title: str, model: str, network: nn.Module, value: float, milliseconds: float, measure: str = "miou") -> dict:
    """One line of the closing table; `value` is that of `measure`."""
    costs = {"parameters": parameters(network), "milliseconds": milliseconds}
    return {"network": title, "model": model, measure: value} | costs


def scored_alike(recipe: Recipe, other: Recipe) -> bool:
    """Whether the mIoU of two runs may be set beside each other."""
    ours, theirs = (
        (
            one.judged_by_loss,
            one.data.dataset,
            one.data.val_split,
            one.data.tuning_part,
            one.evaluate.absent,
            protocol_words(one),
        )
        for one in (recipe, other)
    )
    return ours == theirs


def scored_on_the_same(run: RunFolder, other: RunFolder) -> bool:
    """Whether the images of two runs have the same names, and as many label pixels of each class."""
    (names, counts), (theirs, their_counts) = run.read_images(), other.read_images()
    return names == theirs and np.array_equal(counts[..., 1], their_counts[..., 1])


def unlike(recipe: Recipe, baseline: Recipe, trained: tuple[int, int]) -> str:
    """What a baseline's training had that is no part of a method: `seed 0, 100 iterations`; empty where it is alike.

    Args:
        trained: how many iterations the run and its baseline came to, where patience or a person ended them earlier.
    """
    found = [f"seed {baseline.seed}"] if baseline.seed != recipe.seed else []
    ours, theirs = recipe.schedule, baseline.schedule
    if ours.budget != theirs.budget:
        found.append(f"{trained[1]} iterations" + (f" in {clock(theirs.budget)}" if theirs.budget is not None else ""))
    elif trained[0] != trained[1] and (ours.budget is None or trained != (ours.iterations, theirs.iterations)):
        found.append(f"{trained[1]} iterations")  # of the same time, each has measured its own number
    return ", ".join(found)


def say_closing(recipe: Recipe, rows: list[dict], run: RunFolder, end: str) -> None:
    """The end of a run on the console: what came out, what the teacher has brought, and where to look next.

    Args:
        end: `is done`, or why it is not.
    """
    columns, lines = closing_lines(rows)
    if len(rows) == 1:
        found = [
            (title.removesuffix(" (%)"), value, " %" * title.endswith(" (%)")) for title, value in zip(columns, *lines)
        ]
        result = ", ".join(f"{title} {value}{unit}" for title, value, unit in found[2:])
        say(f"{recipe.name} {end}: {result}: {run.page_file}")
        return
    say("")
    say_table(columns, lines)
    say("")
    if recipe.baseline is not None:
        base, ours = rows[-2:]
        name, differs = base["network"].partition(", ")[2], base["unlike"]
        if base["miou"] is None:
            say(f"{recipe.name} cannot be set beside {name}: {differs}")
        else:
            how = f", which had {differs}" if differs else " with this seed"
            gain, values = gained(base["miou"], ours["miou"])
            told = f"{gain} points of mIoU against {name}{how} ({values})"
            if base.get("test") is not None and ours.get("test") is not None:  # else one was not scored there
                gain, values = gained(base["test"], ours["test"])
                told += f"; on {recipe.data.test_split} {gain} ({values})"
            say(f"{recipe.name} has {told}")
    say(f"{recipe.name} {end}: its report is {run.page_file}, its student {run.student.path}")
    say(f"next      {command('predict', run.path, 'IMAGES', '--to', 'FOLDER')}")


def gained(before: float, after: float) -> tuple[str, str]:
    """0.4750 and 0.5041 -> `+2.91` and `47.50 -> 50.41`."""
    return percent(after - before, "{:+.2f}"), f"{percent(before)} -> {percent(after)}"


def closing_table(rows: list[dict]) -> str:
    """The closing table as Markdown."""
    return markdown(*closing_lines(rows))


def closing_lines(rows: list[dict]) -> tuple[list[str], list[list[str]]]:
    """The columns and lines of the closing table."""
    by_loss = TOTAL in rows[0]
    lines = [
        [r["network"], r["model"], number(r[TOTAL], "{:.5g}") if by_loss else percent(r["miou"])]
        + [f"{r['parameters'] / 1e6:.2f} M", f"{r['milliseconds']:.1f}"]
        for r in rows
    ]
    judged = "loss on held-out images" if by_loss else "mIoU (%)"
    return ["network", "model", judged, "parameters", "ms per image"], lines
