"""A recipe is read in one pass, whatever is wrong with it."""

import pytest

from segkd.runner.recipe.mistakes import RecipeError
from segkd.runner.recipe.read import read


def test_traps_of_the_file_are_told_with_the_other_mistakes(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\nseed: no\ndata: {dataset: synthetic, crop_size: [32, 32]}\nschedule: {iteration: 3}\n")
    with pytest.raises(RecipeError) as caught:
        read(path)
    lines = caught.value.mistakes
    assert sum("seed" in line for line in lines) == 1 and "a bare `no`" in lines[0]
    assert any("schedule.iteration: unknown key" in line for line in lines)
    assert any("networks: is missing" in line for line in lines)
