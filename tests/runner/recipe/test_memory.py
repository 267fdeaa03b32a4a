"""What is advised where memory runs out: what a recipe can change, what that saves, and nothing that it has already."""

import pytest
import torch

from segkd.runner.recipe.memory import is_of_memory, without_room
from segkd.runner.recipe.read import read

GIB = 2**30
TEACHER = "networks.teacher={model: deeplabv3, args: {backbone: resnet18}, weights: t, train: false}"
ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand much else")


def advised(folder, *words, scoring=False, processes=1):
    recipe = read(folder / "tiny.yaml", [TEACHER, "losses=[{loss: cross_entropy}, {loss: kl}]", *words])
    first, *lines = without_room(recipe, ERROR, 10 * GIB, 2 * GIB, processes, scoring=scoring).splitlines()
    assert "tiny: " in first and "10.00 GiB were in use, 2.00 of them" in first and "Tried to allocate 2.00" in first
    advice = dict(line.strip().split("  ", 1) for line in lines)
    for assignment in advice:  # what is advised is a recipe
        read(folder / "tiny.yaml", [TEACHER, "losses=[{loss: cross_entropy}, {loss: kl}]", *words, assignment])
    return {assignment: saves.strip() for assignment, saves in advice.items()}


def test_a_step_can_be_made_smaller(folder):
    found = advised(folder)
    assert list(found) == ["loop.accumulate=2", "networks.student.checkpointing=true", "networks.teacher.cache={}",
                           "loop.precision=bf16", "data.batch_size=2", "data.crop_size=[16,16]"]  # fmt: skip
    # 8 GiB are the images': half of them in two parts, a quarter at half the height and width
    assert found["loop.accumulate=2"].startswith("up to 4.00 GiB less") and "6.00" in found["data.crop_size=[16,16]"]


def test_what_a_recipe_has_already_is_not_advised(folder):
    words = "networks.student.checkpointing=true", "networks.teacher.cache={}", "loop.precision=bf16"
    assert list(advised(folder, *words, "loop.accumulate=4")) == ["data.crop_size=[16,16]"]
    # each of two processes has two images, each of four a single one
    assert "loop.accumulate=2" in advised(folder, processes=2)
    assert not {"loop.accumulate=2", "data.batch_size=2"} & advised(folder, processes=4).keys()


def test_an_evaluation_can_be_made_smaller(folder):
    assert list(advised(folder, scoring=True)) == ["evaluate.batch_size=2", "evaluate.mode=slide"]
    assert advised(folder, "evaluate.batch_size=1", "evaluate.mode=slide", scoring=True) == {}


def test_what_is_an_error_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**55)
    assert is_of_memory(raised.value) and is_of_memory(MemoryError()) and is_of_memory(ERROR)
    for said in ("CUDA error: out of memory", "CUDA driver error: out of memory",
                 "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"):  # fmt: skip
        assert is_of_memory(RuntimeError(said)), said
    assert not is_of_memory(RuntimeError("shape mismatch"))
