"""Hadamard matrices, whose entries are all of one size: rotations that spread every axis evenly over all others."""

import math

import torch
from torch import Tensor


def hadamard(size: int) -> Tensor:
    """(C, C) float64, orthogonal, a Hadamard matrix divided by sqrt(C).

    Sylvester's doubling of the largest of Paley's matrices that fits, from a prime. Where there is none, as for odd C,
    a random rotation from the global generator.
    """
    if size & (size - 1) == 0:
        return sylvester(size) / math.sqrt(size)
    doublings = (size & -size).bit_length() - 1
    if doublings > 1:  # else 4 does not divide the size
        for exponent in range(doublings - 1, -1, -1):
            matrix = paley(size >> exponent)
            if matrix is not None:
                return torch.kron(sylvester(1 << exponent), matrix) / math.sqrt(size)
    return random_rotation(size)


def sylvester(size: int) -> Tensor:
    """(C, C) of 1 and -1, C a power of 2."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def paley(size: int) -> Tensor | None:
    """(p, p) of 1 and -1 by Paley's first or second construction, or None where no prime fits."""
    first, second = size - 1, size // 2 - 1
    if is_prime(first) and first % 4 == 3:
        matrix = bordered(first)
        matrix[1:, 0] = -1
        return matrix + torch.eye(size, dtype=torch.float64)
    if size % 2 == 0 and is_prime(second) and second % 4 == 1:
        matrix, one = bordered(second), torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64)
        diagonal = torch.tensor([[1.0, -1], [-1, -1]], dtype=torch.float64)
        return torch.kron(matrix, one) + torch.kron(torch.eye(len(matrix), dtype=torch.float64), diagonal)
    return None


def bordered(prime: int) -> Tensor:
    """(q + 1, q + 1): 1 in the first row and column, then 1 where row - column is a square modulo q, -1 where not, 0 on
    the diagonal."""
    numbers = torch.arange(prime)
    character = torch.full((prime,), -1.0, dtype=torch.float64)
    character[numbers.square() % prime] = 1
    character[0] = 0
    matrix = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    matrix[0, 0] = 0
    matrix[1:, 1:] = character[(numbers[:, None] - numbers) % prime]
    return matrix


def is_prime(number: int) -> bool:
    """By trial division."""
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def random_rotation(size: int) -> Tensor:
    """(C, C) from the QR decomposition of random signs, the one with a positive diagonal of R."""
    signs = torch.randint(2, (size, size), device="cpu").double() * 2 - 1
    q, r = torch.linalg.qr(signs)
    # small matrices of signs may be singular, with a 0 there
    return (q * torch.where(r.diagonal() < 0, -1, 1)).T
