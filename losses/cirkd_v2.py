"""CIRKDv2: Yang et al., "CIRKDV2: Cross-Image Relational Knowledge Distillation with Contextual ...", report 2025."""

from types import SimpleNamespace
from typing import Literal

from torch import Tensor, nn

from ._gcn import GCN
from ._pair import Pair, pick
from ._task import Count, Prediction, Task, Temperature, Weight
from .cirkd_channel import CIRKDChannel
from .cirkd_memory import CIRKDMemory
from .cirkd_minibatch import CIRKDMinibatch
from .fitnet import FitNet


class CIRKDv2(nn.Module):
    """All feature terms of CIRKDv2 behind one adapter: the student's feature passes a self-attention block first.

        f = GCN(s),    L = w_1 FitNet(f, t) + w_2 CIRKDMinibatch(f, t) + CIRKDMemory(f, t) + CIRKDChannel(f, t)

    Source: second release; beside it go `cross_entropy` and `kl`, both of weight 1. The classifier does not read f. The
    released code drops the block where the weight of FitNet is 0; here `gcn` alone decides. Its SegFormer script has
    `gcn: false, pixel_memory: 2000`; fitnet is 1 or 10 by student.

    Args:
        gcn: with the self-attention block.
        fitnet, minibatch_pixel, memory_pixel, memory_region, minibatch_channel, memory_channel, channel_mse: weights of
            the parts.
        contrast_temperature: tau of CIRKDMemory, and the temperature of the two mini-batch parts.
        pixel_memory, region_memory, channel_memory: vectors kept, per class or in all.
        pixel_contrast, region_contrast, channel_contrast: vectors a pixel or channel is compared with.
        enqueue, filled_only, half_memory: see CIRKDMemory. gather: see CIRKDMinibatch.

    Returns:
        {part: weighted scalar} of the parts left in. The student's map is resized behind the block.
    """

    def __init__(
        self,
        task: Task,
        *,
        feature: str = "head",
        teacher_feature: str | None = None,
        gcn: bool = True,
        fitnet: Weight = 1.0,
        minibatch_pixel: Weight = 1.0,
        memory_pixel: Weight = 0.1,
        memory_region: Weight = 0.1,
        minibatch_channel: Weight = 1.0,
        memory_channel: Weight = 0.1,
        channel_mse: Weight = 100.0,
        temperature: Temperature = 1.0,
        contrast_temperature: Temperature = 0.1,
        pixel_memory: Count = 20000,
        region_memory: Count = 2000,
        channel_memory: Count = 10000,
        pixel_contrast: Count = 4096,
        region_contrast: Count = 1024,
        channel_contrast: Count = 2048,
        enqueue: Literal["class_pixels", "legacy"] = "class_pixels",
        filled_only: bool = False,
        half_memory: bool = False,
        gather: bool = False,
    ):
        super().__init__()
        memories, channels = (memory_pixel, memory_region), (minibatch_channel, memory_channel, channel_mse)
        if not any((fitnet, minibatch_pixel, *memories, *channels)):
            raise ValueError("cirkd_v2: the weights are all 0; give one of the parts a weight")
        self.pair = Pair(task, feature, teacher_feature)
        names = {"feature": feature, "teacher_feature": teacher_feature}
        kept = {"filled_only": filled_only, "half_memory": half_memory}
        temperatures = {"temperature": temperature, "contrast_temperature": contrast_temperature}
        self.gcn = GCN(self.pair.student_channels) if gcn else None
        self.fitnet_weight, self.minibatch_weight = fitnet, minibatch_pixel
        self.fitnet = FitNet(task, **names) if fitnet else None
        self.minibatch = self.memory = self.channel = None
        if minibatch_pixel:
            self.minibatch = CIRKDMinibatch(task, temperature=contrast_temperature, gather=gather, **names)
        if any(memories):
            self.memory = CIRKDMemory(
                task, pixel=memory_pixel, region=memory_region, pixel_memory=pixel_memory, region_memory=region_memory,
                pixel_contrast=pixel_contrast, region_contrast=region_contrast, enqueue=enqueue,
                **names, **kept, **temperatures,
            )  # fmt: skip
        if any(channels):
            self.channel = CIRKDChannel(
                task, minibatch=minibatch_channel, memory=memory_channel, mse=channel_mse,
                channel_memory=channel_memory, channel_contrast=channel_contrast, gather=gather, **names, **kept,
                **temperatures,
            )  # fmt: skip

    def forward(self, student: Prediction, teacher: Prediction, target: Tensor) -> dict[str, Tensor]:
        if self.gcn is not None:
            adapted = self.gcn(pick(student, self.pair.student))
            maps = {"logits": adapted, "aux": adapted, "features": {self.pair.student: adapted}}  # whichever it is
            student = SimpleNamespace(**maps, align_corners=student.align_corners)
        parts = {}
        if self.fitnet is not None:
            parts["fitnet"] = self.fitnet_weight * self.fitnet(student, teacher, target)
        if self.minibatch is not None:
            parts["minibatch_pixel"] = self.minibatch_weight * self.minibatch(student, teacher, target)
        if self.memory is not None:
            parts |= {f"memory_{name}": value for name, value in self.memory(student, teacher, target).items()}
        if self.channel is not None:
            names = {"minibatch": "minibatch_channel", "memory": "memory_channel", "mse": "channel_mse"}
            parts |= {names[name]: value for name, value in self.channel(student, teacher, target).items()}
        return parts
