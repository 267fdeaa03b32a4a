"""A memory of the teacher's vectors from earlier batches, and the exchange that keeps it the same on all processes."""

import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ._relations import image_pair_divergence, unit
from ._task import at_least_float32


class Memory(nn.Module):
    """Unit vectors in one ring per group (a class): new ones overwrite the oldest, random ones stand there first.

    The vectors are no buffer: wrapping for several processes would send them all, a gigabyte with 19 classes, from the
    first process at every step. Each process writes the same gathered vectors instead. They are made at the first use,
    on the device of the features, and saved with the module's state.

    Args:
        groups: G rings. slots: S vectors in each.
        half: keep them as float16, half the memory, with components rounded to 3 digits.
    """

    def __init__(self, groups: int, slots: int, half: bool = False):
        super().__init__()
        self.groups, self.slots = groups, slots
        self.dtype = torch.float16 if half else torch.get_default_dtype()
        # losses are built from the recipe's seed, so that all processes start from the same vectors
        self.seed = int(torch.randint(2**31, (), device="cpu"))
        self.vectors: Tensor | None = None  # (G, S, C)
        self.pointers = [0] * groups
        self.filled = [0] * groups

    def prepare(self, width: int, device: torch.device) -> None:
        """Makes the vectors, or moves them to the device. ValueError: they are of another length than `width`."""
        if self.vectors is None:
            generator = torch.Generator(device).manual_seed(self.seed)
            self.vectors = torch.empty(self.groups, self.slots, width, dtype=self.dtype, device=device)
            for ring in self.vectors:  # ring by ring: the whole in float32 would double the peak
                ring.copy_(unit(torch.randn(self.slots, width, generator=generator, device=device), 1))
        if self.vectors.shape[2] != width:
            raise ValueError(
                f"the memory holds vectors of length {self.vectors.shape[2]}, the teacher now gives {width}; "
                f"keep crop_size and the teacher as they were when the run began"
            )
        self.vectors = self.vectors.to(device)

    def write(self, groups: list[int], counts: list[int], vectors: Tensor) -> None:
        """Puts the next counts[i] of the vectors into the ring groups[i], one i after the other.

        A run of k vectors that reaches the end of its ring takes the last k slots instead, and the ring starts anew;
        of more than S the first S are taken.

        Shapes:
            vectors: (sum of counts, C).
        """
        latest: dict[tuple[int, int], int] = {}  # (group, slot) -> row; one write per slot, in any order
        row = 0
        for group, count in zip(groups, counts, strict=True):
            taken = min(count, self.slots)
            first = self.pointers[group]
            if first + taken >= self.slots:
                first, self.pointers[group], self.filled[group] = self.slots - taken, 0, self.slots
            else:
                self.pointers[group] = first + taken
                self.filled[group] = max(self.filled[group], first + taken)
            latest.update({(group, first + offset): row + offset for offset in range(taken)})
            row += count
        if latest:
            index = torch.tensor([(*place, source) for place, source in latest.items()], device=vectors.device)
            self.vectors[index[:, 0], index[:, 1]] = vectors[index[:, 2]].to(self.dtype)

    def draw(self) -> Tensor:
        """A random order of the slots, (S,), from the global generator of the CPU."""
        return torch.randperm(self.slots)

    def sample(self, count: int, filled_only: bool = False) -> Tensor:
        """The vectors in `count` random slots, the same ones of every ring.

        Args:
            filled_only: without those that no vector was written to yet.

        Shapes:
            returns: (G * count, C), fewer with filled_only; float32 at least.
        """
        slots = self.draw()[:count].to(self.vectors.device)
        sampled = self.vectors[:, slots].flatten(0, 1)  # (G n, C)
        if filled_only:
            filled = torch.tensor(self.filled, device=slots.device)
            sampled = sampled[(slots[None] < filled[:, None]).flatten()]
        return at_least_float32(sampled)

    def get_extra_state(self) -> dict:
        return {"vectors": self.vectors, "pointers": self.pointers, "filled": self.filled, "seed": self.seed}

    def set_extra_state(self, state: dict) -> None:
        vectors = state["vectors"]
        if vectors is not None and tuple(vectors.shape[:2]) != (self.groups, self.slots):
            raise ValueError(
                f"the saved memory has {vectors.shape[0]} rings of {vectors.shape[1]} vectors, this one "
                f"{self.groups} of {self.slots}; keep the loss's args as they were when the run began"
            )
        self.vectors = None if vectors is None else vectors.to(self.dtype, copy=True)
        self.pointers, self.filled = list(state["pointers"]), list(state["filled"])
        self.seed = state["seed"]


def gather(x: Tensor) -> list[Tensor]:
    """The tensors that all processes pass, in their order; they must have one shape. No gradient."""
    if not (dist.is_available() and dist.is_initialized()):
        return [x.detach()]
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return parts


def of_all(x: Tensor) -> Tensor:
    """x of all processes along the batch; this process's part keeps its gradient."""
    parts = gather(x)
    parts[this_process()] = x
    return torch.cat(parts)


def among_images(student: Tensor, teacher: Tensor, temperature: float, *, gathers: bool, training: bool) -> Tensor:
    """image_pair_divergence between the images of a batch or, in training if it `gathers`, of all processes' batches.

    Shapes:
        student: (B, R, C), teacher: (B, R, C'). returns: scalar.
    """
    if len(teacher) == 1 and not gathers:
        warnings.warn("cirkd: one image per process has no other to compare with; set gather: true", stacklevel=2)
    student_keys, teacher_keys = map(of_all, (student, teacher)) if gathers and training else (student, teacher)
    return image_pair_divergence(student, student_keys, teacher, teacher_keys, temperature)


def gather_rows(x: Tensor, counts: list[int]) -> Tensor:
    """As gather, concatenated, for (n, C) with another n on each process: counts[rank]."""
    padded = x.new_zeros(max(counts), x.shape[1])
    padded[: len(x)] = x
    return torch.cat([part[:count] for part, count in zip(gather(padded), counts, strict=True)])


def of_first(x: Tensor) -> Tensor:
    """What the first process passes, on all."""
    if dist.is_available() and dist.is_initialized():
        x = x.contiguous()
        dist.broadcast(x, 0)
    return x


def this_process() -> int:
    """Rank of this process, 0 when there is one only."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
