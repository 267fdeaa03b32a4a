"""Files of UniMatch: what is particular in them, and what has no place there. See also test_codes.py."""

import pytest
import torch

from segkd.models._layouts import unimatch
from segkd.models.deeplabv3plus import DeepLabV3Plus


def network(backbone="resnet50", **args):
    torch.manual_seed(0)
    return DeepLabV3Plus(19, **{"arrangement": "unimatch", "backbone": backbone, "stem": "v1s"} | args)


def test_the_decoder_reads_the_48_channels_first():
    ours = network().state_dict()
    assert torch.equal(unimatch.write(ours)["fuse.0.weight"][:, :48], ours["decoder.0.conv.weight"][:, 256:])


def test_names_of_xception():
    with torch.device("meta"):
        theirs = unimatch.write(network("xception65", stem="plain").state_dict())
    names = {key for key in theirs if key.startswith("backbone.") and key.endswith("weight")}
    assert "backbone.block20.skipbn.weight" in names and "backbone.block1.sepconv3.pointwise.weight" in names
    assert not any("blocks" in name for name in names)


def test_imagenet_file_of_xception():
    with torch.device("meta"):
        net = network("xception65", stem="plain")
        written = unimatch.write(net.state_dict())
        theirs = {key.removeprefix("backbone."): value for key, value in written.items() if key.startswith("backbone.")}
    more = {"itr": torch.zeros(1), "fc.weight": torch.zeros(1000, 2048)}
    backbone = unimatch.backbone(theirs | more)
    own = net.backbone.state_dict()
    assert backbone.keys() == {key for key in own if not key.endswith("num_batches_tracked")}
    assert all(backbone[key].shape == own[key].shape for key in backbone)
    assert unimatch.backbone({"conv1.weight": torch.zeros(1)}) is None


@pytest.mark.parametrize(
    "args", [{"aux": True}, {"separable": True}, {"backbone": "resnet18"}, {"stem": "v1c"}, {"stem": "plain"}]
)
def test_other_networks_have_no_such_file(args):
    with torch.device("meta"):
        net = network(**args)
    with pytest.raises(ValueError, match=r"the layout unimatch \(DeepLabV3.* has (no name|a \S+ of another shape)"):
        unimatch.write(net.state_dict())


def test_unknown_backbone():
    with pytest.raises(ValueError, match="ResNet or Xception-65 backbone only"):
        unimatch.describe({"classifier.weight": torch.zeros(2, 256, 1, 1)})
