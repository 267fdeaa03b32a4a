"""The JSON schema of a recipe, by which editors complete, explain and check it while it is written.

It is that of the sections and of every part's arguments, less what it takes to be whole: a recipe may extend others.
"""

import json

from segkd.runner.recipe import parts
from segkd.runner.recipe.options import ARGUMENTS, ROOMS, meanings_of
from segkd.runner.recipe.schema import Recipe

MODELINE = "# yaml-language-server: $schema="  # the path of the schema behind it


def editor_schema() -> str:
    """The schema as it stands in recipes/schema.json."""
    schema = Recipe.model_json_schema(by_alias=True)
    defs, root = schema["$defs"], schema["properties"]
    for section in (schema, *defs.values()):
        section.pop("required", None)
    for room, full in ROOMS.items():
        for name in parts.names(full):
            defs[f"{room}/{name}"] = _arguments(full, name)
    for name in ARGUMENTS.values():
        defs[f"datasets/{name}"] = _arguments("datasets", name)
    root["extends"] = {"type": "string", "description": "path of a recipe that this one is laid over"}
    _name_parts(defs["Term"], "losses", "loss")
    _name_parts(defs["Data"], "datasets", "dataset")
    _name_parts(defs["Network"], "models", "model")
    # a list of terms, or a mapping that changes those of the recipe below by their labels
    terms = root["losses"]
    terms["anyOf"] = [
        {"type": terms.pop("type"), "items": terms.pop("items"), "minItems": terms.pop("minItems")},
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/Term"}},
    ]
    metrics = defs["Evaluate"]["properties"]["metrics"]
    names = parts.names(parts.METRICS)
    metrics["anyOf"] = [
        {"type": "array", "items": {"enum": names}},
        _mapping({name: f"metrics/{name}" for name in names}),
    ]
    del metrics["type"], metrics["additionalProperties"]
    for key, name in ARGUMENTS.items():
        section, _, field = key.rpartition(".")
        at = defs["Unlabelled" if section == "data.unlabelled" else "Data"]["properties"][field]
        at.pop("type", None)
        at["anyOf"] = [_ref(f"datasets/{name}"), {"type": "null"}]
    transform = defs["Unlabelled"]["properties"]["transform"]
    transform["anyOf"] = [_ref("datasets/_transforms"), {"type": "null"}]
    schema = {"$schema": "http://json-schema.org/draft-07/schema#"} | _plain(schema)
    return json.dumps(schema, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _ref(name: str) -> dict:
    return {"$ref": f"#/$defs/{name.replace('/', '~1')}"}


def _mapping(names: dict[str, str]) -> dict:
    """A mapping of these keys, each to what the definition of its name says."""
    fields = {key: _ref(name) for key, name in names.items()}
    return {"type": "object", "properties": fields, "additionalProperties": False}


def _arguments(room: str, name: str) -> dict:
    """The arguments of a part, with what its docstring says of them."""
    schema, meanings = parts.schema_of(room, name), meanings_of(room, name)
    for key, field in schema.get("properties", {}).items():
        if meanings.get(key):
            field["description"] = meanings[key]
    return {key: value for key, value in schema.items() if key in ("type", "properties", "additionalProperties")}


def _name_parts(section: dict, room: str, field: str) -> None:
    """Makes the arguments of a section, in place, those of the part that its `field` names."""
    names = parts.names(ROOMS[room])
    known = {"enum": names}
    if room == "models":  # with source: hf or timm, it is another's name
        known = {"anyOf": [known, {"type": "string"}, {"type": "null"}]}
    at = section["properties"][field]
    for key in ("type", "anyOf"):
        at.pop(key, None)
    at |= known
    ours = {"source": {"const": "segkd"}} if room == "models" else {}
    section["allOf"] = [
        {
            "if": {"required": [field], "properties": {field: {"const": name}, **ours}},
            "then": {"properties": {"args": _ref(f"{room}/{name}")}},
        }
        for name in names
    ]


def _plain(value: object) -> object:
    """The schema without the titles that pydantic makes of names, and with lists of one kind as any editor reads them."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    kinds = value.get("prefixItems")
    if kinds and all(kind == kinds[0] for kind in kinds):
        value = {key: inner for key, inner in value.items() if key != "prefixItems"} | {"items": kinds[0]}
    is_title = isinstance(value.get("title"), str)
    return {key: _plain(inner) for key, inner in value.items() if not (key == "title" and is_title)}
