"""Delivered networks without their recipes: from folders and the Hub, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from segkd.models._int8 import simulate_int8
from segkd.runner.building.delivered import Delivered, find, write_folder
from segkd.runner.exporting.agreement import PlainScores, compare
from segkd.runner.recipe import parts
from segkd.runner.run_folder.pretrained import description, from_pretrained

CLASSES = ["sky", "road", "pole"]
PSPNET = {"backbone": "mobilenetv2_035", "output_stride": 16, "width": 8}
SIZES = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}


def network_of(model, args):
    torch.manual_seed(0)
    return parts.build("models", model, args, len(CLASSES)).eval()


@pytest.fixture
def run(deliver, tmp_path):
    """A run folder with what from_pretrained reads."""
    folder = deliver(tmp_path / "run/student", CLASSES).parent
    (folder / "recipe.yaml").write_text("name: run")
    return folder


def test_from_pretrained_gives_the_delivered_network_back(run):
    images = torch.randint(0, 256, (2, 3, 33, 50), dtype=torch.uint8)
    expected = PlainScores(network_of("pspnet", PSPNET))
    state = torch.random.get_rng_state()
    for path in (run, run / "student", str(run)):
        network = from_pretrained(path)
        assert not network.training and network.class_names == CLASSES
        with torch.no_grad():
            assert torch.equal(PlainScores(network)(images), expected(images))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_from_pretrained_needs_no_weights_to_start_from(run):
    file = run / "student" / "config.json"
    config = json.loads(file.read_text())
    config["args"].update(pretrained=True, backbone_weights=None)
    file.write_text(json.dumps(config))
    from_pretrained(run)


@pytest.mark.parametrize("change, words", [
    ({"model": "pspnett"}, "no model 'pspnett', did you mean 'pspnet'?"),
    ({"model": "_weights"}, "no model '_weights'"),
    ({"args": {"widht": 3}}, "args.widht"), ({"num_classes": "3"}, "num_classes missing or of another type"),
])  # fmt: skip
def test_a_foreign_config_is_refused(run, change, words):
    file = run / "student" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match="config.json") as error:
        from_pretrained(run)
    assert words in str(error.value)


def test_what_is_not_there_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for path, words in ((tmp_path / "none", "there is no folder"), ("user/none", "could not be had from the Hub")):
        with pytest.raises(FileNotFoundError, match=words):
            from_pretrained(path)
    (run / "student" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="this one has not"):
        find(str(run))


def test_a_hub_id_is_downloaded(run, monkeypatch):
    asked = {}

    def download(name, **settings):
        asked.update(settings, name=name)
        return run / "student"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert from_pretrained("user/tiny", revision="v1").num_classes == 3
    assert asked == {"name": "user/tiny", "revision": "v1", "allow_patterns": ["config.json", "model.safetensors"]}


@pytest.mark.parametrize("source, model, args", [
    ("timm", "mobilenetv2_035", {"head": "pspnet", "output_stride": 16, "width": 8}),
    ("hf", "somewhere/else", {"config": {"model_type": "segformer", **SIZES}}),
])  # fmt: skip
def test_networks_from_elsewhere_need_nothing_from_there(tmp_path, source, model, args):
    file, given = parts.network_part(source, model, args)
    network = network_of(file, args if source == "hf" else given)  # not read from the folder its recipe names
    write_folder(Delivered(network, description(network, source, model, args), None), tmp_path)
    compare(PlainScores(network), PlainScores(from_pretrained(tmp_path)), [(1, 32, 64)])


def test_what_goes_on_from_an_int8_network_is_one(tmp_path):
    """Its ranges are among its weights, whatever its recipe says."""
    network = network_of("pspnet", PSPNET)
    assert "int8" not in description(network, "segkd", "pspnet", PSPNET)
    simulate_int8(network)
    config = description(network, "segkd", "pspnet", PSPNET)
    assert config["int8"] is True
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "model.safetensors")
    assert from_pretrained(folder).state_dict().keys() == network.state_dict().keys()
