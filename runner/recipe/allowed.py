"""What a field of a JSON schema accepts, in words."""

import json


def fields_of(schema: dict) -> dict[str, dict]:
    """Name -> schema of the fields of a section."""
    return schema.get("properties", {})


def allowed(field: dict, defs: dict) -> str:
    """What a field of a JSON schema accepts, in words."""
    if "anyOf" in field:
        return " or ".join(allowed(one, defs) for one in field["anyOf"])
    if "$ref" in field:
        return f"a mapping {{{', '.join(fields_of(defs[field['$ref'].rpartition('/')[2]]))}}}"
    if "enum" in field or "const" in field:
        return " | ".join(_word(value) for value in field.get("enum", [field.get("const")]))
    kind = field.get("type")
    if kind == "array":
        if "prefixItems" in field:
            kinds = [allowed(one, defs) for one in field["prefixItems"]]
            return f"a list of {len(kinds)}: {kinds[0]}" if len(set(kinds)) == 1 else f"a list: {', '.join(kinds)}"
        return f"a list of {allowed(field.get('items', {}), defs)}"
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(field)
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"a mapping to {allowed(inner, defs)}" if isinstance(inner, dict) else "a mapping"
    return {"boolean": "true | false", "string": "text", "null": "null"}.get(kind, "anything")


def _range(field: dict) -> str:
    """` from 0 to 1`; bounds that only keep a computation from overflowing are left out."""
    words = ""
    if "exclusiveMinimum" in field:
        words += f" above {field['exclusiveMinimum']:g}"
    if "minimum" in field:
        words += f" from {field['minimum']:g}"
    if "exclusiveMaximum" in field:
        words += f" below {field['exclusiveMaximum']:g}"
    if "maximum" in field and field["maximum"] < 10**5:
        words += f" to {field['maximum']:g}"
    return words


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def field_at(key: tuple[str | int, ...], schema: dict) -> dict:
    """The schema of what stands at a path of keys; empty where nothing is told of it."""
    field, defs = schema, schema.get("$defs", {})
    for word in key:
        field = next((found for one in _kinds(field, defs) if (found := _inside(one, word)) is not None), {})
    return field


def _kinds(field: dict, defs: dict) -> list[dict]:
    """The members of a union, or the one that it is, sections in full."""
    if "$ref" in field:
        return [defs[field["$ref"].rpartition("/")[2]]]
    return [kind for one in field["anyOf"] for kind in _kinds(one, defs)] if "anyOf" in field else [field]


def _inside(field: dict, word: str | int) -> dict | None:
    if isinstance(word, int):
        listed = field.get("prefixItems", [])
        return listed[word] if word < len(listed) else field.get("items")
    others = field.get("additionalProperties")
    return fields_of(field).get(word, others if isinstance(others, dict) else None)
