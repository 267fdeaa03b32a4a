"""The two maps a loss compares: names and channels, checked when it is built, and how they come to one size."""

from typing import Literal

from torch import Tensor, nn

from ._task import Features, Prediction, Task, at_least_float32, resize, scores_at

ComparedAt = Literal["student", "teacher", "target"]


class Pair:
    """One map of the student and the one of the teacher that it is compared with: `student map` and `teacher map`.

    Args:
        task, feature, teacher_feature: as _task says. Besides a network's features there are `logits`, its scores,
            which None means too, and `aux`, those of its auxiliary head.

    Attributes:
        student_channels, teacher_channels: C and C'.
    """

    def __init__(self, task: Task, feature: str | None, teacher_feature: str | None = None):
        assert task.teacher is not None, "reading has refused a term that lacks the network to learn from"
        self.student = feature or "logits"
        self.teacher = teacher_feature or self.student
        self.student_channels = channels_of(task.student, self.student, task.num_classes)
        self.teacher_channels = channels_of(task.teacher, self.teacher, task.num_classes)

    def alignment(self, bias: bool = True) -> nn.Conv2d | None:
        """A 1x1 convolution from the student's channels to the teacher's; None where they are equal."""
        channels = self.student_channels, self.teacher_channels
        return None if channels[0] == channels[1] else nn.Conv2d(*channels, 1, bias=bias)

    def read(self, student: Prediction, teacher: Prediction) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) and (B, C', h', w'), at least float32, each of its own size."""
        of_student, of_teacher = pick(student, self.student), pick(teacher, self.teacher)
        return at_least_float32(of_student), at_least_float32(of_teacher)

    def maps(self, student: Prediction, teacher: Prediction, adapter: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, h', w') and (B, C', h', w'), at least float32: the student map is resized bilinearly to the teacher's.

        Args:
            adapter: what comes before the resize, at the student's own, usually smaller, size: a 1x1 convolution
                commutes with the resize, whose weights sum to 1.
        """
        of_student, of_teacher = self.read(student, teacher)
        if adapter is not None:
            of_student = at_least_float32(adapter(of_student))  # autocast may have lowered it again
        return resize(of_student, of_teacher.shape[-2:], student.align_corners), of_teacher


def scores_of_both(student: Prediction, teacher: Prediction, target: Tensor, at: ComparedAt) -> tuple[Tensor, Tensor]:
    """Both networks' (B, K, h, w) scores at the size of the student's, the teacher's or the target."""
    size = {"student": student.logits, "teacher": teacher.logits, "target": target}[at].shape[-2:]
    return scores_at(student, size), scores_at(teacher, size)


def channels_of(features: Features, name: str, num_classes: int) -> int:
    """Channels of the map of that name, as Pair takes it, which its network keeps from now on."""
    if name == "aux" and not features.ask_for_aux():
        raise ValueError(f"{features.owner} has no auxiliary head, so no map called 'aux'")
    if name == "logits":
        features.named_scores.add(name)
    return num_classes if name in ("logits", "aux") else features.use(name)


def pick(prediction: Prediction, name: str) -> Tensor:
    """The map of that name, as Pair takes it."""
    return getattr(prediction, name) if name in ("logits", "aux") else prediction.features[name]
