"""What a recipe may not pass to a loss: the ranges of all numeric arguments, by the hints of its signature."""

import typing

import pytest

from segkd.runner.recipe import parts

# a numeric argument means the same in every loss that has it; a new one is entered with what it must refuse
NONSENSE = {
    **dict.fromkeys(["temperature", "contrast_temperature"], [-1, 0, 1e-30, 1e30]),
    # weights
    **dict.fromkeys(
        ["aux_weight", "focal_alpha", "focal_gamma", "inter", "intra", "target_weight", "rest_weight"], [-1]
    ),
    **dict.fromkeys(["psd", "csd", "pixel", "region", "minibatch", "memory", "mse", "fitnet", "minibatch_pixel"], [-1]),
    **dict.fromkeys(["fd", "contrast", "l1_weight", "bce", "dice"], [-1]),
    **dict.fromkeys(["memory_pixel", "memory_region", "minibatch_channel", "memory_channel", "channel_mse"], [-1]),
    **dict.fromkeys(["adversary_weight", "adversary_lr", "beta", "eps", "power", "smooth"], [-1, 0]),
    # pixels, vectors
    **dict.fromkeys(["window", "pool", "pixels_per_class", "channels_per_batch"], [-1, 0, 1.5]),
    **dict.fromkeys(["pixel_memory", "region_memory", "channel_memory"], [-1, 0, 1.5]),
    **dict.fromkeys(["pixel_contrast", "region_contrast", "channel_contrast"], [-1, 0, 1.5]),
    **dict.fromkeys(["groups", "heads", "hidden", "queue", "reduction", "update_period", "width"], [-1, 0, 1.5]),
    "blocks": [-1, 1.5],
    "patch": [[0, 4], [4, 0], [4]],
    "pool_from": [[0, 8], [8, 0], [8]],
    "ohem_min_kept": [-1, 1.5],
    # shares
    **dict.fromkeys(["ohem_threshold", "ohem_min_share", "boundary_probability"], [-0.1, 1.1]),
    "masked": [-0.1, 1.1, 75],
    "share": [-0.5, 0, 1.5],
    # lists
    "class_weights": [[1.0, -1.0]],
    "divisors": [[8.0, 0.0], [-1.0]],
    "merge_label": [[[-1, 2]]],
}


def is_numeric(hint):
    """Whether numbers are among what a hint allows, at any depth."""
    members = typing.get_args(hint)
    return hint in (int, float) or typing.get_origin(hint) is not typing.Literal and any(map(is_numeric, members))


@pytest.mark.parametrize("name", parts.names("losses"))
def test_numbers_out_of_range_are_refused(name):
    hints = typing.get_type_hints(parts.find("losses", name).__init__)
    for argument in (argument for argument, hint in hints.items() if is_numeric(hint)):
        for value in NONSENSE[argument]:
            wrong = parts.wrong_arguments("losses", name, {argument: value})
            assert [key[0] for key, _ in wrong] == [argument], f"{name} takes {argument} = {value}"


def test_names_are_refused_where_too_few():
    for name, argument, few in (("dsd", "levels", ["logits"]), ("overhaul", "features", [])):
        ((key, text),) = parts.wrong_arguments("losses", name, {argument: few})
        assert key == (argument,) and "must have at least" in text
