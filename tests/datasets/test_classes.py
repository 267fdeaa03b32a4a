import pytest

from segkd.datasets._classes import choose_classes, colors_of, listed
from segkd.runner.recipe.parts import completed_arguments, wrong_arguments

NAMES = ("void", "road", "parking", "sky", "tree")


@pytest.mark.parametrize("classes, wanted, ids", [
    (None, NAMES, (0, 1, 2, 3, 4)),
    ({"road": ("road", "parking"), "void": "ignore", "*": "background"}, ("road", "background"), (255, 0, 0, 1, 1)),
    ({"*": "background", "road": ("road", "parking")}, ("background", "road"), (0, 1, 1, 0, 0)),
    ({"nature": ("tree", "sky"), "*": "keep"}, ("nature", "void", "road", "parking"), (1, 2, 3, 0, 0)),
    ({"*": "keep", "street": "road"}, ("void", "parking", "sky", "tree", "street"), (0, 4, 1, 2, 3)),
    ({"sky": "sky", "*": "ignore"}, ("sky",), (255, 255, 255, 0, 255)),
    ({"road": ("parking",), "*": "keep"}, ("road", "void", "sky", "tree"), (1, 0, 0, 2, 3)),  # road joins its name
    ({"road": "road", "*": "road"}, ("road",), (0, 0, 0, 0, 0)),
])  # fmt: skip
def test_what_becomes_of_each_name(classes, wanted, ids):
    assert choose_classes(NAMES, classes) == (wanted, ids)


def test_void_is_ignored_unless_it_is_said():
    assert choose_classes(NAMES, None, ["void"]) == (NAMES[1:], (255, 0, 1, 2, 3))
    assert choose_classes(NAMES, {"sky": "sky", "*": "rest"}, ["void"])[1] == (255, 1, 1, 0, 1)
    assert choose_classes(NAMES, {"sky": ("sky", "void"), "*": "rest"}, ["void"])[1] == (0, 1, 1, 0, 1)


def test_two_of_one_name_are_one_class():
    assert choose_classes(["cat", "dog", "cat"], None) == (("cat", "dog"), (0, 1, 0))


@pytest.mark.parametrize("classes, told", [
    ({"road": "raod", "*": "keep"}, "classes: road: the data set has no class 'raod'; it has 'void', 'road', "),
    ({"streets": "ignore", "*": "keep"}, "classes: streets: the data set has no class 'streets'"),
    ({"a": "road", "b": ("sky", "road"), "*": "keep"}, "classes: 'road' is named twice, for a and b"),
    ({"a": ("sky", "road"), "void": "ignore"}, "not said what becomes of 'parking', 'tree'; name them, or all of them"),
    ({"ignore": ("void",), "*": "keep"}, "classes: no class may be called ignore; write void: ignore"),
    ({"*": ("a", "b")}, "classes: \"\\*\" becomes ignore, keep or one class"),
    ({"*": "ignore"}, "classes: there are 0: all are ignored"),
])  # fmt: skip
def test_what_can_be_wrong_is_said(classes, told):
    with pytest.raises(ValueError, match=told):
        choose_classes(NAMES, classes)


def test_a_label_map_has_255_classes_at_most():
    many = [f"species {number}" for number in range(1203)]
    with pytest.raises(ValueError, match="there are 1203: .* at most 255; merge or ignore some by name"):
        choose_classes(many, None)
    assert choose_classes(many, {"first": many[0], "*": "other"})[1][-1] == 1
    with pytest.raises(ValueError) as error:
        choose_classes(many, {"first": many[0]})
    assert "'species 20' and 1182 more" in str(error.value) and len(str(error.value)) < 600


def test_colours_go_with_the_first_name_of_a_class():
    assert colors_of((1, 255, 1, 0), ((1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4)), 3) == (
        (4, 4, 4), (1, 1, 1), (0, 128, 0),
    )  # fmt: skip
    assert listed(["a", "a", "b"]) == "'a', 'b'"


def test_a_recipe_keeps_the_order_of_its_classes():
    classes = {"z": ["b"], "a": "ignore", "*": "rest"}
    arguments = {"class_names": ["a", "b", "c"], "classes": classes}
    assert wrong_arguments("datasets", "folder", arguments) == []
    assert list(completed_arguments("datasets", "folder", arguments)["classes"].items()) == list(classes.items())
    for wrong in ({"z": []}, {"z": 3}, ["b"]):
        assert wrong_arguments("datasets", "folder", arguments | {"classes": wrong})
