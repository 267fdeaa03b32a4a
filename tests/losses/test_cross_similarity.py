"""Cross similarity's cosines, whose gradient is stopped on the teacher's side of the divergence."""

import torch

from segkd.losses._regions import one_hot
from segkd.losses.cross_similarity import similarities


def test_gradcheck_of_the_cosines_and_none_through_the_teachers():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 6, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(4, (2, 2, 4), generator=generator)
    masks = one_hot(labels.flatten(1), 3, torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: similarities(x, teacher, masks)[0], student)
    assert not similarities(student, teacher, masks)[1].requires_grad
