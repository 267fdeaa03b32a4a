"""Recipe files as YAML 1.2: what each spelling means, what is refused, and where each value was written."""

import math
import re

import pytest

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.yaml_file import merged, override, read_with_traps, write


def written(folder, text, name="recipe.yaml"):
    file = folder / name
    file.write_text(text)
    return file


def read_file(path):
    values, origins, traps = read_with_traps(path)
    if traps:
        raise RecipeError(traps)
    return values, origins


def values_of(folder, text):
    return read_file(written(folder, text))[0]


def mistakes_of(folder, text):
    with pytest.raises(RecipeError) as caught:
        read_file(written(folder, text))
    return caught.value.mistakes


@pytest.mark.parametrize("text, value", [
    ("1e-2", 0.01), ("1.0e-4", 1e-4), ("1E3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-1.5", -1.5), ("+.5e+1", 5.0),
    ("7", 7), ("-3", -3), ("0x1F", 31), ("0o17", 15), ("08", "08"), ("1:30", "1:30"), ("2026-01-31", "2026-01-31"),
    ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("'no'", "no"), ('"1e-2"', "1e-2"),
    ("resnet18", "resnet18"), ("1e", "1e"), ("=", "="), ("[1, 1e1, a]", [1, 10.0, "a"]),
    ("{b: {c: 1}}", {"b": {"c": 1}}), (".inf", math.inf), ("-.inf", -math.inf), (".nan", math.nan),
])  # fmt: skip
def test_plain_values(tmp_path, text, value):
    found = values_of(tmp_path, f"a: {text}\n")["a"]
    assert repr(found) == repr(value), "of the same type too, and NaN is NaN"


@pytest.mark.parametrize("word", ["yes", "No", "ON", "off", "y", "N"])
def test_bare_words_that_some_readers_take_for_booleans(tmp_path, word):
    (mistake,) = mistakes_of(tmp_path, f"seed: 1\nloop:\n  flip: {word}\n")
    assert mistake.startswith(f"{tmp_path}/recipe.yaml:3: loop.flip: a bare `{word}`") and f'"{word}"' in mistake
    # as keys they are words, such as the `on` of a term
    assert values_of(tmp_path, f"{word}: 1\n") == {word: 1}


def test_duplicate_keys_name_both_lines(tmp_path):
    text = "data:\n  root: a\n  crop_size: [1, 2]\n  root: b\nlosses:\n  - {loss: kl, weight: 1, weight: 2}\n"
    first, second = mistakes_of(tmp_path, text)
    assert first == f"{tmp_path}/recipe.yaml:4: data.root is given twice (first on line 2); keep one"
    assert second == f"{tmp_path}/recipe.yaml:6: losses.0.weight is given twice (first on line 6); keep one"


@pytest.mark.parametrize("value", [
    "!!python/object/apply:os.mkdir [{}]", "!!python/object/apply:os.mkdir {}",
    "!!python/object/new:os.mkdir {{args: [{}]}}",
    "!!python/name:os.system {}", "!mine 3", "!mine [1]", "!mine {{b: 1}}", "!!binary aGk=", "!!set {{b, c}}",
    "!!timestamp 2026-01-31", "!!omap [b: 1]", "!!map 3", "!!seq {{b: 1}}",
])  # fmt: skip
def test_tags_are_refused_and_construct_nothing(tmp_path, value):
    made = tmp_path / "made"
    (mistake,) = mistakes_of(tmp_path, f"seed: 1\na: {value.format(made)}\n")
    assert mistake.startswith(f"{tmp_path}/recipe.yaml:2: a: the tag ") and "is not allowed" in mistake
    assert not made.exists()


@pytest.mark.parametrize("value", ["!!int abc", "!!bool maybe", "!!float x", "1" + "0" * 5000])
def test_values_that_are_not_of_their_kind(tmp_path, value):
    (mistake,) = mistakes_of(tmp_path, f"a: {value}\n")
    assert mistake.startswith(f"{tmp_path}/recipe.yaml:1: a: ") and len(mistake) < 200


def test_aliases_repeat_and_merge_keys_are_refused(tmp_path):
    assert values_of(tmp_path, "a: &size [4, 5]\nb: {c: *size}\n") == {"a": [4, 5], "b": {"c": [4, 5]}}
    (mistake,) = mistakes_of(tmp_path, "a: &a {x: 1}\nb:\n  <<: *a\n")
    assert mistake.startswith(f"{tmp_path}/recipe.yaml:3: ") and "extends" in mistake


# eight lists, each of ten times the one before it
GROWING = "a0: &a0 [x]\n" + "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))


@pytest.mark.parametrize("text, told", [
    ("a: b: c\n", ":1: not valid YAML: mapping values"), ("a: 1\nb: [1\n", ":3: not valid YAML"),
    ("a: *b\n", ":1: not valid YAML: found undefined"),
    ("a: 1\n---\nb: 1\n", ":2: not valid YAML"), ("a: \x01\n", "not valid YAML: unacceptable"),
    ("", "a mapping of keys"), ("- 1\n", "a mapping of keys"),
    ("? [a, b]\n: 1\n", ":1: only plain words can be keys"), ("a: &a {b: *a}\n", "an alias stands inside"),
    ("a: " + "[" * 3000 + "]" * 3000, "nesting depth|nested too deeply"), (GROWING, "more than 10000 values"),
])  # fmt: skip
def test_files_that_are_no_recipe(tmp_path, text, told):
    (mistake,) = mistakes_of(tmp_path, text)
    assert mistake.startswith(f"{tmp_path}/recipe.yaml") and re.search(told, mistake)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no recipe file .*nowhere.yaml$"):
        read_file(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9".encode("latin-1"))
    with pytest.raises(RecipeError, match="is not a text file in UTF-8"):
        read_file(tmp_path / "latin.yaml")


def test_extends_merges_mappings_and_replaces_lists(tmp_path):
    (tmp_path / "bases").mkdir()
    root = "name: root\nseed: 1\ndata: {root: a, crop_size: [1, 2], args: {x: 1}}\nlosses: [1, 2, 3]\n"
    written(tmp_path, root, "bases/root.yaml")
    written(tmp_path, "extends: root.yaml\nname: middle\ndata: {args: {y: 2}}\n", "bases/middle.yaml")
    text = "extends: bases/middle.yaml\ndata: {crop_size: [3]}\nlosses: [4]\n"
    values, origins = read_file(written(tmp_path, text))
    data = {"root": "a", "crop_size": [3], "args": {"x": 1, "y": 2}}
    assert values == {"name": "middle", "seed": 1, "data": data, "losses": [4]}
    assert origins.of(("data", "crop_size")) == f"{tmp_path}/recipe.yaml:2"
    assert origins.of(("name",)).endswith("middle.yaml:2")
    assert origins.of(("data", "args", "x")).endswith("root.yaml:3")
    # what is missing in a list of this file is not looked for in the list it replaces
    assert origins.of(("data", "crop_size", 1)) == f"{tmp_path}/recipe.yaml:2"
    assert origins.of(("losses", 2)) == f"{tmp_path}/recipe.yaml:3"


def test_extends_that_leads_nowhere(tmp_path):
    written(tmp_path, "extends: b.yaml\n", "a.yaml")
    written(tmp_path, "extends: a.yaml\n", "b.yaml")
    with pytest.raises(RecipeError, match=r"b.yaml: `extends` goes round in a circle through .*a.yaml"):
        read_file(tmp_path / "a.yaml")
    with pytest.raises(RecipeError, match="goes round in a circle"):
        read_file(written(tmp_path, "extends: recipe.yaml\n"))
    told = r"no recipe file .*nowhere.yaml \(asked for by `extends` in .*recipe.yaml\)"
    with pytest.raises(FileNotFoundError, match=told):
        read_file(written(tmp_path, "extends: nowhere.yaml\n"))
    (mistake,) = mistakes_of(tmp_path, "seed: 1\nextends: [a.yaml]\n")
    assert mistake.startswith(f"{tmp_path}/recipe.yaml:2: extends must be the path")


def test_extends_without_end(tmp_path):
    for number in range(200):
        written(tmp_path, f"extends: {number + 1}.yaml\n", f"{number}.yaml")
    with pytest.raises(RecipeError, match=r"more than 100 recipes extend each other, down to this one"):
        read_file(tmp_path / "0.yaml")
    (tmp_path / "itself.yaml").symlink_to("itself.yaml")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        read_file(tmp_path / "itself.yaml")


def test_merged_leaves_its_inputs_alone():
    base, over = {"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": None}
    assert merged(base, over) == {"a": {"b": 3, "c": 2}, "d": None}
    assert base == {"a": {"b": 1, "c": 2}} and over == {"a": {"b": 3}, "d": None}


RECIPE = """\
seed: 0
networks: {student: {args: {backbone: resnet18, width: 8}}}
losses:
  - {loss: a}
  - {loss: b, weight: 1}
"""


@pytest.mark.parametrize("assignment, path, value", [
    ("seed=3", ("seed",), 3), ("optimizer.lr=1e-2", ("optimizer", "lr"), 0.01), ("seed='3'", ("seed",), "3"),
    ("seed=", ("seed",), None),
    ("losses.1.weight=0.5", ("losses", 1, "weight"), 0.5),
    ("losses.0.weight={start: 0, end: 1}", ("losses", 0, "weight"), {"start": 0, "end": 1}),
    ("losses.0={loss: c}", ("losses", 0), {"loss": "c"}),
    ("networks.student.args.backbone=resnet50", ("networks", "student", "args", "backbone"), "resnet50"),
    ("loop.deep.deeper=[1, 2]", ("loop", "deep", "deeper"), [1, 2]), ("name=a=b", ("name",), "a=b"),
    ("losses.0.args.flip=true", ("losses", 0, "args", "flip"), True),
])  # fmt: skip
def test_overrides(tmp_path, assignment, path, value):
    values, origins = read_file(written(tmp_path, RECIPE))
    override(values, origins, [assignment])
    found = values
    for word in path:
        found = found[word]
    assert found == value and type(found) is type(value)
    assert origins.of(path) == "command line"


def test_overrides_take_the_place_of_what_the_file_says(tmp_path):
    values, origins = read_file(written(tmp_path, RECIPE))
    override(values, origins, ["networks.student.args={backbone: resnet34, width: 4}", "seed=1", "seed=2"])
    assert values["seed"] == 2 and values["networks"]["student"]["args"] == {"backbone": "resnet34", "width": 4}
    assert origins.of(("networks", "student", "args", "width")) == "command line"
    assert origins.of(("networks", "student")) == f"{tmp_path}/recipe.yaml:2"


def test_an_override_sets_one_value(tmp_path):
    values = {"seed": 1, "name": "a"}
    with pytest.raises(RecipeError, match="command line: seed: sets name, too"):
        override(values, read_file(written(tmp_path, "seed: 1\n"))[1], ["seed=2\nname: b"])
    assert values == {"seed": 1, "name": "a"}


def test_a_name_with_a_nul_character_is_refused_where_it_stands(tmp_path):
    for text in ('a: 1\nb: {c: "x\\0y"}\n', 'a: 1\nb: {c: [{"x\\0y": 1}]}\n'):
        (mistake,) = mistakes_of(tmp_path, text)
        assert mistake.startswith(f"{tmp_path}/recipe.yaml:2: b.c") and "NUL" in mistake


def test_wrong_overrides_are_told_together(tmp_path):
    values, origins = read_file(written(tmp_path, RECIPE))
    with pytest.raises(RecipeError) as caught:
        override(values, origins, [
            "seed", "=3", "losses.2.weight=1", "losses.first.weight=1", "losses.-1.weight=1", "seed.x.y=1",
            "seed=yes", "seed=a: b", "seed=!!python/name:os.system x",
        ])  # fmt: skip
    assert [mistake.removeprefix("command line: ")[:50] for mistake in caught.value.mistakes] == [
        "'seed' is not of the form key=value, such as seed=", "'=3' is not of the form key=value, such as seed=3 ",
        "losses.2.weight: losses is a list of 2, numbered f", "losses.first.weight: losses is a list of 2, number",
        "losses.-1.weight: losses is a list of 2, numbered ", "seed.x.y: seed is 0, which has nothing inside",
        "seed: a bare `yes` is read as true/false by some Y", "seed: not valid YAML: mapping values are not allow",
        "seed: the tag tag:yaml.org,2002:python/name:os.sys",
    ]  # fmt: skip


def test_write_is_read_back(tmp_path):
    words = [
        "y", "N", "yes", "off", "1e-2", "0o17", "0x1F", "08", "1:30", "2026-01-31", "null", "~", "", "true", "a: b",
        "# a", "caf\u00e9", "-1", ".5", ".inf", "1_000", "line\nbreak", " padded ", "<<", "=", "!a", "*a", "&a",
        "[a]", "{a}",
    ]  # fmt: skip
    values = {
        "words": words, "on": 1, "numbers": [1e-5, 1e16, 0.1, 3, -7, 1.0, 123456789.123], "none": None,
        "flags": [True, False], "nested": {"empty": {}, "list": [], "deep": [{"a": [1, [2]]}]},
    }  # fmt: skip
    assert values_of(tmp_path, write(values)) == values


@pytest.mark.parametrize("word", ["09_24", "0_8", "1_000", "oN", "YES", "n", "1e-2", "08", "null", "~", "1:30", "a_1"])
def test_what_is_written_is_read_as_it_was(tmp_path, word):
    assert values_of(tmp_path, write({"name": word, "words": [word]})) == {"name": word, "words": [word]}
