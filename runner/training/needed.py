"""What must be trained before recipes are: teachers and baselines that are recipes themselves."""

from accelerate.utils import release_memory

from segkd.runner.building.device import start_accelerator
from segkd.runner.building.losses import rehearse
from segkd.runner.console import say
from segkd.runner.recipe.read import read_needed
from segkd.runner.recipe.schema import Recipe
from segkd.runner.run_folder.opening import is_finished, refuse_used_folder
from segkd.runner.training.estimate import Cost, measured


def needed_first(recipes: list[Recipe], *, resume: bool, overwrite: bool) -> list[Recipe]:
    """The teachers and baselines that recipes name and that have not run yet, in the order to train them in.

    Where there are any, all are rehearsed: what is wrong with one must not show only after another has been trained.

    Raises:
        ValueError: one of them is among `recipes`, or a run folder is not free.
    """
    missing = {one.folder: one for recipe in recipes for one in read_needed(recipe, is_finished)}
    if not missing:
        return []
    beside = next((recipe for recipe in recipes if recipe.folder in missing), None)
    if beside is not None:
        raise ValueError(
            f"{beside.name} is to be trained beside recipes one of which needs it first; train it alone, then the "
            f"others, or leave it out here"
        )
    for recipe in recipes:
        refuse_used_folder(recipe, resume=resume, overwrite=overwrite)
    for one in missing.values():
        refuse_used_folder(one, resume=True, overwrite=False)
    _tell_what_follows([*missing.values(), *recipes])
    return [*missing.values()]


def _tell_what_follows(recipes: list[Recipe]) -> None:
    """Rehearses what is trained one after the other and says how long it takes."""
    cost = Cost(0, 0)
    for one in recipes:
        accelerator = start_accelerator(one)
        cost += measured(one, *rehearse(one, accelerator), accelerator)
    release_memory()
    if accelerator.is_main_process:
        names = ", ".join(recipe.name for recipe in recipes)
        say(f"{recipes[-1].name} takes {len(recipes)} trainings, {cost}: {names}")
