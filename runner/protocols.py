"""How scores are made, in words that tell which numbers can be compared."""

from segkd.runner.recipe import Recipe


def protocol_words(recipe: Recipe) -> str:
    """How the numbers were made, in words: scores are comparable only where this is the same."""
    settings = recipe.evaluate
    if settings.short_side:
        size = f"resized to a short side of {settings.short_side}"
    elif recipe.data.resize:
        size = f"resized to {' x '.join(map(str, recipe.data.resize))}"
    else:
        size = "at native size"
    images = "whole images"
    if settings.mode == "slide":
        images = f"windows of {' x '.join(map(str, settings.window or recipe.data.crop_size))} of images"
    scales = (
        "scales " + ", ".join(f"{scale:g}" for scale in settings.scales) + (", mirrored too" if settings.flip else "")
    )
    return f"{images} {size}, {scales}, absent classes: {settings.absent}"
