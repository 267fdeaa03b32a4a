"""How mistakes are told: place, what was given, what is allowed, what was meant."""

from segkd.runner.recipe.mistakes import Origins, RecipeError, did_you_mean, dotted, located


def test_origins_fall_back_to_what_is_around():
    origins = Origins({(): "a:1", ("losses",): "a:2", ("losses", 0): "a:3", ("losses", 0, "args"): "a:4"})
    assert origins.of(("losses", 0, "args", "x")) == "a:4"
    assert origins.of(("losses", 1)) == "a:2" and origins.of(("seed",)) == "a:1"
    origins.forget_inside(("losses",))
    assert origins == {(): "a:1", ("losses",): "a:2"}
    assert Origins().of(("seed",)) == ""


def test_words():
    assert dotted(("losses", 1, "weight")) == "losses.1.weight" and dotted(()) == "the recipe"
    assert did_you_mean("wieght", ["loss", "weight"]) == ", did you mean 'weight'?"
    assert did_you_mean("zzz", ["loss", "weight"]) == ""
    assert did_you_mean("rl", ["lr", "name"]) == ", did you mean 'lr'?"


def test_recipe_error_counts():
    assert str(RecipeError(["a"])) == "the recipe has 1 mistake:\n  a"
    assert str(RecipeError(["a", "b"])) == "the recipe has 2 mistakes:\n  a\n  b"


def test_located_sorts_by_line_and_tells_each_once():
    origins = Origins({(): "r.yaml:1", ("a",): "r.yaml:10", ("b",): "r.yaml:9", ("c",): "command line"})
    mistakes = [(("a",), "late"), (("b", "x"), "early"), (("c",), "typed"), (("a",), "late")]
    assert located(mistakes, origins, "r.yaml") == [
        "command line: c: typed",
        "r.yaml:9: b.x: early",
        "r.yaml:10: a: late",
    ]
    assert located([(("d",), "text")], Origins(), "r.yaml") == ["r.yaml: d: text"]
