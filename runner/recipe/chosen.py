"""What a recipe says that is not the default: the settings that tell one experiment from another."""

from collections.abc import Iterator

from segkd.runner.recipe import parts
from segkd.runner.recipe.read import parts_of
from segkd.runner.recipe.schema import Recipe
from segkd.runner.recipe.yaml_file import one_line, value_at

ALWAYS_THERE = ("args", "transform")  # arguments that say nothing where all of them are defaults


def chosen(recipe: Recipe) -> dict[str, str]:
    """Dotted key -> value, as YAML, of each setting that is not its default; terms stand under their labels."""
    values = recipe.model_dump(mode="json", by_alias=True)
    told = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for room, name, _, key in parts_of(values):
        *outer, last = key
        arguments, section = value_at(values, *key), value_at(told, *outer)
        source = value_at(values, *outer, "source") if room == "models" else "segkd"
        if name is None or arguments is None or section is None:  # a moving average names no model
            continue
        name, arguments = parts.network_part(source, name, arguments)
        section[last] = parts.arguments_in_recipe(source, name, parts.chosen_arguments(room, name, arguments))
        if last in ALWAYS_THERE and not section[last]:
            del section[last]
    told["losses"] = {term["label"]: {k: v for k, v in term.items() if k != "label"} for term in told["losses"]}
    del told["name"]
    return {key: one_line(value) for key, value in _leaves(told)}


def _leaves(values: dict, path: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of each value that is no mapping, or an empty one."""
    for key, value in values.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value:
            yield from _leaves(value, here)
        else:
            yield here, value
