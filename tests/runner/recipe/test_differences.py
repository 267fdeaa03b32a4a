"""In what two recipes differ."""

import yaml

from segkd.runner.recipe.differences import IN_NO_RESULT, MAY_CHANGE_ON_RESUME, changes, differences, without
from segkd.runner.recipe.read import read


def test_what_may_change_is_in_every_recipe(folder):
    teacher = "networks.teacher={model: pspnet, train: false, weights: random, cache: {}}"
    extra = "data.extra={pseudo: {network: teacher, images: photos}}"
    values = yaml.safe_load(read(folder / "tiny.yaml", [teacher, extra]).dump())
    for key in MAY_CHANGE_ON_RESUME | IN_NO_RESULT:
        place = values
        for word in key.split("."):
            word = list(place)[-1] if word == "*" else word
            assert word in place, key
            place = place[word]


def test_what_is_left_without_some_keys():
    values = {"a": {"x": {"c": 1, "d": 2}, "y": {"c": 3}, "z": None}, "b": 4}
    assert without(values, ["a.*.c", "b", "b.c", "e.f", "*.g"]) == {"a": {"x": {"d": 2}, "y": {}, "z": None}}
    assert values["b"] == 4 and values["a"]["y"] == {"c": 3}, "it is a copy"


def test_changes():
    assert changes({"a": {"b": [1, {"c": 2}]}, "x": 1}, {"a": {"b": [1, {"c": 3}]}, "y": 1}) == [
        "a.b.1.c: 2 there, 3 here", "x: 1 there, null here", "y: null there, 1 here"
    ]  # fmt: skip
    assert changes({"a": [1]}, {"a": [1, 2]}) == ["a: [1] there, [1, 2] here"] and changes({"a": 1}, {"a": 1}) == []
    place = [{"tracking": number, "data": {"root": number, "args": 1}} for number in (1, 2)]
    assert changes(*place) == []
    caches = [{"networks": {"big": {"cache": {"folder": number, "views": 1}}}} for number in (1, 2)]
    assert changes(*caches) == []
    caches[1]["networks"]["big"]["cache"]["views"] = 2
    assert changes(*caches) == ["networks.big.cache.views: 1 there, 2 here"]


def test_values_are_told_as_a_recipe_says_them_and_of_terms_those_that_differ():
    term = {"loss": "kl", "label": "kl", "gate": None, "args": {"temperature": 1.0, "of": "some words"}}
    terms = [[{"loss": "cross_entropy", "weight": weight}] for weight in (1.0, 2.0)]
    assert changes({"losses": terms[0]}, {"losses": [*terms[1], term]}) == [
        "losses.0.weight: 1.0 there, 2.0 here",
        "losses.1: null there, {loss: kl, label: kl, args: {temperature: 1.0, of: some words}} here",
    ]
    (long,) = changes({"a": False}, {"a": "word " * 50})
    assert long.startswith("a: false there, 'word word ") and long.endswith(" word ... here") and len(long) < 130


def test_the_order_of_classes_is_told():
    one, other = ({"data": {"args": {"classes": dict.fromkeys(names, "a"), "b": 1}}} for names in ("pq", "qp"))
    assert differences(one, one) == [] and [key for key, _, _ in differences(one, other)] == ["data.args.classes"]
    assert changes(one, other) == ["data.args.classes: {p: a, q: a} there, {q: a, p: a} here"]
