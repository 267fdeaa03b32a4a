"""A delivered network as files that other codes load: each is read back and must give the same scores."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segkd.models._checkpoints import describe, read, write
from segkd.models._resnet import STEMS
from segkd.models._timm import ANY_SIZE
from segkd.models._weights import fill, read_weights, shown
from segkd.runner.building.delivered import Delivered, write_folder
from segkd.runner.exporting.agreement import Export, PlainScores, Scorer, compare, shapes_for
from segkd.runner.recipe import parts
from segkd.runner.run_folder.checkpoint import write_tensors
from segkd.runner.run_folder.pretrained import from_pretrained

# arguments that are settings in other codes, not weights: the user sets them there; all else must be as ours
SETTINGS = ("output_stride", "align_corners")
IN_EXPORTS = ("model", "args", "num_classes", "normalize", "class_names")  # what a file tells of itself to segkd


def write_segkd(delivered: Delivered, folder: Path, size: tuple[int, int]) -> Export:
    """The folder `from_pretrained` reads."""
    write_folder(delivered, folder)
    return _export(delivered.network, PlainScores(from_pretrained(folder)), size, "from_pretrained loads it")


def write_layout(
    delivered: Delivered, file: Path, size: tuple[int, int], layout: str, *, keys_only: bool = False
) -> Export:
    """A torch file {meta, state_dict} with the keys of another code, compared with the network that code makes of it.

    mmsegmentation finds class names and colours in `meta`, in the places of its versions 0.x and 1.x.

    Args:
        keys_only: compare with our network after reading the file back instead, for those who build the same there.

    Raises:
        ValueError: that code has no such network, or one that computes something else.
    """
    network, config, args = delivered.network, delivered.config, delivered.config["args"]
    classes, palette = config.get("class_names"), config.get("palette")
    meta = {
        "CLASSES": classes,
        "PALETTE": palette,
        "dataset_meta": {"classes": classes, "palette": palette},
        "segkd": {key: config[key] for key in IN_EXPORTS if key in config},
    }
    torch.save({"meta": meta, "state_dict": write(network.state_dict(), layout)}, file)
    state = read_weights(file)
    found = describe(state, layout)
    settings = {key: args[key] for key in SETTINGS if key in found.args and args.get(key) is not None}
    set_there = [*(f"{key} {value}" for key, value in settings.items()), normalised(network)]
    remark = f"to be set there: {', '.join(set_there)}"
    model, their_args = found.model, found.args | settings
    differs = ", ".join(
        f"{key} ({args[key]} here, {value} there)"
        for key, value in their_args.items()
        if args.get(key) not in (None, value)
    )
    if keys_only:
        model, their_args = config["model"], args
        remark += f"; its keys were compared, not what that code computes; differs in {differs or 'nothing'}"
    theirs = parts.build("models", model, their_args, network.num_classes).eval()
    theirs.normalize = network.normalize
    fill(theirs, read(state, layout), str(file), level=logging.DEBUG)  # its own words tell the outcome
    which = f"which differs in {differs or 'what no argument tells'}; --keys-only writes it all the same"
    with _refusing(f"{layout} makes another network of this file, {which}"):
        return _export(network, PlainScores(theirs), size, remark)


def write_torchvision(delivered: Delivered, file: Path, size: tuple[int, int]) -> Export:
    """The bare state dict of torchvision's DeepLabV3 on a ResNet or of its LR-ASPP, compared with that network.

    Raises:
        ValueError: torchvision has no such network, or one that computes something else.
    """
    import torchvision  # half a second, for those who ask for it

    network = delivered.network
    state = write(network.state_dict(), "torchvision")
    torch.save(state, file)
    if "classifier.cbr.0.weight" in state:
        name = "lraspp_mobilenet_v3_large"
    else:
        name = "deeplabv3_resnet101" if "backbone.layer3.22.conv1.weight" in state else "deeplabv3_resnet50"
    aux = "aux_classifier.0.weight" in state
    theirs = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=network.num_classes, aux_loss=aux
    ).eval()
    with _refusing(f"torchvision's {name} is another network"):
        theirs.load_state_dict(state)
        remark = f"{name}, {'with' if aux else 'without'} aux_loss; outside of it, {normalised(network)}"
        return _export(network, lambda images: theirs(network.normalize(images))["out"], size, remark)


def write_timm(delivered: Delivered, file: Path, size: tuple[int, int]) -> Export:
    """The backbone alone as .safetensors with timm's keys, compared with what timm computes from it: stage4.

    Raises:
        ValueError: the backbone is none of timm's, or computes something else there.
    """
    network, args = delivered.network, delivered.config["args"]
    backbone = str(args.get("backbone", ""))
    name = backbone.removeprefix("timm/")
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(
            f"timm has no network {name!r}" if name else f"{delivered.config['model']} has no timm backbone"
        )
    prefix = "backbone." if name == backbone else "backbone.net."
    state = {key.removeprefix(prefix): value for key, value in network.state_dict().items() if key.startswith(prefix)}
    write_tensors(file, state)
    theirs, call = _timm_network(name, args)

    def our_stage4(images: Tensor) -> Tensor:
        return network.backbone(network.normalize(images), {"stage4"})["stage4"]

    def their_stage4(images: Tensor) -> Tensor:
        pixels = network.normalize(images)
        return theirs.forward_intermediates(pixels, indices=1, norm=False, intermediates_only=True)[-1]

    with _refusing(f"{call} is another network than this backbone"):
        missing, unknown = theirs.load_state_dict(load_file(file), strict=False)
        if unknown:
            raise ValueError(f"it has no {shown(unknown)}")
        # sides rounded up to whole pixels of stride 32, which every encoder takes
        shapes = [(b, -(-height // 32) * 32, -(-width // 32) * 32) for b, height, width in shapes_for(network, size)]
        agreement = compare(our_stage4, their_stage4, shapes)
    without = f", strict=False) (without {shown(missing)}" if missing else ""
    remark = f"the backbone alone: {call}.load_state_dict(load_file(...){without}), {normalised(network)}"
    return Export(PlainScores(network), agreement, remark)


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


def write_huggingface(delivered: Delivered, folder: Path, size: tuple[int, int]) -> Export:
    """A folder of transformers: config.json, model.safetensors, preprocessor_config.json; compared with what it loads.

    Raises:
        ValueError: transformers has no such network, or one that computes something else.
    """
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation
    from transformers.utils import logging

    logging.disable_progress_bar()
    network = delivered.network
    _image_processor(network).save_pretrained(folder)
    if delivered.config["model"] == "huggingface":
        network.network.save_pretrained(folder)
        theirs = parts.build("models", "huggingface", {"name": str(folder)}, network.num_classes).eval()
        theirs.normalize = network.normalize
        return _export(network, PlainScores(theirs), size, f"transformers' {type(network.network).__name__} loads it")
    state = write(network.state_dict(), "huggingface")
    _segformer_config(state, delivered.config).save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    theirs, report = AutoModelForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
    processor = AutoImageProcessor.from_pretrained(folder)

    def scores(images: Tensor) -> Tensor:
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        logits = theirs(pixel_values=pixels).logits
        return nn.functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)

    with _refusing("transformers' SegFormer, with norm_eps: 1e-05 and align_corners: false, is another network"):
        wrong = [str(key) for keys in report.values() for key in keys]
        if wrong:
            raise ValueError(f"these weights do not fit: {shown(wrong)}")
        return _export(network, scores, size, "AutoModelForSemanticSegmentation and AutoImageProcessor load it")


def _segformer_config(state: dict[str, Tensor], config: dict):
    """The configuration of transformers' SegFormer around these entries, its sizes read off them."""
    from transformers import SegformerConfig

    norms = [key.split(".")[3] for key in state if key.endswith("layer_norm_1.weight")]  # the stage of each block
    widths = [state[f"segformer.encoder.patch_embeddings.{stage}.proj.weight"].shape[0] for stage in range(4)]
    names = config.get("class_names") or [str(index) for index in range(config["num_classes"])]
    return SegformerConfig(
        architectures=["SegformerForSemanticSegmentation"],
        depths=[norms.count(str(stage)) for stage in range(4)],
        hidden_sizes=widths,
        sr_ratios=[8, 4, 2, 1],  # in all sizes of the Mix Transformer, as the heads
        num_attention_heads=[1, 2, 5, 8],
        decoder_hidden_size=state["decode_head.linear_fuse.weight"].shape[0],
        semantic_loss_ignore_index=config.get("ignore_index", 255),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )


def _image_processor(network: nn.Module):
    """What turns an image into the network's input: its normalisation, at the image's own size.

    Raises:
        ValueError: the network reads BGR, which no processor of transformers makes.
    """
    from transformers import SegformerImageProcessor

    normalize = network.normalize
    if normalize.order != "rgb":
        raise ValueError("transformers gives images in RGB order, this network was trained on BGR (normalize: cirkd)")
    mean, std = ((values.flatten() / 255).tolist() for values in (normalize.mean, normalize.std))
    return SegformerImageProcessor(do_resize=False, do_rescale=True, do_normalize=True, image_mean=mean, image_std=std)


def normalised(network: nn.Module) -> str:
    """What is to be done to images before they are given to a network that does not do it itself."""
    return f"images normalised with {network.normalize.words}"


def _export(network: nn.Module, theirs: Scorer, size: tuple[int, int], remark: str) -> Export:
    """The export of weights alone, which take ours as long as what `theirs` computes with them."""
    ours = PlainScores(network)
    return Export(ours, compare(ours, theirs, shapes_for(network, size)), remark)


@contextmanager
def _refusing(sentence: str) -> Iterator[None]:
    """A ValueError that begins with the sentence, where weights do not fit or scores differ inside."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{sentence}: {' '.join(str(error).split())[:300]}") from None
