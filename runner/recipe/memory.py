"""What to change in a recipe for which there is not enough memory, and what each change saves as far as it is known."""

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # every command asks is_of_memory, and not every one needs the schema
    from segkd.runner.recipe.schema import Recipe

GIB = 2**30


def is_of_memory(error: BaseException) -> bool:
    """Whether there is not as much memory as was asked for."""
    torch = sys.modules.get("torch")  # who has not imported it has not run out of a GPU's memory
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    too_much = "not enough memory|can't allocate memory|Storage size calculation overflowed|out of memory|_ALLOC_FAILED"
    return isinstance(error, RuntimeError) and re.search(too_much, str(error)) is not None


def without_room(
    recipe: "Recipe", error: BaseException, used: float, kept: float, processes: int, *, scoring: bool
) -> str:
    """The sentences for an error of memory in a step or, with `scoring`, in an evaluation.

    Args:
        used: most bytes in use until then. kept: those of weights, gradients and optimizers among them.
    """
    said = (str(error).strip().splitlines() or ["out of memory"])[0]
    lines = list(_for_scoring(recipe) if scoring else _for_a_step(recipe, max(used - kept, 0), processes))
    widest = max((len(assignment) for assignment, _ in lines), default=0)
    what = "an evaluation" if scoring else f"a step of {recipe.data.batch_size} images"
    return "\n".join([
        f"{recipe.name}: there is not enough memory for {what}; {used / GIB:.2f} GiB were in use, {kept / GIB:.2f} of "
        f"them for weights, gradients and optimizers ({said[:200]}). What needs less, as words of the command line:",
        *(f"  {assignment:{widest}}  {saves}" for assignment, saves in lines),
    ])  # fmt: skip


def _for_a_step(recipe: "Recipe", images: float, processes: int) -> Iterator[tuple[str, str]]:
    """Assignments and what each saves, those first that change the results the least.

    Args:
        images: bytes that a step's images take, with all that is computed of them.
    """
    from segkd.runner.recipe.cache import Cache

    data, loop = recipe.data, recipe.loop
    sizes = data.batch_sizes
    parts = next(
        (n for n in range(loop.accumulate + 1, min(sizes) + 1) if not any(s % (n * processes) for s in sizes)), None
    )
    if parts is not None:
        saved = images * (1 - loop.accumulate / parts)
        yield f"loop.accumulate={parts}", f"up to {saved / GIB:.2f} GiB less; only batch norms see fewer images at once"
    for name, network in recipe.networks.items():
        if network.train and not network.checkpointing and not loop.compile:
            text = f"{name} keeps the inputs of its blocks alone and computes them again, about a third more time"
            yield f"networks.{name}.checkpointing=true", text
        taught = network.cache is None and any(term.source == name for term in recipe.losses)
        if taught and not network.train and not list(Cache().wrong(name, recipe)):
            yield f"networks.{name}.cache={{}}", f"what {name} says is read from the disk, so a step does without it"
    if loop.precision == "fp32":
        yield "loop.precision=bf16", f"up to {images / 2 / GIB:.2f} GiB less; scores change a little"
    if data.batch_size >= 2 * loop.accumulate * processes:
        half = data.batch_size // 2
        yield f"data.batch_size={half}", f"up to {images / 2 / GIB:.2f} GiB less, and other results"
    height, width = (side // 2 for side in data.crop_size)
    yield f"data.crop_size=[{height},{width}]", f"up to {images * 3 / 4 / GIB:.2f} GiB less, and other results"


def _for_scoring(recipe: "Recipe") -> Iterator[tuple[str, str]]:
    settings = recipe.evaluate
    if settings.batch_size > 1:
        half = settings.batch_size // 2
        yield f"evaluate.batch_size={half}", "half of the images at once, the same scores"
    if settings.mode != "slide":
        yield "evaluate.mode=slide", "windows of the size of a crop instead of whole images; other scores"
