"""What kind of file a mapping was read from: a recipe, several to be trained side by side, or a sweep."""

from pathlib import Path

from segkd.runner.console import command

RECIPE, TOGETHER, SWEEP = "a recipe", "a list of recipes that are trained side by side", "a sweep"
# what only a file of this kind says, and the command that takes it
TOLD_BY = {"networks": RECIPE, "losses": RECIPE, "data": RECIPE, "together": TOGETHER, "methods": SWEEP}
TAKEN_BY = {RECIPE: "distill", TOGETHER: "distill", SWEEP: "sweep"}


def refuse_other_kind(values: dict, path: Path, wanted: str) -> None:
    """ValueError where what a file says is of another kind than is wanted, and of none that is."""
    kinds = [kind for key, kind in TOLD_BY.items() if key in values]
    if kinds and wanted not in kinds:
        raise ValueError(f"{path} is {kinds[0]} and not {wanted}; `{command(TAKEN_BY[kinds[0]], path)}` trains it")
