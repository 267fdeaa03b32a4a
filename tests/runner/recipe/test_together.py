"""Files of several recipes: what they must have in common, and what is said where they have not."""

import pytest

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.together import read_together, what_keeps_apart

RECIPE = """
data: {dataset: synthetic, crop_size: [32, 32], batch_size: 4}
networks: {student: {model: pspnet, args: {width: 8}}}
losses: [{loss: cross_entropy}]
schedule: {iterations: 4}
"""


@pytest.fixture
def listed(tmp_path):
    """listed("{recipe: a.yaml}", ...) reads a file that lists these entries."""
    (tmp_path / "a.yaml").write_text(RECIPE)

    def read(*entries, assignments=()):
        (tmp_path / "together.yaml").write_text(f"together: [{', '.join(entries)}]\n")
        return read_together(tmp_path / "together.yaml", assignments)

    return read


def test_several_recipes_with_what_is_set_for_each_and_for_all(listed, tmp_path):
    a, b = listed("{recipe: a.yaml}", "{recipe: a.yaml, set: [name=b, optimizer.lr=0.5]}", assignments=["seed=7"])
    assert (a.name, b.name, a.seed, b.seed, b.optimizer.lr) == ("a", "b", 7, 7, 0.5)
    assert [one.name for one in read_together(tmp_path / "a.yaml")] == ["a"], "a recipe is itself"


@pytest.mark.parametrize("entry, words", [
    ("{recipe: a.yaml, set: [name=b, seed=1]}", "beside the first recipe: seed is 0 there and 1 here"),
    ("{recipe: a.yaml, set: [name=b, data.batch_size=8]}", "data.batch_size is 4 there and 8 here"),
    ("{recipe: a.yaml, set: [name=b, schedule.iterations=9]}", "schedule.iterations is 4 there and 9 here"),
    ("{recipe: a.yaml, set: [name=b, loop.precision=fp16]}", "fp16 scales all gradients"),
    ("{recipe: a.yaml}", "its run folder runs/a is that of another recipe here"),
    ("{recipe: a.yaml, set: [name=b, losses.0.weight=x]}", "losses.0.weight"),
    ("{recipes: a.yaml}", "together.1.recipes: unknown key"),
])  # fmt: skip
def test_what_cannot_be_trained_together(listed, entry, words):
    with pytest.raises(RecipeError) as error:
        listed("{recipe: a.yaml}", entry)
    assert words in str(error.value) and "together.yaml:1: together.1" in str(error.value)


def test_what_may_differ(listed):
    a, b = listed("{recipe: a.yaml}", "{recipe: a.yaml, set: [name=b, loop.ema=0.9, optimizer.name=adamw]}")
    assert what_keeps_apart(a, b) is None
