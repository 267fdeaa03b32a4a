"""The two maps a loss compares: names and channels, checked when it is built, and how they come to one size."""

from torch import Tensor, nn

from ._task import Features, Prediction, Task, at_least_float32, resize


class Pair:
    """One map of the student and the one of the teacher that it is compared with.

    Args:
        task: sizes of this run. loss: name of the loss, for its errors.
        feature: name of the student's feature; `logits`, or None, means its scores, `aux` those of its auxiliary head.
        teacher_feature: name of the teacher's feature; the same name when left out.

    Attributes:
        student_channels, teacher_channels: C and C'.

    Raises:
        ValueError: no teacher, or a feature that a network does not have (the error lists those it has).
    """

    def __init__(self, task: Task, loss: str, feature: str | None, teacher_feature: str | None = None):
        if task.teacher is None:
            raise ValueError(f"{loss}: a teacher is needed; name the network to learn from in the term's `from`")
        self.student = feature or "logits"
        self.teacher = teacher_feature or self.student
        self.student_channels = _channels(task.student, self.student, task.num_classes)
        self.teacher_channels = _channels(task.teacher, self.teacher, task.num_classes)

    def alignment(self) -> nn.Conv2d | None:
        """A 1x1 convolution with bias from the student's channels to the teacher's; None where they are equal."""
        channels = self.student_channels, self.teacher_channels
        return None if channels[0] == channels[1] else nn.Conv2d(*channels, 1)

    def maps(self, student: Prediction, teacher: Prediction, adapter: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) and (B, C', h, w), at least float32; a student map of another size is resized to the teacher's.

        Args:
            adapter: a 1x1 convolution for the student's map. It commutes with the resize, so it runs before it, at the
                student's own, usually smaller, size.
        """
        of_teacher = at_least_float32(_pick(teacher, self.teacher))
        of_student = at_least_float32(_pick(student, self.student))
        if adapter is not None:
            of_student = at_least_float32(adapter(of_student))  # autocast may have lowered it again
        return resize(of_student, of_teacher.shape[-2:], student.align_corners), of_teacher


def _channels(features: Features, name: str, num_classes: int) -> int:
    if name == "aux" and not features.ask_for_aux():
        raise ValueError(f"{features.owner} has no auxiliary head, so no map called 'aux'")
    return num_classes if name in ("logits", "aux") else features.use(name)


def _pick(prediction: Prediction, name: str) -> Tensor:
    return getattr(prediction, name) if name in ("logits", "aux") else prediction.features[name]
