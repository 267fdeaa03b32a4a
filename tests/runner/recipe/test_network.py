"""What tables call the networks of a recipe."""

import pytest

from segkd.runner.recipe.network import Network


@pytest.mark.parametrize("title, fields", [
    ("deeplabv3 resnet18", {"model": "deeplabv3", "args": {"backbone": "resnet18"}}),
    ("trikd_tinyvit", {"model": "trikd_tinyvit"}),
    ("sam vit_b", {"model": "sam", "args": {"arch": "vit_b"}}),
    ("deeplabv3 timm/convnext_tiny", {"source": "timm", "model": "convnext_tiny"}),
    ("pspnet timm/convnext_tiny", {"source": "timm", "model": "convnext_tiny", "args": {"head": "pspnet"}}),
    # as that one is delivered
    ("pspnet timm/convnext_tiny", {"model": "pspnet", "args": {"backbone": "timm/convnext_tiny"}}),
    ("nvidia/segformer-b0", {"source": "hf", "model": "nvidia/segformer-b0"}),
    ("huggingface segformer", {"model": "huggingface", "args": {"config": {"model_type": "segformer"}}}),
    ("average of student", {"ema_of": "student", "train": False}),
])  # fmt: skip
def test_titles(title, fields):
    assert Network(**fields).title == title
