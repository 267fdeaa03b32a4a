"""CIRKD's memory terms against a plain transcription of enqueue, draw and divergence."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._task import Features, Task
from segkd.losses.cirkd_memory import CIRKDMemory

CLASSES, IGNORE = 4, 255


def make_loss(ignore_index=IGNORE, **options):
    torch.manual_seed(0)
    features = Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {})
    sizes = {"pixel_memory": 11, "region_memory": 3, "pixel_contrast": 9, "region_contrast": 5, "pixels_per_class": 4}
    loss = CIRKDMemory(Task(CLASSES, ignore_index, *features), **(sizes | options))
    for memory in loss.memories.values():
        memory.dtype = torch.float64
    return loss.double()


def feature(channels, seed, height=4, width=5, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()


def labels(height=4, width=5, seed=2):
    """Class 3 is absent."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (2, height, width), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    return target


def prediction(head, align_corners=False):
    return SimpleNamespace(logits=None, align_corners=align_corners, aux=None, features={"head": head})


def fix_draws(loss):
    """Reversed orders in place of random ones."""
    loss.draw = lambda image, label, count: torch.arange(count).flip(0)
    for memory in loss.memories.values():
        memory.draw = lambda slots=memory.slots: torch.arange(slots).flip(0)


def expected(loss, student, teacher, target, enqueue="class_pixels"):
    """Values of both parts and the memories afterwards, for the draws of fix_draws and memories not yet used."""
    z = F.normalize(loss.head(student), dim=1).permute(0, 2, 3, 1).flatten(1, 2)
    t = F.normalize(teacher, dim=1).permute(0, 2, 3, 1).flatten(1, 2)
    ids = target.flatten(1)
    values, memories = {}, {}
    for name, memory in loss.memories.items():
        memory.prepare(5, torch.device("cpu"))
        rings, pointers = memory.vectors.clone(), [0] * CLASSES
        for features, row in zip(t, ids, strict=True):
            for label in range(CLASSES):
                positions = (row == label).nonzero()[:, 0]
                if len(positions) == 0:
                    continue
                if name == "region":
                    mean = features[positions].mean(0, keepdim=True)
                    new = mean / mean.norm()
                else:
                    numbers = torch.arange(len(positions)).flip(0)[:4]
                    new = features[positions[numbers] if enqueue == "class_pixels" else numbers]
                start = pointers[label]
                ends = start + len(new) >= memory.slots
                start, pointers[label] = (memory.slots - len(new), 0) if ends else (start, start + len(new))
                rings[label, start : start + len(new)] = new.detach()
        contrast = {"pixel": 9 // CLASSES + 1, "region": 5 // CLASSES + 1}[name]
        keys = rings.flip(1)[:, :contrast].flatten(0, 1)
        counted = ids != IGNORE
        scale = loss.temperature * loss.contrast_temperature
        q, p = (x[counted] @ keys.T / scale for x in (z, t))
        values[name] = loss.temperature**2 * F.kl_div(q.log_softmax(1), p.softmax(1), reduction="sum") / counted.sum()
        memories[name] = rings
    return values, memories


@pytest.mark.parametrize("enqueue", ["class_pixels", "legacy"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_value_and_memories(enqueue, temperature):
    loss = make_loss(enqueue=enqueue, temperature=temperature, pixel=0.5, region=0.25)
    fix_draws(loss)
    student, teacher, target = feature(3, 0), feature(5, 1), labels()
    values, memories = expected(loss, student, teacher, target, enqueue)
    parts = loss(prediction(student), prediction(teacher), target)
    torch.testing.assert_close(parts, {"pixel": 0.5 * values["pixel"], "region": 0.25 * values["region"]})
    for name, rings in memories.items():
        torch.testing.assert_close(loss.memories[name].vectors, rings)


def test_random_pixels_come_from_their_class():
    """Teacher pixels that point where their class does stay where they belong; ignored ones are nowhere."""
    loss, target = make_loss(), labels()
    directions = torch.eye(5, dtype=torch.float64)[target.where(target != IGNORE, 4)].permute(0, 3, 1, 2)
    for _ in range(4):
        loss(prediction(feature(3, 0)), prediction(directions), target)
    for memory in loss.memories.values():
        for label in range(3):
            written = memory.vectors[label, : memory.filled[label]]
            assert len(written) and torch.equal(written, torch.eye(5, dtype=torch.float64)[[label] * len(written)])
        assert memory.filled[3] == 0


def test_labels_and_student_come_to_the_size_of_the_teacher():
    loss, other = make_loss(), make_loss()
    fix_draws(loss), fix_draws(other)
    student, teacher, target = feature(3, 0, 3, 3), feature(5, 1), labels(9, 13)
    small = F.interpolate(target[:, None].double(), size=(4, 5), mode="nearest")[:, 0].long()
    resized = F.interpolate(student, size=(4, 5), mode="bilinear", align_corners=True)
    parts = loss(prediction(student, True), prediction(teacher), target)
    torch.testing.assert_close(parts, other(prediction(resized), prediction(teacher), small))


def test_filled_only_leaves_random_vectors_out():
    loss, target = make_loss(filled_only=True), labels()
    goal = torch.ones(2, 5, 4, 5, dtype=torch.float64)
    parts = loss(prediction(feature(3, 0)), prediction(goal), target)
    # every vector there is points one way, so that all similarities are equal
    assert all(part.item() == pytest.approx(0, abs=1e-12) for part in parts.values())


def test_a_part_of_weight_0_has_no_memory():
    loss = make_loss(pixel=0.0)
    assert list(loss.memories) == ["region"]
    assert list(loss(prediction(feature(3, 0)), prediction(feature(5, 1)), labels())) == ["region"]


def test_all_pixels_ignored_is_an_attached_zero():
    loss, student = make_loss(), feature(3, 0)
    target = torch.full((2, 4, 5), IGNORE)
    parts = loss(prediction(student), prediction(feature(5, 1)), target)
    sum(parts.values()).backward()
    assert [part.item() for part in parts.values()] == [0, 0]
    assert not student.grad.any() and not any(memory.filled[0] for memory in loss.memories.values())
    assert all(parameter.grad is not None for parameter in loss.parameters())


def test_nothing_is_written_in_eval_mode():
    loss = make_loss().eval()
    loss(prediction(feature(3, 0)), prediction(feature(5, 1)), labels())
    assert all(memory.filled == [0] * CLASSES for memory in loss.memories.values())


def test_gradcheck():
    loss = make_loss(temperature=2.0, contrast_temperature=0.5).eval()
    fix_draws(loss)
    student, teacher, target = feature(3, 0, 2, 3), feature(5, 1, 2, 3), labels(2, 3)
    leaves = (student, *(p.detach().requires_grad_() for p in loss.head.parameters()))
    names = [name for name, _ in loss.named_parameters()]

    def total(head, *weights):
        inputs = prediction(head), prediction(teacher), target
        return sum(torch.func.functional_call(loss, dict(zip(names, weights, strict=True)), inputs).values())

    assert torch.autograd.gradcheck(total, leaves)


def test_bfloat16_autocast_and_constant_features():
    torch.manual_seed(0)
    task = Task(CLASSES, IGNORE, Features("student", {"head": 3}, {}), Features("teacher", {"head": 5}, {}))
    loss = CIRKDMemory(task, pixel_memory=20, region_memory=4, half_memory=True)
    student = torch.ones(2, 3, 4, 5, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = loss(prediction(student), prediction(feature(5, 1).detach().bfloat16()), labels())
    sum(parts.values()).backward()
    assert all(part.dtype == torch.float32 and part.isfinite() for part in parts.values())
    assert student.grad.isfinite().all()


def test_a_loaded_loss_goes_on_where_the_saved_one_was(tmp_path):
    loss, student, teacher, target = make_loss(), feature(3, 0), feature(5, 1), labels()
    loss(prediction(student), prediction(teacher), target)
    torch.save(loss.state_dict(), tmp_path / "state.pt")
    other = make_loss()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    values = []
    for one in (loss, other):
        torch.manual_seed(3)
        values.append(one(prediction(student), prediction(teacher), target))
    assert values[0] == values[1]


def test_errors():
    with pytest.raises(ValueError, match="cirkd_memory: temperatures must be above 0, got 0 and 0.1"):
        make_loss(temperature=0)
    with pytest.raises(ValueError, match="nor both 0; got 0 and 0"):
        make_loss(pixel=0, region=0)
    with pytest.raises(ValueError, match="must be at least 1"):
        make_loss(pixel_memory=0)
    with pytest.raises(ValueError, match="cirkd_memory: a teacher is needed"):
        CIRKDMemory(Task(CLASSES, IGNORE, Features("student", {"head": 3}, {})))
