"""The recipes that come with segkd, and which recipe somebody means by a name or by a path that leads nowhere."""

import importlib
import os
from pathlib import Path

from segkd.runner.recipe.mistakes import close_to, did_you_mean

NO_RECIPES = {"bases", "sweeps", "results"}  # folders of what recipes extend, plans of many runs, what runs brought
ENDINGS = (".yaml", ".yml")


def folders() -> list[Path]:
    """Where they lie; none where segkd was installed without them."""
    try:
        return [Path(folder) for folder in importlib.import_module("segkd.recipes").__path__]
    except ModuleNotFoundError:
        return []


def shipped() -> dict[str, Path]:
    """Name -> file of every recipe that comes with segkd, such as camvid/kl_dv3r101_dv3r18.

    Raises:
        FileNotFoundError: segkd was installed without them.
    """
    found = _shipped()
    if not found:
        raise FileNotFoundError("segkd was installed without its recipes; they lie in recipes/ of its repository")
    return found


def _shipped() -> dict[str, Path]:
    return {
        file.relative_to(folder).with_suffix("").as_posix(): file
        for folder in folders()
        for file in sorted(folder.rglob("*.yaml"))
        if not NO_RECIPES.intersection(file.relative_to(folder).parts)
    }


def named(name: str, known: dict[str, Path]) -> tuple[str, list[str]]:
    """A name as `recipes.py ls` writes it, and which recipes have it, whole or as its last part."""
    wanted = name.removeprefix("recipes/").removesuffix(".yaml")
    return wanted, [key for key in known if wanted in (key, key.rpartition("/")[2])]


def hint_for_name(wanted: str, known: dict[str, Path]) -> str:
    """`, did you mean 'kl_tiny'?` where a recipe has a similar name, else where all of them are listed."""
    allowed = list(known) if "/" in wanted else [key.rpartition("/")[2] for key in known]
    return did_you_mean(wanted, allowed) or "; `recipes.py ls` lists them"


def hint_for_recipe(path: Path) -> str:
    """What may be meant by the path of a recipe that is no file: of which folder, beside it, or among those of segkd."""
    if (path / "recipe.yaml").is_file():
        return (
            f"; it is the folder of a run, whose recipe is {path / 'recipe.yaml'} (distill.py delivers a stopped run by "
            f"its folder, with --deliver)"
        )
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix in ENDINGS)
        return f"; name one of the files in it, such as {path / inside[0]}" if inside else ""
    known = _shipped()
    wanted, found = named(path.as_posix(), known)
    meant = [os.path.relpath(known[key]) for key in found or close_to(wanted, known)]
    return near(path, ENDINGS) or (f", did you mean {' or '.join(map(repr, meant[:3]))}?" if meant else "")


def near(path: Path, endings: tuple[str, ...] = ()) -> str:
    """`, did you mean 'runs/teacher'?` where a path leads nowhere and something of a similar name lies there.

    Args:
        endings: only files with these are meant; default: anything.
    """
    astray = path
    while not astray.parent.is_dir():
        astray = astray.parent
    rest = path.relative_to(astray)
    try:
        beside = sorted(astray.parent.iterdir())
    except OSError:  # it may not be read
        return ""
    if rest != Path("."):
        beside = [one for one in beside if one.is_dir()]
    elif endings:
        beside = [one for one in beside if one.suffix in endings]
    words = {one.stem if endings else one.name: one.name for one in beside}  # what all end in makes none alike
    same = [one.name for one in beside if one.stem in (astray.name, astray.stem)]
    close = [words[word] for word in close_to(astray.stem if endings else astray.name, words)]
    found = [astray.with_name(name) for name in [*same, *close]]
    whole = [one / rest for one in found if (one / rest).exists()]
    return f", did you mean {str(whole[0] if whole else found[0])!r}?" if found else ""
