"""A delivered network as files that other codes load: each is read back and must give the same scores."""

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segkd.models._checkpoints import Described, describe, read, write
from segkd.models._resnet import STEMS
from segkd.models._timm import ANY_SIZE
from segkd.models._weights import fill, read_weights, shown
from segkd.runner.building.delivered import Delivered, write_folder
from segkd.runner.exporting.agreement import Agreement, Scores, Shape, Written, compare, other_sizes, takes
from segkd.runner.recipe import parts
from segkd.runner.run_folder import checkpoint
from segkd.runner.run_folder.pretrained import from_pretrained

# what a network's settings there decide, not its file; all else a code implies must be as ours
SET_THERE = ("output_stride", "align_corners")


def write_segkd(delivered: Delivered, folder: Path, size: tuple[int, int]) -> Written:
    """The folder `from_pretrained` reads."""
    write_folder(delivered, folder)
    agreement = compare(delivered.network, Scores(from_pretrained(folder)), shapes_for(delivered.network, size))
    return Written(Scores(delivered.network), agreement, "from_pretrained loads it")


def write_layout(
    delivered: Delivered, file: Path, size: tuple[int, int], layout: str, *, keys_only: bool = False
) -> Written:
    """A torch file {meta, state_dict} with the keys of another code, compared with the network that code makes of it.

    mmsegmentation finds class names and colours in `meta`, in the places of its versions 0.x and 1.x.

    Args:
        keys_only: compare with our network after reading the file back instead, for those who build the same there.

    Raises:
        ValueError: that code has no such network, or one that computes something else.
    """
    config = delivered.config
    state = write(delivered.network.state_dict(), layout)
    classes, palette = config.get("class_names"), config.get("palette")
    meta = {
        "CLASSES": classes,
        "PALETTE": palette,
        "dataset_meta": {"classes": classes, "palette": palette},
        "segkd": {key: config[key] for key in ("model", "args", "normalize") if key in config},
    }
    torch.save({"meta": meta, "state_dict": state}, file)
    theirs = read_weights(file)
    found = describe(theirs, layout)
    chosen = {
        key: config["args"][key] for key in SET_THERE if key in found.args and config["args"].get(key) is not None
    }
    args = found.args | chosen
    settings = ", ".join(f"{key} {value}" for key, value in chosen.items())
    remark = f"to be set there: {settings}" if settings else "nothing to be set there"
    differs = ", ".join(
        f"{key} ({config['args'][key]} here, {value} there)"
        for key, value in args.items()
        if config["args"].get(key) not in (None, value)
    )
    if keys_only:
        found, args = Described(config["model"], config["num_classes"]), config["args"]
        remark += f"; its keys were compared, not what that code computes; differs in {differs or 'nothing'}"
    rebuilt = parts.build("models", found.model, args, found.num_classes).eval()
    rebuilt.normalize = delivered.network.normalize
    fill(rebuilt, read(theirs, layout), str(file))
    try:
        agreement = compare(delivered.network, Scores(rebuilt), shapes_for(delivered.network, size))
    except ValueError as error:
        raise ValueError(
            f"{layout} makes another network of this file, which differs in {differs or 'what no argument tells'}: "
            f"{error}; --keys-only writes it all the same"
        ) from None
    return Written(Scores(delivered.network), agreement, remark)


def write_torchvision(delivered: Delivered, file: Path, size: tuple[int, int]) -> Written:
    """The bare state dict of torchvision's deeplabv3_resnet50 or deeplabv3_resnet101, compared with that network.

    Raises:
        ValueError: torchvision has no such network, or one that computes something else.
    """
    import torchvision  # half a second, for those who ask for it

    state = write(delivered.network.state_dict(), "torchvision")
    torch.save(state, file)
    name = "resnet101" if "backbone.layer3.22.conv1.weight" in state else "resnet50"
    build = getattr(torchvision.models.segmentation, f"deeplabv3_{name}")
    aux = "aux_classifier.0.weight" in state
    there = build(weights=None, weights_backbone=None, num_classes=delivered.network.num_classes, aux_loss=aux)
    try:
        there.load_state_dict(state)
        there.eval()
        normalize = delivered.network.normalize
        agreement = compare(
            delivered.network, lambda images: there(normalize(images))["out"], shapes_for(delivered.network, size)
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"torchvision's deeplabv3_{name} is another network: {reason}") from None
    mode = "with" if aux else "without"
    return Written(
        Scores(delivered.network), agreement, f"deeplabv3_{name}, {mode} aux_loss; images normalised outside"
    )


def write_timm(delivered: Delivered, file: Path, size: tuple[int, int]) -> Written:
    """The backbone alone as .safetensors with timm's keys, compared with what timm computes from it.

    Raises:
        ValueError: the backbone is none of timm's, or computes something else there.
    """
    network, args = delivered.network, delivered.config["args"]
    given = str(args.get("backbone", ""))
    name = given.removeprefix("timm/")
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(
            f"timm has no network {name!r}" if name else f"{delivered.config['model']} has no timm backbone"
        )
    prefix = "backbone." if name == given else "backbone.net."
    state = {key.removeprefix(prefix): value for key, value in network.state_dict().items() if key.startswith(prefix)}
    checkpoint.write_tensors(file, state)
    there, called = _timm_network(name, args)
    try:
        missing, unknown = there.load_state_dict(load_file(file), strict=False)
        if unknown:
            raise ValueError(f"it has no {shown(unknown)}")
        agreement = _same_maps(
            network, there, [(batch, _whole(h), _whole(w)) for batch, h, w in shapes_for(network, size)]
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{called} is another network than this backbone: {reason}") from None
    without = f", strict=False) (without {shown(missing)}" if missing else ""
    return Written(Scores(network), agreement, f"the backbone alone: {called}.load_state_dict(load_file(...){without})")


def _timm_network(name: str, args: dict) -> tuple[nn.Module, str]:
    """timm's own network, with as many of the stride and any size of images as it takes, and the call that makes it."""
    stem, stride = STEMS.get(args.get("stem", "plain"), {}), args.get("output_stride")
    strides = [{"output_stride": stride}] * (stride not in (None, 32)) + [{}]
    for options in [{"num_classes": 0} | stem | dilated | any_size for dilated in strides for any_size in ANY_SIZE]:
        try:
            network = timm.create_model(name, **options).eval()
        except (TypeError, AssertionError, NotImplementedError):  # an argument it does not have, or a value
            continue
        return network, f"timm.create_model({', '.join([repr(name), *(f'{key}={options[key]!r}' for key in options)])})"
    raise ValueError(f"timm cannot make {name} with these arguments: {stem}")


def _whole(side: int) -> int:
    """The side rounded up to whole pixels of stride 32."""
    return -(-side // 32) * 32


def _same_maps(network: nn.Module, there: nn.Module, shapes: list[Shape]) -> Agreement:
    """Compares the deepest maps, channels in the place of classes."""

    class Deepest(nn.Module):
        """The backbone's stage4 in the place of a network's prediction."""

        def forward(self, images: Tensor) -> "Deepest":
            self.map = network.backbone(network.normalize(images), {"stage4"})["stage4"]
            return self

        def resized(self, size: tuple[int, int]) -> Tensor:
            return self.map

    def deepest(images: Tensor) -> Tensor:
        return there.forward_intermediates(network.normalize(images), indices=1, norm=False, intermediates_only=True)[
            -1
        ]

    return compare(Deepest(), deepest, shapes)


def write_huggingface(delivered: Delivered, folder: Path, size: tuple[int, int]) -> Written:
    """A folder of transformers: config.json, model.safetensors, preprocessor_config.json; compared with what it loads.

    Raises:
        ValueError: transformers has no such network, or one that computes something else.
    """
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
    from transformers.utils import logging

    logging.disable_progress_bar()
    network = delivered.network
    processor = _image_processor(network)
    if delivered.config["model"] == "huggingface":
        network.network.save_pretrained(folder)
        processor.save_pretrained(folder)
        there = parts.build("models", "huggingface", {"name": str(folder)}, network.num_classes).eval()
        there.normalize = network.normalize
        agreement = compare(network, Scores(there), shapes_for(network, size))
        return Written(Scores(network), agreement, f"transformers' {type(network.network).__name__} loads it")
    state = write(network.state_dict(), "huggingface")
    _segformer_config(state, delivered.config).save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(folder)
    there, report = AutoModelForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
    wrong = [key for keys in report.values() for key in keys]
    if wrong:
        raise ValueError(f"transformers' SegFormer does not fit these weights: {shown([str(key) for key in wrong])}")
    processor = AutoImageProcessor.from_pretrained(folder)

    def scores(images: Tensor) -> Tensor:
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        logits = there(pixel_values=pixels).logits
        return nn.functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)

    try:
        agreement = compare(network, scores, shapes_for(network, size))
    except ValueError as error:
        wrong = f"{error}; it has norm_eps: 1e-05 and align_corners: false"
        raise ValueError(f"transformers' SegFormer is another network: {wrong}") from None
    return Written(Scores(network), agreement, "AutoModelForSemanticSegmentation and AutoImageProcessor load it")


def _segformer_config(state: dict[str, Tensor], config: dict):
    """The configuration of transformers' SegFormer around these entries, its sizes read off them."""
    from transformers import SegformerConfig

    depths, widths, ratios = [], [], []
    for stage in range(4):
        prefix = f"segformer.encoder.block.{stage}"
        depths.append(sum(key.startswith(prefix) and key.endswith("layer_norm_1.weight") for key in state))
        widths.append(state[f"segformer.encoder.patch_embeddings.{stage}.proj.weight"].shape[0])
        reduction = state.get(f"{prefix}.0.attention.self.sr.weight")
        ratios.append(1 if reduction is None else reduction.shape[-1])
    names = config.get("class_names") or [str(index) for index in range(config["num_classes"])]
    return SegformerConfig(
        architectures=["SegformerForSemanticSegmentation"],
        depths=depths,
        hidden_sizes=widths,
        sr_ratios=ratios,
        num_attention_heads=[1, 2, 5, 8],  # in all sizes of the Mix Transformer
        decoder_hidden_size=state["decode_head.linear_fuse.weight"].shape[0],
        semantic_loss_ignore_index=config.get("ignore_index", 255),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )


def _image_processor(network: nn.Module):
    """What turns an image into the network's input there: its normalisation, at the image's own size.

    Raises:
        ValueError: the network reads BGR, which no processor there makes.
    """
    from transformers import SegformerImageProcessor

    normalize = network.normalize
    if normalize.order != "rgb":
        raise ValueError("transformers gives images in RGB order, this network was trained on BGR (normalize: cirkd)")
    mean, std = ((values.flatten() / 255).tolist() for values in (normalize.mean, normalize.std))
    return SegformerImageProcessor(do_resize=False, do_rescale=True, do_normalize=True, image_mean=mean, image_std=std)


def shapes_for(network: nn.Module, size: tuple[int, int]) -> list[Shape]:
    """The size and, where the network takes it, another one."""
    return [(1, *size), *((2, *other) for other in other_sizes(size)[:1] if takes(network, other))]
