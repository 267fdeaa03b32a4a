"""CIRKD, memory terms: Yang et al., "Cross-Image Relational Knowledge Distillation", CVPR 2022, arXiv 2204.06986."""

from typing import Literal

import torch
from torch import Tensor, nn

from ._gcn import projection_head
from ._memory import Memory, gather, gather_rows, this_process
from ._pair import Pair
from ._regions import class_index, class_sums, one_hot
from ._relations import row_divergence, unit
from ._task import Count, Prediction, Task, Temperature, Weight, at_least_float32


class CIRKDMemory(nn.Module):
    """KL divergence between the similarities of each pixel to teacher vectors kept from earlier batches, by class.

        z^s = unit_c( head(s) ),    z^t = unit_c(t)
        L = T^2 / M * sum_m KL( softmax(z^t_m Q^T / (tau T)) || softmax(z^s_m Q^T / (tau T)) )

    over the M pixels of the batch that are not ignored. Q holds the vectors in random slots, the same ones of every
    class: of single pixels for `pixel`, of the mean of a class in an image for `region`. In training the
    memories take up the batch before Q is drawn.

    Source: memory based pixel-to-pixel and pixel-to-region distillation of the paper, weights 0.1 (0.01 on VOC in the
    first release). The released code draws numbers below the class's pixel count and reads the map's positions of
    those numbers, top left pixels of any class (`enqueue: legacy`); the evident intent is the default.

    Args:
        pixel, region: weights of the two parts; 0 leaves a part and its memory out.
        contrast_temperature: tau, in units of cosine.
        pixel_memory, region_memory: vectors kept per class.
        pixel_contrast, region_contrast: n gives n // K + 1 vectors of each class in Q.
        pixels_per_class: how many pixels of a class one image adds at most.
        enqueue: `class_pixels`: random pixels of the class. `legacy`: see above.
        filled_only: leave slots out of Q that no vector was written to yet; the released code starts from random ones.
        half_memory: keep the vectors as float16. As float32 they take 0.8 GB with 19 classes of 512 channels.

    Returns:
        {pixel, region} of the parts left in, weighted scalars, mean over M, in nats; 0 with zero gradient when every
        pixel is ignored (original: NaN). Labels are resized to nearest. The teacher gets no gradient.
    """

    detaches_source = True

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        pixel: Weight = 0.1,
        region: Weight = 0.1,
        temperature: Temperature = 1.0,
        contrast_temperature: Temperature = 0.1,
        pixel_memory: Count = 20000,
        region_memory: Count = 2000,
        pixel_contrast: Count = 4096,
        region_contrast: Count = 1024,
        pixels_per_class: Count = 16,
        enqueue: Literal["class_pixels", "legacy"] = "class_pixels",
        filled_only: bool = False,
        half_memory: bool = False,
    ):
        super().__init__()
        if pixel == region == 0:
            raise ValueError("cirkd_memory: pixel and region are both 0; give one of the two parts a weight")
        self.num_classes, self.ignore_index = task.num_classes, task.ignore_index
        self.pair = Pair(task, feature, teacher_feature)
        self.head = projection_head(self.pair.student_channels, self.pair.teacher_channels)
        self.weights, self.contrast, self.memories = {}, {}, nn.ModuleDict()
        sizes = {"pixel": (pixel, pixel_contrast, pixel_memory), "region": (region, region_contrast, region_memory)}
        for name, (weight, contrast, slots) in sizes.items():
            if weight:
                self.weights[name], self.contrast[name] = weight, contrast // self.num_classes + 1
                self.memories[name] = Memory(self.num_classes, slots, half_memory)
        self.temperature, self.contrast_temperature = temperature, contrast_temperature
        self.pixels_per_class = pixels_per_class
        self.enqueue = enqueue
        self.filled_only = filled_only

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> dict[str, Tensor]:
        guess, goal = self.pair.maps(student, teacher)
        labels = class_index(target, goal.shape[-2:], self.num_classes, self.ignore_index)  # (B, N)
        guess = at_least_float32(self.head(guess))
        with torch.autocast(goal.device.type, enabled=False):
            guess, goal = (unit(x.flatten(2), 1) for x in (guess, goal))  # (B, C', N)
            for memory in self.memories.values():
                memory.prepare(goal.shape[1], goal.device)
            if self.training:
                self.remember(goal.detach(), labels)
            counted = labels < self.num_classes
            guess, goal = guess.mT[counted], goal.mT[counted]  # (M, C')
            return {name: weight * self.term(name, guess, goal) for name, weight in self.weights.items()}

    def term(self, name: str, guess: Tensor, goal: Tensor) -> Tensor:
        """The unweighted loss of (M, C') unit vectors against one memory."""
        keys = self.memories[name].sample(self.contrast[name], self.filled_only).to(goal.dtype)
        scale = 1 / (self.contrast_temperature * self.temperature)
        total = row_divergence(guess * scale, keys, goal * scale, keys)
        return self.temperature**2 * total / max(len(goal), 1)

    @torch.no_grad()
    def remember(self, goal: Tensor, labels: Tensor) -> None:
        """Writes the batches of all processes into the memories, in one order everywhere.

        Shapes:
            goal: (B, C', N) unit vectors of the teacher; labels: (B, N), K for the ignored ones.
        """
        masks = one_hot(labels, self.num_classes, goal.dtype)  # (B, K, N)
        sums = class_sums(goal, masks)  # (B, K, C')
        # a wait for the device: which classes are there decides the shapes of all that follows
        everywhere = [part.tolist() for part in gather(masks.sum(-1).long())]
        present = [
            [(image, label, row[label]) for image, row in enumerate(part) for label in range(len(row)) if row[label]]
            for part in everywhere
        ]
        mine = present[this_process()]
        classes = [label for part in present for _, label, _ in part]
        for name, memory in self.memories.items():
            limit = self.pixels_per_class if name == "pixel" else 1
            rows = self.pixels(goal, labels, mine) if name == "pixel" else self.regions(sums, mine)
            sizes = [[min(count, limit) for _, _, count in part] for part in present]
            rows = gather_rows(rows, [sum(part) for part in sizes])
            memory.write(classes, [size for part in sizes for size in part], rows)

    def regions(self, sums: Tensor, present: list[tuple[int, int, int]]) -> Tensor:
        """Unit mean vector of each (image, class, pixels) entry: (entries, C')."""
        index = torch.tensor(present, dtype=torch.int64, device=sums.device).view(-1, 3)
        return unit(sums[index[:, 0], index[:, 1]], 1)

    def pixels(self, goal: Tensor, labels: Tensor, present: list[tuple[int, int, int]]) -> Tensor:
        """Vectors of random pixels of each (image, class, pixels) entry, one entry after the other: (P, C')."""
        places = torch.zeros(2, 0, dtype=torch.int64)
        if present:
            drawn = [self.draw(*entry)[: self.pixels_per_class] for entry in present]
            images = [torch.full_like(x, image) for x, (image, _, _) in zip(drawn, present, strict=True)]
            if self.enqueue == "class_pixels":
                # numbers within each class become numbers within the image sorted by class
                drawn = [x + start for x, start in zip(drawn, _starts(present), strict=True)]
            places = torch.stack([torch.cat(images), torch.cat(drawn)])
        image, position = places.to(goal.device)
        if self.enqueue == "class_pixels":
            position = labels.argsort(dim=1, stable=True)[image, position]
        return goal[image, :, position]

    def draw(self, image: int, label: int, count: int) -> Tensor:
        """A random order of the numbers 0..count-1, for the pixels of a class in an image."""
        return torch.randperm(count)


def _starts(present: list[tuple[int, int, int]]) -> list[int]:
    """Where each entry's pixels begin among those of its image sorted by class."""
    starts, before = [], {}
    for image, _, count in present:
        starts.append(before.get(image, 0))
        before[image] = starts[-1] + count
    return starts
