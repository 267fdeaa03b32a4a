"""Networks of transformers from folders: weights, classes and normalisation they come with, and what is refused."""

import json
import logging
import os

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import _CACHED_NO_EXIST
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoConfig,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
)

from segkd.models._hub import read_config, read_normalize
from segkd.models._prediction import Normalize
from segkd.models.huggingface import HuggingFace

K = 5
SEGFORMER = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4],
                 decoder_hidden_size=16)  # fmt: skip


def saved(tmp_path, half=False, **settings):
    """A published ADE20K-like SegFormer with a processor of its own."""
    torch.manual_seed(0)
    labels = {0: "wall", 1: "building, edifice", 2: "sky"}
    config = SegformerConfig(**SEGFORMER, id2label=labels, label2id={v: k for k, v in labels.items()})
    published = SegformerForSemanticSegmentation(config)
    (published.half() if half else published).save_pretrained(tmp_path / "published")
    processor = {"do_normalize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]} | settings
    (tmp_path / "published/preprocessor_config.json").write_text(json.dumps(processor))
    return str(tmp_path / "published"), published


def test_a_published_network_keeps_its_own_classes(tmp_path, images, capfd):
    folder, published = saved(tmp_path)
    net = HuggingFace(K, name=folder)
    assert "Loading weights" not in capfd.readouterr().err  # a bar of transformers that would stand in every log
    assert net.num_classes == 3 and net.class_names == ["wall", "building, edifice", "sky"] and net.training
    torch.testing.assert_close(net.normalize.mean.flatten(), torch.tensor([127.5, 102.0, 76.5]))
    torch.testing.assert_close(net.normalize.std.flatten(), torch.tensor([51.0, 51.0, 25.5]))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.5, 0.4, 0.3], [0.2, 0.2, 0.1]))
    with torch.no_grad():
        ours, theirs = net.eval()(images()), published.eval()((images() / 255 - mean) / std)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)


def test_a_student_gets_the_data_sets_classes(tmp_path, caplog):
    folder, published = saved(tmp_path)
    with caplog.at_level(logging.WARNING):
        net = HuggingFace(K, name=folder, labels="dataset")
    assert "no weights that fit 2 parameters, which start at random: decode_head.classifier" in caplog.text
    assert net.num_classes == K and net.class_names is None
    assert torch.equal(net.network.decode_head.batch_norm.weight, published.decode_head.batch_norm.weight)
    same = HuggingFace(3, name=folder, labels="dataset")  # nothing to rebuild
    assert torch.equal(same.network.decode_head.classifier.weight, published.decode_head.classifier.weight)
    bare = HuggingFace(K, name=folder, pretrained=False)
    assert bare.num_classes == K and not torch.equal(
        bare.network.decode_head.linear_fuse.weight, published.decode_head.linear_fuse.weight
    )


def test_the_data_sets_names_go_wherever_the_network_goes(tmp_path):
    folder, _ = saved(tmp_path)
    for count in (3, K):  # as many classes as it was published with, and others
        names = [f"ours {index}" for index in range(count)]
        net = HuggingFace(count, name=folder, labels="dataset")
        net.name_classes(names)
        net.network.save_pretrained(tmp_path / f"{count}")
        written = json.loads((tmp_path / f"{count}/config.json").read_text())
        config = net.arguments_without_files({})["config"]
        assert [*written["id2label"].values()] == [*config["id2label"].values()] == names
        assert written["label2id"] == config["label2id"] == {name: index for index, name in enumerate(names)}


def test_classes_of_its_own_have_names_without_gaps(tmp_path):
    folder, _ = saved(tmp_path)
    config = json.loads((tmp_path / "published/config.json").read_text())
    config["id2label"] = {"0": "wall", "1": "sky", "4": "tree"}
    (tmp_path / "published/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="names the ids 0, 1, 4, and 2, 3 not; its 3 classes must be named 0 to 2 wit"):
        HuggingFace(K, name=folder)
    assert HuggingFace(3, name=folder, labels="dataset").num_classes == 3


def test_published_weights_that_no_network_can_have(tmp_path):
    folder, published = saved(tmp_path)
    with torch.no_grad():
        published.decode_head.classifier.bias[1] = torch.nan
        published.decode_head.batch_norm.running_var[0] = -1
    published.save_pretrained(folder)
    told = r"NaN or infinite: decode_head.classifier.bias; 1 of negative variances: decode_head.batch_norm.running_var"
    with pytest.raises(ValueError, match=told):
        HuggingFace(K, name=folder)


def test_damaged_files_of_a_folder_are_sentences(tmp_path):
    folder, _ = saved(tmp_path)
    weights, config = (tmp_path / "published" / name for name in ("model.safetensors", "config.json"))
    save_file({"x": torch.ones(1)}, weights)
    with pytest.raises(ValueError, match="none of its weights is one of SegformerForSemanticSegmentation"):
        HuggingFace(K, name=folder, labels="dataset")
    weights.write_bytes(b"")
    with pytest.raises(ValueError, match="its weights cannot be read .*header too small"):
        HuggingFace(K, name=folder)
    weights.rename(tmp_path / "published/pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ValueError, match="its weights cannot be read .* a .bin that could start code"):
        HuggingFace(K, name=folder)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"depths": "x"}))
    with pytest.raises(ValueError, match="transformers refuses its config.json: .*depths"):
        HuggingFace(K, name=folder)


def test_a_pipe_in_a_folder_is_not_read(tmp_path):
    folder, _ = saved(tmp_path)
    (tmp_path / "published/preprocessor_config.json").unlink()
    os.mkfifo(tmp_path / "published/preprocessor_config.json")
    with pytest.raises(ValueError, match="preprocessor_config.json is a pipe, a socket or a device"):
        HuggingFace(K, name=folder)


def test_a_classifier_of_images_gives_the_encoder(tmp_path):
    torch.manual_seed(0)
    backbone = SegformerForImageClassification(SegformerConfig(**SEGFORMER, num_labels=7))
    backbone.save_pretrained(tmp_path)
    net = HuggingFace(K, name=str(tmp_path))
    assert net.num_classes == K and net.normalize.mean.flatten()[0] == Normalize.named("imagenet").mean.flatten()[0]
    assert all(torch.equal(value, net.network.segformer.state_dict()[key])
               for key, value in backbone.segformer.state_dict().items())  # fmt: skip
    with pytest.raises(ValueError, match="has no weights for decode_head.* set labels: dataset"):
        HuggingFace(K, name=str(tmp_path), labels="own")


@pytest.mark.parametrize(("settings", "mean", "std", "order"), [
    ({"rescale_factor": 1 / 127.5}, 63.75, 25.5, "rgb"),
    ({"do_rescale": False}, 0.5, 0.2, "rgb"),
    ({"do_normalize": False}, 0, 255, "rgb"),
    ({"image_mean": None, "image_std": None, "do_flip_channel_order": True}, 0, 255, "bgr"),
    ({"image_mean": 0.5, "image_std": 0.5}, 127.5, 127.5, "rgb"),
])  # fmt: skip
def test_what_the_processor_does_becomes_the_normalisation(tmp_path, settings, mean, std, order):
    normalize = HuggingFace(K, name=saved(tmp_path, **settings)[0]).normalize
    assert normalize.mean.flatten()[0].item() == pytest.approx(mean)
    assert normalize.std.flatten()[0].item() == pytest.approx(std) and normalize.order == order


def test_half_precision_files_give_float32(tmp_path):
    net = HuggingFace(K, name=saved(tmp_path, half=True)[0])
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}


@pytest.mark.parametrize(("settings", "error", "text"), [
    ({}, ValueError, "give a name .* or a config, one of the two; .* `source: hf`"),
    ({"name": "x", "config": {}}, ValueError, "one of the two"),
    ({"config": {"model_type": "segformer"}, "pretrained": True}, ValueError, "a config alone has no weights"),
    ({"config": {"hidden_size": 3}}, ValueError, "config needs a model_type"),
    ({"config": {"model_type": "segfromer"}}, ValueError, "transformers refuses it"),
    ({"config": {"model_type": "bert"}}, ValueError, "has no segmentation network of type bert"),
    ({"config": {"model_type": "beit"}}, ValueError, "BeitForSemanticSegmentation cannot be built from it"),
])  # fmt: skip
def test_impossible_arguments(settings, error, text):
    with pytest.raises(error, match=text):
        HuggingFace(K, **settings)


def test_nothing_there(tmp_path):
    for name in (str(tmp_path / "missing"), str(tmp_path)):
        with pytest.raises(FileNotFoundError, match="neither a local folder .* log in"):
            HuggingFace(K, name=name)
    AutoConfig.for_model("segformer", **SEGFORMER).save_pretrained(tmp_path)  # no weights beside it
    with pytest.raises(FileNotFoundError, match="neither a local folder"):
        HuggingFace(K, name=str(tmp_path))
    HuggingFace(K, name=str(tmp_path), pretrained=False)


def test_code_beside_weights_is_not_run(tmp_path):
    config = {"model_type": "strange", "auto_map": {"AutoConfig": "strange.StrangeConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "strange.py").write_text("raise SystemExit('code was run')")
    with pytest.raises(ValueError, match="code that comes with weights is never run"):
        HuggingFace(K, name=str(tmp_path))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("kind, inner", [("segformer", None), ("upernet", "convnext"), ("mask2former", "swin")])
def test_code_on_the_hub_that_a_configuration_names_is_not_run(tmp_path, key, kind, inner):
    settings = {"model_type": kind, key: "stranger/kernels"}
    if inner is not None:
        settings = {"model_type": kind, "backbone_config": {"model_type": inner, key: "stranger/kernels"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    for given in ((str(tmp_path), None, None), ("", None, settings)):
        try:
            found = read_config(*given)
        except ValueError as error:
            assert "'stranger/kernels' is code on the hub, which is never run" in str(error)
        else:  # transformers has dropped the word by itself
            implementations = [found._attn_implementation, found._experts_implementation]
            implementations += [found.backbone_config._attn_implementation] if inner else []
            assert "stranger/kernels" not in implementations


@pytest.mark.parametrize("kind", [
    "SegformerImageProcessor", "BeitImageProcessor", "SiglipImageProcessor", "CLIPImageProcessor", "EfficientNetImageProcessor",
    "MobileViTImageProcessor", "GLPNImageProcessor", "Swin2SRImageProcessor", "DPTImageProcessor",
])  # fmt: skip
def test_constants_are_those_that_the_image_processor_computes_with(tmp_path, kind):
    """Some never normalise, which is not written; EfficientNet's divides by its deviations twice."""
    processor = getattr(transformers, kind)()
    processor.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = {"do_resize": False, "do_center_crop": False, "do_pad": False}
    wanted = processor(Image.fromarray(pixels), return_tensors="pt", **options)["pixel_values"]
    found = read_normalize(str(tmp_path), None)(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    torch.testing.assert_close(found, wanted[..., :64, :64].float(), rtol=1e-3, atol=1e-4)


def test_constants_that_could_not_be_loaded_are_told_and_those_that_are_nowhere_are_not(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "published").mkdir()
    with caplog.at_level(logging.WARNING):
        assert read_normalize(str(tmp_path / "published"), None).constants == "imagenet"
        assert not caplog.records
        assert read_normalize("somebody/siglip", None).constants == "imagenet"
    assert "what its images are normalised with could not be read" in caplog.text and "say normalize:" in caplog.text
    caplog.clear()
    monkeypatch.setattr("segkd.models._hub.try_to_load_from_cache", lambda *names, **more: _CACHED_NO_EXIST)
    read_normalize("somebody/siglip", None)
    assert not caplog.records
