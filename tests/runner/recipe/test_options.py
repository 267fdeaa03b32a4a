"""What `recipes.py options` tells: every argument of every part with a meaning, in lines of a screen's width."""

import pytest

from segkd.runner.recipe import options, parts
from segkd.runner.recipe.options import allowed, index, meanings_of, options_of, sections


def test_every_option_of_a_recipe_and_of_every_part_is_told():
    known = [*sections(), *options.ARGUMENTS]
    known += [f"{room}/{name}" for room, full in options.ROOMS.items() for name in parts.names(full)]
    for word in known:
        lines = options_of(word).splitlines()
        assert max(map(len, lines)) <= options.WIDTH, word
        room, _, name = word.partition("/")
        if name:
            fields = parts.schema_of(options.ROOMS[room], name).get("properties", {})
            told = {line.split()[0] for line in lines if line and line[0] != " "}
            assert fields.keys() <= told, word
            assert not [key for key in fields if not meanings_of(options.ROOMS[room], name).get(key)], word


def test_a_loss():
    lines = options_of("at").splitlines()
    assert lines[0].startswith("losses/at.py: AT: Zagoruyko, Komodakis")
    assert "It reads no labels: any images will do (`on`)." in lines
    assert "Features it asks for by default: `head` of the student, `head` of the teacher." in lines
    assert [line.split(None, 2) for line in lines if line.startswith(("power", "norm"))] == [
        ["power", "2.0", "a number from 1 to 8"], ["norm", "image", "image | column"]]  # fmt: skip
    at = lines.index(next(line for line in lines if line.startswith("norm")))
    assert lines[at + 1] == (
        "    over what the map has unit length. `image`: all positions of an image. `column`: its rows, per column."
    )
    # from the docstring that all losses share
    assert any("the same name when left out" in line for line in lines)


@pytest.mark.parametrize("loss, told", [
    ("kl", "It reads scores and no features."), ("dice", "It reads labels: `on: labelled` alone."),
    ("cross_entropy", "It needs no other network."),
])  # fmt: skip
def test_what_a_loss_asks_for(loss, told):
    assert told in options_of(loss).splitlines()


def test_a_section_and_a_network():
    assert "clip_norm       null     a number above 0 or null" in options_of("loop").splitlines()
    text = options_of("deeplabv3")
    assert "dropout           0.1       a number from 0 below 1" in text and "\nFeatures:\n    " in text


def test_meanings_that_a_docstring_gives_in_passing():
    meanings = meanings_of("datasets", "_transforms")
    assert meanings["jitter"] == "probability of the colour jitter."
    assert meanings["jitter_strength"] == "its brightness, contrast, saturation, hue."
    assert meanings_of("datasets", "folder")["image_suffix"] == "see images"


@pytest.mark.parametrize("word, told", [
    ("klm", "near are kl"), ("optimzer", "near are optimizer"), ("boundary", "losses/boundary or metrics/boundary; say"),
    ("losses/deeplabv3", "`recipes.py options` lists all"),
])  # fmt: skip
def test_a_word_that_names_nothing_or_two_things(word, told):
    with pytest.raises(ValueError, match=told):
        options_of(word)


def test_all_words_there_are():
    words = index().split()
    assert {"sections", "data.unlabelled", "kl", "deeplabv3", "camvid", "trimap", "data.transform"} <= set(words)


@pytest.mark.parametrize("field, words", [
    ({"type": "integer", "minimum": 1, "maximum": 2**20}, "a whole number from 1"),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "a number above 0 to 1"),
    ({"type": "array", "prefixItems": [{"type": "integer"}] * 2}, "a list of 2: a whole number"),
    ({"anyOf": [{"const": "names"}, {"type": "object", "additionalProperties": {"type": "string"}}, {"type": "null"}]},
     "names or a mapping to text or null"),
    ({"$ref": "#/$defs/Ramp"}, "a mapping {start, end}"),
])  # fmt: skip
def test_what_is_allowed_in_words(field, words):
    assert allowed(field, {"Ramp": {"properties": {"start": {}, "end": {}}}}) == words
