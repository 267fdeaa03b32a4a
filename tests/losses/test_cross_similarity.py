"""Cross similarity's cosines, whose gradient is stopped on the teacher's side of the divergence."""

import torch

from segkd.losses._regions import one_hot
from segkd.losses._relations import inverse_norm
from segkd.losses.cross_similarity import similarities


def test_gradcheck_of_the_cosines_and_none_through_the_teachers():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 6, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(4, (2, 2, 4), generator=generator)
    masks = one_hot(labels.flatten(1), 3, torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: similarities(x, teacher, masks)[0], student)
    assert not similarities(student, teacher, masks)[1].requires_grad


def test_inverse_norm_of_nothing_is_nothing():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]], requires_grad=True)
    inverse = inverse_norm(x, 1)
    torch.testing.assert_close(inverse, torch.tensor([[0.2], [0.0], [0.0]]))
    inverse.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[-3 / 125, -4 / 125], [0.0, 0.0], [0.0, 0.0]]))
