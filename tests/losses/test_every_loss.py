"""What every loss promises: its literal formula's numbers, gradients, types, sizes, ignored pixels, labels, state.

A new file in losses/ is tested as it is. What it does with arguments of its own is a line in VARIANTS, and where its
formula is written in tests/benchmarks/transcriptions_*.py, it is compared with that.
"""

import copy
import functools
import inspect
import io
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from segkd.losses._memory import Memory
from segkd.losses._task import Features, Task
from segkd.models._prediction import Prediction
from segkd.runner.recipe import parts

CLASSES, IGNORE = 4, 255
CHANNELS = {
    "student": {"head": 8, "stage4": 3, "attention": 2, "stage1_pre": 2, "stage2_pre": 2, "stage3_pre": 3, "stage4_pre": 3,
                "boundary": 1, "detail": 1},
    "teacher": {"head": 6, "stage4": 4, "attention": 3, "stage1_pre": 3, "stage2_pre": 2, "stage3_pre": 3, "stage4_pre": 4,
                "boundary": 1, "detail": 1},
}  # fmt: skip
RINGS = {"pixel_memory": 30, "region_memory": 7, "pixel_contrast": 12, "region_contrast": 8}
RING = {"channel_memory": 30, "channel_contrast": 12}
SMALL = {"afdcd": {"groups": 2, "pool": 1, "patch": [2, 2]}, "attnfd": {"reduction": 2}}
SMALL |= {"cirkd_memory": RINGS, "cirkd_channel": {**RING, "pool": 2}, "cirkd_v2": {**RINGS, **RING}}

NAMES = parts.names("losses")
# besides the defaults, the arguments with code of their own
VARIANTS = {
    "afdcd": [{"mask": "center", "projector": "enhanced"}, {"groups": 1, "pool": 2, "patch": [1, 2]}],
    "at": [{"norm": "column"}],
    "attention_kl": [{"stretch": "grid", "reduction": "row"}],
    "attnfd": [{"teacher_gate": "learned", "features": ["stage3_pre"]}],
    "boundary": [{"edges": "canny", "width": 3}],
    "boundary_awareness": [{"ohem_min_kept": 4, "class_weights": [1.0, 2.0, 3.0, 4.0], "boundary_probability": 0.5}],
    "cirkd_channel": [{"filled_only": True, "half_memory": True}],
    "cirkd_memory": [{"enqueue": "legacy"}, {"filled_only": True, "half_memory": True}],
    "cirkd_minibatch": [{"pool": 2, "pool_from": [2, 2]}],
    "cirkd_v2": [{"gcn": False}],
    "cross_entropy": [
        {"divisor": "all", "class_weights": [1.0, 2.0, 3.0, 4.0]},
        {"divisor": "valid_x_batch", "focal_gamma": 0.5},
        *({"ohem_min_kept": 4} | rule for rule in ({}, {"ohem_rule": "image"}, {"ohem_threshold": None})),
        {"ohem_min_kept": 4, "ohem_rule": "strict", "divisor": "count", "class_weights": [1.0, 2.0, 3.0, 4.0]},
        {"ohem_min_share": 0.25, "ohem_rule": "largest", "divisor": "count", "scores": "aux"},
    ],
    "cross_pseudo": [{"mask_ignored": True}],
    "cross_similarity": [{"softmax_over": "spatial", "label_resize": "nearest", "feature": "stage3_pre"}],
    "cwd": [{"feature": "head"}],
    "detail": [{"feature": "stage1_pre"}],
    "dice": [{"classes": "all", "per_image": True}],
    "dist": [{"mask_ignored": True}],
    "dkd": [{"segment": True}, {"segment": True, "softmax_over": "batch_class"}],
    "dsd": [{"levels": ["aux", "head", "logits"]}],
    "fitnet": [{"projection": "affine", "feature": "aux"}],
    "ickd": [{"feature": None}],
    "ics": [{"variant": name} for name in ("raw", "symmetric", "branch", "released")],
    "ifvd": [{"align": True, "label_resize": "bilinear_trunc"}],
    "kl": [
        {"mask_ignored": True, "size": "teacher", "standardize": True},
        {"guide": "mean"},
        {"guide": "detached_mean"},
    ],
    "lovasz": [{"classes": "all", "per_image": True}],
    "mgd": [{"masked": 0.0, "feature": "stage3_pre"}],
    "nfd": [{"over": "batch_space", "distance": "l2_over_area"}, {"over": "channel", "size": "student"}],
    "overhaul": [{"margin": "measured"}, {"margin": "none"}],
    "phi_s": [{"projection": "mlp", "hidden": 3, "blocks": 1, "mask_ignored": True}, {"rotate": False}],
    "qsd": [{"heads": 2, "scaled": True}],
    "region_cosine": [{"label_resize": "nearest", "feature": "stage3_pre"}],
    "region_distance": [{"label_resize": "nearest", "feature": "stage3_pre"}],
    "skd": [{"share": 0.5, "norm": "detached"}],
    "token_queue": [{"queue": 3}],
    "token_relation": [{"projection": "none"}],
}
CASES = [(name, arguments) for name in NAMES for arguments in [{}, *VARIANTS.get(name, [])]]

# the teacher's maps get no gradient even where the term does not detach them
TEACHER_LEARNS_NOTHING = {name for name in NAMES if parts.detaches_source(name) or not parts.needs_teacher(name)}
TEACHER_LEARNS_SOME = {"cirkd_channel", "cirkd_v2"}  # by some of their parts
# part of the student's gradient is stopped on purpose
STOPPED = [("kl", {"guide": "detached_mean"}), ("skd", {"share": 0.5, "norm": "detached"})]
STOPPED += [("cross_similarity", arguments) for arguments in ({}, *VARIANTS["cross_similarity"])]
# loss -> the parts of its value, each with a weight of the same name
PARTS = {
    "afdcd": ["fd", "contrast"],
    "cirkd_channel": ["minibatch", "memory", "mse"],
    "cirkd_memory": ["pixel", "region"],
    "cirkd_v2": ["fitnet", "minibatch_pixel", "memory_pixel", "memory_region", "minibatch_channel", "memory_channel",
                 "channel_mse"],
    "detail": ["bce", "dice"],
    "dsd": ["psd", "csd"],
}  # fmt: skip
# with all pixels ignored these are 0, as is any loss with mask_ignored
COUNTS_LABELLED_PIXELS = {"boundary", "boundary_awareness", "cirkd_memory", "cross_entropy", "cross_similarity", "dice",
                          "ifvd", "lovasz", "region_cosine", "region_distance"}  # fmt: skip
# ids that are read as numbers change with the id that is ignored
AS_NUMBERS = [case for case in CASES if case[0] == "detail" or case[1].get("edges") == "canny"]
LABEL_RESIZE = [parts.completed_arguments("losses", *case).get("label_resize") for case in CASES]
WITH_WHOLE_LABELS = [c for c, how in zip(CASES, LABEL_RESIZE) if how != "bilinear_trunc" and c not in AS_NUMBERS]
# these do not resize the student to the teacher, or not before all else
OTHER_SIZES = {
    "attention_kl", "boundary", "boundary_awareness", "channel_mean", "cirkd_v2", "cross_entropy", "cross_pseudo",
    "detail", "dice", "dsd", "ics", "kl", "lovasz", "phi_s", "sp", "token_queue",
}  # fmt: skip


def every_loss(cases):
    return pytest.mark.parametrize("name, arguments", cases, ids=lambda value: str(value or "defaults"))


# loss name -> its formula as tests/benchmarks has it
LITERAL = {}
for file in sorted((Path(__file__).parents[1] / "benchmarks").glob("transcriptions_*.py")):
    LITERAL |= {name: formula for name, formula in runpy.run_path(str(file)).items() if name in NAMES}
# what they hold: all defaults, and the variants of some
OPTIONAL = {"afdcd", "cross_similarity", "mgd", "nfd", "overhaul", "qsd", "region_cosine", "region_distance",
            "token_relation"}  # fmt: skip
AS_WRITTEN = [(name, {}) for name in sorted(LITERAL)] + [case for case in CASES if case[0] in OPTIONAL and case[1]]


def make_task(ignore_index=IGNORE):
    generator = torch.Generator().manual_seed(0)
    norms = {name: tuple(torch.randn(2, c, generator=generator)) for name, c in CHANNELS["teacher"].items()}
    student, teacher = (Features(owner, channels, {}, has_aux=True) for owner, channels in CHANNELS.items())
    teacher.norms.update(norms)
    return Task(CLASSES, ignore_index, student, teacher)


def make_loss(name, arguments, task=None, seed=0):
    torch.manual_seed(seed)
    return parts.build("losses", name, {**SMALL.get(name, {}), **arguments}, task or make_task())


def make_inputs(name, arguments, dtype, student_size=None, align_corners=False):
    """Two predictions with the features the loss asked for and no others, and labels without class 3, some ignored."""
    task = make_task()
    make_loss(name, arguments, task)
    size = (64, 66) if name == "holistic" else (4, 5)
    generator = torch.Generator().manual_seed(1)

    def random(channels, size):
        return 2 * torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)

    predictions = []
    for owner, tokens, own_size in ((task.student, 4, student_size or size), (task.teacher, 6, size)):
        shapes = {feature: own_size for feature in sorted(owner.wanted - {"aux"})}
        shapes |= {"attention": (tokens, tokens)} if "attention" in shapes else {}
        features = {f: random(owner.channels[f], shape) for f, shape in shapes.items()}
        logits, aux = (random(CLASSES, own_size) for _ in range(2))
        predictions.append(Prediction(logits, align_corners, aux, features))
    target = torch.randint(3, (2, 8, 10), generator=generator)
    if name == "boundary":  # regions so large that most pixels are on no border
        target = torch.kron(target[:, :2, :3], torch.ones(1, 12, 12, dtype=torch.int64))
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    return *(as_leaves(prediction, dtype) for prediction in predictions), target


def as_leaves(prediction, dtype):
    return with_maps(prediction, [x.detach().to(dtype).requires_grad_() for x in maps_of(prediction)])


def maps_of(prediction):
    return [prediction.logits, prediction.aux, *prediction.features.values()]


def with_maps(prediction, maps):
    logits, aux, *features = maps
    return Prediction(logits, prediction.align_corners, aux, dict(zip(prediction.features, features, strict=True)))


def total(value):
    return sum(value.values()) if isinstance(value, dict) else value


def run(loss, student, teacher, target):
    """The sum of a loss's parts for fixed draws, and the gradients of both networks' maps and of its parameters."""
    torch.manual_seed(2)
    value = total(loss(student, teacher, target))
    leaves = [*maps_of(student), *maps_of(teacher), *(p for p in loss.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    assert any(x is not None for x in gradients[: len(maps_of(student))]), "the student is not in the graph"
    return value.detach(), gradients


def assert_finite(value, gradients):
    assert value.isfinite() and all(x.isfinite().all() for x in gradients if x is not None)


@pytest.fixture
def float64():
    """What is built with the default type, such as a memory, is as precise as the inputs."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@every_loss(AS_WRITTEN)
def test_numbers_are_those_of_the_literal_formula(name, arguments, float64):
    student, teacher, target = make_inputs(name, arguments, torch.float64)
    student.aux = teacher.aux = None
    ours, theirs = make_loss(name, arguments), make_loss(name, arguments)
    values, gradients = [], []
    for loss, formula in ((ours, ours), (theirs, functools.partial(LITERAL[name], theirs))):
        torch.manual_seed(2)
        values.append(total(formula(student, teacher, target)))
        leaves = [student.logits, *student.features.values(), *loss.parameters()]
        gradients.append(torch.autograd.grad(values[-1], leaves, allow_unused=True))
    torch.testing.assert_close(*values, rtol=1e-9, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-11)
    remembered = [[m.get_extra_state() for m in loss.modules() if isinstance(m, Memory)] for loss in (ours, theirs)]
    for one, other in zip(*remembered, strict=True):
        torch.testing.assert_close(one["vectors"], other["vectors"])
        assert one["pointers"] == other["pointers"]


@every_loss(CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_who_gets_a_gradient(name, arguments, dtype):
    loss = make_loss(name, arguments, task := make_task()).to(dtype)
    student, teacher, target = make_inputs(name, arguments, dtype)
    before = [x.detach().clone() for x in (*maps_of(student), *maps_of(teacher))]
    torch.manual_seed(2)
    value = loss(student, teacher, target)
    assert isinstance(value, dict) == (name in PARTS)
    for part in value.values() if isinstance(value, dict) else [value]:
        assert part.shape == () and part.dtype == dtype and part.isfinite()
    total(value).backward()
    assert all(map(torch.equal, before, [*maps_of(student), *maps_of(teacher)])), "a loss changes its inputs"
    assert any(x.grad is not None and x.grad.any() for x in maps_of(student))
    assert {one for one in ("logits", "aux") if getattr(student, one).grad is not None} == task.student.scores
    learns = any(x.grad is not None and x.grad.any() for x in maps_of(teacher))
    assert learns == (name not in TEACHER_LEARNS_NOTHING and arguments != {"guide": "detached_mean"})
    assert_finite(total(value), [x.grad for x in (*maps_of(student), *maps_of(teacher))])
    for parameter in loss.parameters():
        assert parameter.grad.isfinite().all() if parameter.requires_grad else parameter.grad is None


def count_memories(loss):
    return sum(isinstance(module, Memory) for module in loss.modules())


@pytest.mark.parametrize("name, absent", [(name, part) for name, names in PARTS.items() for part in names])
def test_a_part_of_weight_0_is_left_out_with_all_it_holds(name, absent):
    inputs, loss = make_inputs(name, {}, torch.float32), make_loss(name, {absent: 0.0})
    values = loss(*inputs)
    assert list(values) == [part for part in PARTS[name] if part != absent]
    total(values).backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())
    whole = make_loss(name, {})
    assert list(whole(*inputs)) == PARTS[name]
    has_memory = absent.startswith("memory") or name == "cirkd_memory"
    assert count_memories(loss) == count_memories(whole) - has_memory


@pytest.mark.parametrize("name", PARTS)
def test_all_weights_0(name):
    named = {"cirkd_v2": "the weights"}.get(name, ".*".join(PARTS[name]))
    with pytest.raises(ValueError, match=f"{name}: {named} are (all|both) 0"):
        make_loss(name, dict.fromkeys(PARTS[name], 0.0))


@every_loss([case for case in CASES if case not in STOPPED])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_the_value(name, arguments, training):
    loss = make_loss(name, arguments).double().train(training)
    student, teacher, target = make_inputs(name, arguments, torch.float64)
    parameters = {key: p for key, p in loss.named_parameters() if p.requires_grad}
    of_student, of_teacher = maps_of(student), maps_of(teacher)

    def value(*given):
        maps, weights = given[: -len(parameters) or None], given[len(given) - len(parameters) :]
        guess = with_maps(student, maps[: len(of_student)])
        goal = with_maps(teacher, maps[len(of_student) :] or of_teacher)
        torch.manual_seed(2)
        one = copy.deepcopy(loss)  # what a loss remembers of one call would change the next
        return total(torch.func.functional_call(one, dict(zip(parameters, weights)), (guess, goal, target)))

    inputs = of_student if name in TEACHER_LEARNS_NOTHING | TEACHER_LEARNS_SOME else of_student + of_teacher
    assert torch.autograd.gradcheck(value, (*inputs, *parameters.values()), fast_mode=True)


@every_loss(CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_raised_whatever_the_autocast(name, arguments, dtype):
    student, teacher, target = make_inputs(name, arguments, dtype)
    raised = as_leaves(student, torch.float32), as_leaves(teacher, torch.float32)
    plain, _ = run(make_loss(name, arguments), *raised, target)
    with torch.autocast("cpu", dtype=dtype):
        value, gradients = run(make_loss(name, arguments), student, teacher, target)
        of_raised, _ = run(make_loss(name, arguments), *raised, target)
    assert value.dtype == torch.float32
    if dtype == torch.bfloat16:  # float16 has no room for them without a scaled loss
        assert_finite(value, gradients)
    torch.testing.assert_close(value, of_raised, rtol=1e-5, atol=1e-6)
    # under autocast only what a loss learns runs in half types
    learns = any(p.requires_grad for p in make_loss(name, arguments).parameters())
    torch.testing.assert_close(value, plain, rtol=0.1 if learns else 1e-5, atol=0.05 if learns else 1e-6)


@every_loss(CASES)
@pytest.mark.parametrize("constant", [0.0, 2.0])
def test_flat_maps_and_ignored_images_give_finite_numbers(name, arguments, constant):
    student, teacher, target = make_inputs(name, arguments, torch.float32)
    target[0] = IGNORE
    flat_student, flat_teacher = (
        with_maps(p, [torch.full_like(x, constant).requires_grad_() for x in maps_of(p)]) for p in (student, teacher)
    )
    assert_finite(*run(make_loss(name, arguments), student, teacher, target))
    assert_finite(*run(make_loss(name, arguments), flat_student, teacher, target))
    assert_finite(*run(make_loss(name, arguments), student, flat_teacher, target))


@every_loss(CASES)
def test_all_pixels_ignored(name, arguments):
    student, teacher, target = make_inputs(name, arguments, torch.float32)
    loss = make_loss(name, arguments)
    value, gradients = run(loss, student, teacher, torch.full_like(target, IGNORE))
    assert_finite(value, gradients)
    if name in COUNTS_LABELLED_PIXELS or "mask_ignored" in arguments:
        assert value == 0 and not any(x.any() for x in gradients if x is not None)
    if name == "cirkd_v2":
        values = loss(student, teacher, torch.full_like(target, IGNORE))
        assert values["memory_pixel"] == values["memory_region"] == 0


@every_loss(WITH_WHOLE_LABELS)
def test_the_ignored_label_may_be_a_class(name, arguments):
    student, teacher, target = make_inputs(name, arguments, torch.float64)
    labels = {IGNORE: target, 3: target.where(target != IGNORE, 3)}  # class 3 is absent otherwise
    values = [
        run(make_loss(name, arguments, make_task(ignored)).double(), student, teacher, labels[ignored])[0]
        for ignored in (IGNORE, 3)
    ]
    torch.testing.assert_close(*values, rtol=0, atol=0)


@every_loss([case for case in CASES if case[0] not in OTHER_SIZES and "size" not in case[1]])
@pytest.mark.parametrize("align_corners", [True, False])
def test_the_student_is_resized_to_the_teacher(name, arguments, align_corners):
    size = (40, 33) if name == "holistic" else (3, 3)
    student, teacher, target = make_inputs(name, arguments, torch.float64, size, align_corners)
    enlarged = [
        F.interpolate(x, size=teacher.logits.shape[-2:], mode="bilinear", align_corners=align_corners)
        for x in maps_of(student)
    ]
    # in eval mode, where what is learnt commutes with the resize
    values = [
        run(make_loss(name, arguments).double().eval(), p, teacher, target)[0]
        for p in (student, as_leaves(with_maps(student, enlarged), torch.float64))
    ]
    torch.testing.assert_close(*values)


@every_loss(CASES)
def test_label_free_says_whether_labels_are_read(name, arguments):
    student, teacher, target = make_inputs(name, arguments, torch.float64)
    others = target.where(target == IGNORE, 0)
    values, gradients = zip(*(run(make_loss(name, arguments).double(), student, teacher, t) for t in (target, others)))
    pairs = [(a, b) for a, b in zip(*gradients) if a is not None or b is not None]
    reads_labels = not torch.equal(*values) or not all(torch.equal(a, b) for a, b in pairs)
    assert reads_labels == parts.needs_labels(name)


@every_loss(CASES)
def test_a_loaded_loss_goes_on_where_the_saved_one_was(name, arguments):
    loss, inputs = make_loss(name, arguments), make_inputs(name, arguments, torch.float32)
    run(loss, *inputs)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    other = make_loss(name, arguments, seed=9)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    values = [run(one, *inputs) for one in (loss, other)]
    torch.testing.assert_close(*values, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_feature_that_is_not_there(name):
    names = inspect.signature(parts.find("losses", name)).parameters
    for argument, owner in (("feature", "student"), ("teacher_feature", "teacher")):
        if argument in names:
            with pytest.raises(ValueError, match=f"{owner} has no feature 'stage9'; it has: head, stage4"):
                make_loss(name, {argument: "stage9"})
    for argument, rest in (("levels", ["logits"]), ("features", ["stage1_pre"] * 3)):
        if argument in names:
            with pytest.raises(ValueError, match="student has no feature 'stage9'; it has: head, stage4"):
                make_loss(name, {argument: ["stage9", *rest]})
