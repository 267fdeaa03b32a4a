"""Golden cases of TriKD's modules and of its unused ways to mix two images."""

import numpy as np
import torch
from recorded.arrays import Arrays, Tensors, plain, restore, results, states
from recorded.fill import fill_state
from torch import Tensor, nn

from segkd.datasets._mixing import class_paste, half_area_box
from segkd.models._frequency import BandFilter, FrequencyAttention, FrequencySqueeze
from segkd.models._tokens import resize_positions, to_map
from segkd.models._trikd_decoder import TriKDDecoder, TriKDNeck

# FrequencyAttention's options for the original's class names
VARIANTS = {
    "FeatureSelectionModule_FFT": {},
    "FeatureSelectionModule_FFT_wo_skip": {"skip": False},
    "FeatureSelectionModule_FFT_BN_ReLU": {"norm": True},
}


def load(module: nn.Module, arrays: Arrays) -> nn.Module:
    """The module in float64 and eval mode with the recorded state.

    The recorded weights are filled by key and shape, so a recording may leave out large ones.
    """
    state = states(arrays)
    own = module.double().eval().state_dict()
    restore(module, fill_state({"entries": {key: x.shape for key, x in own.items() if key not in state}}) | state)
    return module


def probed(outputs: dict[str, Tensor], module: nn.Module, inputs: dict[str, Tensor]) -> Arrays:
    """Outputs, the sum over them of values times cos(index), and its gradients by inputs and parameters."""
    flat = [output.flatten() for output in outputs.values()]
    probe = sum((values * torch.arange(len(values), dtype=values.dtype).cos()).sum() for values in flat)
    found = results(probe, inputs | dict(module.named_parameters()), **outputs)
    return found | {"probe_loss": found["loss"]}


def filtered(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    """One map through a filter, or through the attention or the squeeze that looks at some frequencies only."""
    module: nn.Module = BandFilter(params["band"], params["D0"])
    if "channels" in params:
        module = FrequencySqueeze(params["channels"], module, params["reduction"])
    elif "in_channels" in params:
        options = VARIANTS[params.get("variant", "FeatureSelectionModule_FFT")]
        module = FrequencyAttention(params["in_channels"], params["out_channels"], module, **options)
    return probed({"output": load(module, arrays)(inputs["input"])}, module, inputs)


def decoder(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    options = {"bottleneck": params["bottleneck_channels"], "cutoff": params.get("D0", 10)}
    module = TriKDDecoder(params["in_channels"], params["out_channels"], params["num_classes"], **options)
    logits, _ = load(module, arrays)([inputs[f"input{level}"] for level in range(len(inputs))])
    return probed({"output": logits}, module, inputs)


def neck(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    module = load(TriKDNeck(params["embed_dim"], params["out_channels"], params["scales"]), arrays)
    tokens = [inputs[f"input{level}"] for level in range(len(inputs))]
    side = round(tokens[0].shape[1] ** 0.5)
    levels = module([to_map(sequence, (side, side)) for sequence in tokens])
    return probed({f"output{level}": x for level, x in enumerate(levels)}, module, inputs)


def positions(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    source, target = ((side, side) for side in (params["source_grid"], params["target_grid"]))
    return plain({"pos_embed": resize_positions(inputs["pos_embed"], source, target, params["align_corners"])})


def rectangle(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    side = params["size"]
    area, exponent = (float(arrays[f"draw:{name}"].item()) for name in ("area", "exponent"))
    top, left, height, width = half_area_box((side, side), area, exponent, tuple(arrays["draw:position"].tolist()))
    return {"rectangle": np.array([top, left, top + height, left + width], dtype=np.float64)}


def paste(params: dict, inputs: Tensors, arrays: Arrays) -> Arrays:
    images, labels = arrays["input:images"], arrays["input:labels"]  # (B, 2 * 3, H, W), (B, 2, H, W)
    pairs = images.reshape(len(images), 2, 3, *images.shape[-2:]).transpose(0, 1, 3, 4, 2)  # (B, 2, H, W, 3)
    mixed = [
        class_paste(*zip(both, both_labels), params["query_classes"])
        for both, both_labels in zip(pairs, labels, strict=True)
    ]
    return {
        "image": np.stack([image.transpose(2, 0, 1) for image, _ in mixed]),
        "label": np.stack([target for _, target in mixed]),
    }


RUNNERS = {
    "fft_separate": filtered,
    "fsm_fft": filtered,
    "fsm_fft_variant": filtered,
    "se_fft": filtered,
    "uperhead_fsm": decoder,
    "vit_neck": neck,
    "pos_embed_resize": positions,
    "half_area_cutmix": rectangle,
    "class_paste": paste,
}

TOLERANCE = {"half_area_cutmix": 0.0, "class_paste": 0.0}
