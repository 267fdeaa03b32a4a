"""Golden cases of TriKD's modules and of its unused ways to mix two images."""

import numpy as np
import torch
from parity_baselines import filled
from parity_losses import Arrays, tensors
from torch import Tensor, nn

from segkd.datasets._mixing import class_paste, half_area_box
from segkd.models._frequency import BandFilter, FrequencyAttention, FrequencySqueeze
from segkd.models._tokens import as_map, resize_positions
from segkd.models._uper import MultiScaleNeck, UperDecoder

# FrequencyAttention's options for the original's class names
VARIANTS = {
    "FeatureSelectionModule_FFT": {},
    "FeatureSelectionModule_FFT_wo_skip": {"skip": False},
    "FeatureSelectionModule_FFT_BN_ReLU": {"norm": True},
}


def load(module: nn.Module, arrays: Arrays) -> nn.Module:
    """The module in float64 and eval mode with the recorded state, whose keys are its own.

    The recorded weights are filled by key and shape, so a recording may leave out large ones.
    """
    state = {key.removeprefix("state:"): torch.from_numpy(a) for key, a in arrays.items() if key.startswith("state:")}
    for key, own in module.double().eval().state_dict().items():
        if key not in state:
            state[key] = filled(key, tuple(own.shape))
    module.load_state_dict(state)
    return module


def probed(outputs: dict[str, Tensor], module: nn.Module, inputs: dict[str, Tensor]) -> Arrays:
    """Outputs, the sum over them of values times cos(index), and its gradients by inputs and parameters."""
    flat = [output.flatten() for output in outputs.values()]
    probe = sum((values * torch.arange(len(values), dtype=values.dtype).cos()).sum() for values in flat)
    leaves = inputs | dict(module.named_parameters())
    gradients = torch.autograd.grad(probe, list(leaves.values()))
    arrays = {**outputs, "probe_loss": probe} | {f"grad:{name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {name: value.detach().numpy() for name, value in arrays.items()}


def band_filter(params: dict) -> BandFilter:
    return BandFilter(params["band"], params["D0"])


def separate(case: dict, arrays: Arrays) -> Arrays:
    return one_map(band_filter(case["params"]), arrays)


def attention(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    options = VARIANTS[params.get("variant", "FeatureSelectionModule_FFT")]
    channels = params["in_channels"], params["out_channels"]
    return one_map(FrequencyAttention(*channels, band_filter(params), **options), arrays)


def squeeze(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    return one_map(FrequencySqueeze(params["channels"], band_filter(params), params["reduction"]), arrays)


def one_map(module: nn.Module, arrays: Arrays) -> Arrays:
    inputs = tensors(arrays)
    module = load(module, arrays)
    return probed({"output": module(inputs["input"])}, module, inputs)


def decoder(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    options = {"bottleneck": params["bottleneck_channels"], "cutoff": params.get("D0", 10)}
    module = UperDecoder(params["in_channels"], params["out_channels"], params["num_classes"], **options)
    logits, _ = load(module, arrays)([inputs[f"input{level}"] for level in range(len(inputs))])
    return probed({"output": logits}, module, inputs)


def neck(case: dict, arrays: Arrays) -> Arrays:
    params, inputs = case["params"], tensors(arrays)
    module = load(MultiScaleNeck(params["embed_dim"], params["out_channels"], params["scales"]), arrays)
    tokens = [inputs[f"input{level}"] for level in range(len(inputs))]
    side = round(tokens[0].shape[1] ** 0.5)
    levels = module([as_map(sequence, (side, side)) for sequence in tokens])
    return probed({f"output{level}": x for level, x in enumerate(levels)}, module, inputs)


def positions(case: dict, arrays: Arrays) -> Arrays:
    params = case["params"]
    table = torch.from_numpy(arrays["input:pos_embed"])
    source, target = ((side, side) for side in (params["source_grid"], params["target_grid"]))
    return {"pos_embed": resize_positions(table, source, target, params["align_corners"]).numpy()}


def rectangle(case: dict, arrays: Arrays) -> Arrays:
    side = case["params"]["size"]
    area, exponent = (float(arrays[f"draw:{name}"].item()) for name in ("area", "exponent"))
    top, left, height, width = half_area_box((side, side), area, exponent, tuple(arrays["draw:position"].tolist()))
    return {"rectangle": np.array([top, left, top + height, left + width], dtype=np.float64)}


def paste(case: dict, arrays: Arrays) -> Arrays:
    images, labels = arrays["input:images"], arrays["input:labels"]  # (B, 2 * 3, H, W), (B, 2, H, W)
    pairs = images.reshape(len(images), 2, 3, *images.shape[-2:]).transpose(0, 1, 3, 4, 2)  # (B, 2, H, W, 3)
    mixed = [
        class_paste(*zip(both, both_labels), case["params"]["query_classes"])
        for both, both_labels in zip(pairs, labels, strict=True)
    ]
    return {
        "image": np.stack([image.transpose(2, 0, 1) for image, _ in mixed]),
        "label": np.stack([target for _, target in mixed]),
    }


RUNNERS = {
    "fft_separate": separate,
    "fsm_fft": attention,
    "fsm_fft_variant": attention,
    "se_fft": squeeze,
    "uperhead_fsm": decoder,
    "vit_neck": neck,
    "pos_embed_resize": positions,
    "half_area_cutmix": rectangle,
    "class_paste": paste,
}

TOLERANCE = {loss: {"relative": 1e-9} for loss in RUNNERS} | {"half_area_cutmix": 0.0, "class_paste": 0.0}
