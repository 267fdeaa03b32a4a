"""Exports of a delivered network: what others load gives the same scores, and what cannot be right is refused."""

import json
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from segkd.models._prediction import Normalize
from segkd.models._weights import read_weights
from segkd.runner import api, export
from segkd.runner.building.delivered import Delivered, find, write_folder
from segkd.runner.exporting import hub
from segkd.runner.exporting.agreement import PlainScores, compare
from segkd.runner.recipe import parts
from segkd.runner.recipe.read import read
from segkd.runner.run_folder.pretrained import description, from_pretrained
from segkd.runner.run_folder.weights import find_weights

CLASSES = ["sky", "road", "pole"]
MODELS = {
    "pspnet": {"backbone": "mobilenetv2_035", "output_stride": 16, "width": 8},
    "deeplabv3": {"backbone": "resnet18", "stem": "v1c", "dilation_rule": "mmseg", "width": 8},
    "segformer": {"backbone": "mit_b0", "width": 8, "norm_eps": 1e-5},
    "lraspp": {"norm_eps": 1e-3},
    "huggingface": {
        "config": {
            "model_type": "segformer", "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 1, 1], "decoder_hidden_size": 8,
        }
    },
}  # fmt: skip
CHANGES = [
    "data.root=/home/somebody/data", "data.crop_size=[40, 56]",
    "networks.teacher={model: pspnet, args: {backbone: mobilenetv2_050, output_stride: 16, width: 8}, train: false, weights: random}",
    "networks.peer={model: pspnet, args: {backbone: mobilenetv2_035, output_stride: 16, width: 4}}",
    "losses=[{loss: cross_entropy}, {loss: kl, from: teacher}, {loss: kl, from: peer, label: peer_kl}, "
    "{loss: cross_entropy, of: peer, label: peer}]",
]  # fmt: skip


def network_of(model, args, seed=0):
    """A network with spread scores and statistics unlike those it begins with."""
    torch.manual_seed(seed)
    network = parts.build("models", model, args, len(CLASSES))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def delivered(model, args=None):
    args = parts.completed_arguments("models", model, MODELS[model] | (args or {}))
    network = network_of(model, args)
    about = {"class_names": CLASSES, "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "ignore_index": 255}
    return Delivered(network, description(network, "segkd", model, args) | about, None)


@pytest.fixture
def run(folder):
    """A finished run folder, as the loop leaves it, less its pictures."""
    recipe, folder = read(folder / "tiny.yaml", CHANGES), folder / "runs/tiny"
    student = delivered("pspnet")
    student.config.update(recipe="tiny", miou=0.4321, iteration=4)
    (folder / "student").mkdir(parents=True)
    write_folder(student, folder / "student")
    (folder / "recipe.yaml").write_text(recipe.dump())
    scores = {"miou": 0.4321, "pixel_accuracy": 0.8, "iou_per_class": [0.5, 0.3642, None]}
    rows = [{"iteration": 2, "miou": 0.1}, {"iteration": 4, **scores, "accuracy_per_class": [0.7, 0.6, None]}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "checkpoints/step-00000004/training_state").mkdir(parents=True)
    peer = network_of("pspnet", MODELS["pspnet"] | {"width": 4})
    graph = {f"networks.peer.{key}": value for key, value in peer.state_dict().items()}
    torch.save({"graph": graph, "averages": {}}, folder / "checkpoints/step-00000004/training_state/state.pt")
    return folder


def test_segkd_folder_with_its_card(run, run_here, capsys):
    run_here(export, run, "--to", "segkd")
    folder = run / "export" / "student-segkd"
    written = {file.name for file in folder.iterdir()}
    assert written == {"README.md", "config.json", "model.safetensors", "recipe.yaml"}
    compare(PlainScores(from_pretrained(run)), PlainScores(from_pretrained(folder)), [(1, 40, 56)])
    card, printed = (folder / "README.md").read_text(), capsys.readouterr().out
    for words in ("43.21 % mIoU on synthetic (`val`)", "| road | 36.42 | 60.00 |", "| pole | - | - |", "value: 43.21",
                  "distilled from `teacher`, a pspnet mobilenetv2_050", f'from_pretrained("{folder}")',
                  "root: data"):  # fmt: skip
        assert words in card
    assert "/home/somebody" not in card and "/home/somebody" not in (folder / "recipe.yaml").read_text()
    assert read(folder / "recipe.yaml").networks.keys() == read(run / "recipe.yaml").networks.keys()
    assert "for one 40x56 image" in printed and "GFLOP" in printed and "100.00 % of the pixels" in printed


def test_other_networks_of_the_run(run, run_here):
    told = json.loads((run / "student/config.json").read_text())
    (run / "student/config.json").write_text(json.dumps(told | {"resize": [32, 48]}))
    run_here(export, run, "--to", "segkd", "--network", "peer", "--output", run / "peer")
    config = json.loads((run / "peer/config.json").read_text())
    assert config["resize"] == [32, 48] and api.Run(run).network("peer").resize == [32, 48]
    assert config["args"]["width"] == 4 and config["class_names"] == CLASSES and "miou" not in config
    expected = network_of("pspnet", MODELS["pspnet"] | {"width": 4})
    compare(PlainScores(expected), PlainScores(from_pretrained(run / "peer")), [(1, 32, 32)])
    assert "mIoU" not in (run / "peer/README.md").read_text()
    for name, words in (("cnn", "the recipe has student, teacher, peer"), ("teacher", "never trained")):
        with pytest.raises(ValueError, match=words):
            find(str(run), name)
    with pytest.raises(ValueError, match="holds one network"):
        find(str(run / "peer"), "teacher")


def test_mmseg_checkpoint(tmp_path):
    source, file = delivered("deeplabv3"), tmp_path / "student.pth"
    written = export.write_layout(source, file, (32, 48), "mmseg")
    content = torch.load(file, weights_only=True)
    assert content["meta"]["CLASSES"] == content["meta"]["dataset_meta"]["classes"] == CLASSES
    assert "decode_head.conv_seg.weight" in content["state_dict"] and "backbone.stem.0.weight" in read_weights(file)
    assert written.remark == (
        "to be set there: output_stride 8, align_corners False, images normalised with imagenet: mean 123.675 116.28 "
        "103.53, std 58.395 57.12 57.375, rgb"
    )
    assert written.agreement.difference < 1e-6
    found = find_weights(file, owner="networks.teacher")
    assert (found.class_names, found.num_classes, found.normalize) == (CLASSES, len(CLASSES), "imagenet")
    with pytest.raises(ValueError, match="networks.teacher.normalize: .* was trained with imagenet"):
        found.check(model="deeplabv3", args={}, normalize="unit", owner="networks.teacher")


def test_a_code_that_computes_something_else_is_refused_but_for_its_keys(tmp_path):
    source, file = delivered("deeplabv3", {"dilation_rule": "timm"}), tmp_path / "student.pth"
    with pytest.raises(ValueError, match=r"differs in dilation_rule \(timm here, mmseg there\).*--keys-only"):
        export.write_layout(source, file, (32, 48), "mmseg")
    written = export.write_layout(source, file, (32, 48), "mmseg", keys_only=True)
    assert written.agreement.difference < 1e-6
    with pytest.raises(ValueError, match="aicsd"):
        export.write_layout(source, file, (32, 48), "aicsd")


def test_torchvision_has_lraspp(tmp_path):
    written = export.write_torchvision(delivered("lraspp"), tmp_path / "student.pth", (32, 48))
    assert written.remark.startswith("lraspp_mobilenet_v3_large, without") and written.agreement.difference < 1e-4
    with pytest.raises(ValueError, match="torchvision's lraspp_mobilenet_v3_large is another network"):
        export.write_torchvision(delivered("lraspp", {"norm_eps": 1e-5}), tmp_path / "student.pth", (32, 48))


def test_torchvision_refuses_other_networks(tmp_path):
    with pytest.raises(ValueError, match="torchvision"):
        export.write_torchvision(delivered("deeplabv3"), tmp_path / "student.pth", (32, 48))
    with pytest.raises(ValueError, match="torchvision's deeplabv3_resnet50 is another network: .*classifier.0"):
        source = delivered("deeplabv3", {"backbone": "resnet50", "stem": "plain", "projection": "1x1"})
        export.write_torchvision(source, tmp_path / "student.pth", (32, 48))


def test_timm_backbone(tmp_path):
    source, file = delivered("pspnet"), tmp_path / "student.safetensors"
    written = export.write_timm(source, file, (32, 64))
    assert "timm.create_model('mobilenetv2_035', num_classes=0, output_stride=16)" in written.remark
    assert written.agreement.difference < 1e-6 and "conv_stem.weight" in load_file(file)
    with pytest.raises(ValueError, match="is another network than this backbone"):
        export.write_timm(delivered("deeplabv3"), file, (32, 64))


@pytest.mark.parametrize("model", ["segformer", "huggingface"])
def test_hugging_face_folder(tmp_path, model):
    source = delivered(model)
    written = export.write_huggingface(source, tmp_path / "folder", (32, 64))
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["model_type"] == "segformer" and written.agreement.difference < 1e-4
    assert model == "huggingface" or config["id2label"] == dict(zip("012", CLASSES))
    source.network.normalize = Normalize.named("cirkd")
    with pytest.raises(ValueError, match="BGR"):
        export.write_huggingface(source, tmp_path / "other", (32, 64))


@pytest.mark.parametrize("words, message", [
    (["--to", "tflite"], "--to tflite: there are segkd, "),
    (["--to", "onnx", "--push-to-hub", "a/b"], "not of --to onnx"),
    (["--to", "segkd", "--fixed-size"], "--fixed-size is for"), (["--to", "hf", "--keys-only"], "--keys-only is for"),
    (["--to", "segkd", "--private"], "--private is for"), (["--to", "torch", "--input-size", "0", "9"], "from 1 to 32768"),
    (["--to", "torch", "--int8"], "--int8 is for --to onnx"), (["--to", "onnx", "--output", "x.bin"], "ends in .onnx"),
    (["--to", "onnx", "--int8", "--val-images", "0"], "are at least 1"), (["--to", "onnx", "--symmetric"], "--symmetric is for"),
    (["--to", "torch", "--max-loss", "0.0"], "--max-loss is for --int8"),
    (["--to", "hf"], "SegFormer"), (["--to", "segkd", "--output", "."], "is there already"),
    (["--to", "mmseg", "--output", "there.pth"], "there.pth is there already; .* --overwrite"),
])  # fmt: skip
def test_wrong_options(run, run_here, monkeypatch, words, message):
    monkeypatch.chdir(run)
    (run / "there.pth").write_text("mine")
    with pytest.raises(ValueError, match=message):
        run_here(export, run, *words)
    assert (run / "there.pth").read_text() == "mine"
    assert not list(run.rglob("*partial*"))


def test_pushing_to_the_hub(run, run_here, capsys, monkeypatch):
    api, folder = Mock(), run / "export/student-segkd"
    api.create_repo.return_value = "https://hub/user/tiny"
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: api)
    run_here(export, run, "--to", "segkd")
    assert api.mock_calls == []
    run_here(export, run, "--to", "segkd", "--push-to-hub", "user/tiny", "--private")
    api.create_repo.assert_called_once_with("user/tiny", private=True, exist_ok=True)
    uploaded = api.upload_folder.call_args.kwargs
    assert (uploaded["repo_id"], uploaded["folder_path"]) == ("user/tiny", folder)
    assert 'from_pretrained("user/tiny")' in (folder / "README.md").read_text()
    assert "uploaded to https://hub/user/tiny" in capsys.readouterr().out


def test_pushing_while_offline_is_one_sentence(run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nothing was uploaded .*offline"):
        hub.push(run / "student", "user/tiny")


def test_an_unfinished_run_is_one_sentence(server, folder, assert_refused):
    (folder / "runs/tiny").mkdir(parents=True)
    (folder / "runs/tiny/recipe.yaml").write_text("name: tiny")
    for source, words in (("runs/tiny", "(a run writes student/ when it ends"), ("runs/other", "there is no folder")):
        assert_refused(server(folder, "export", source, "--to", "onnx"), words)
