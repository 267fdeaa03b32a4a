"""Recomputed blocks: the same scores, gradients and statistics as without, for less memory."""

import copy

import pytest
import torch
from torch import nn

from segkd.models._checkpointing import blocks_of, checkpoint_blocks
from segkd.models._int8 import simulate_int8
from segkd.models.deeplabv3 import DeepLabV3
from segkd.models.sam import SAM
from segkd.models.segformer import SegFormer
from segkd.models.trikd_deit import TriKDDeiT
from segkd.models.trikd_resnet import TriKDResNet
from segkd.models.trikd_tinyvit import TriKDTinyViT

WIDTHS = (4, 6, 8, 10)  # of the decoders, in which nothing is recomputed
NETWORKS = {
    "deeplabv3": lambda: DeepLabV3(5, backbone="mobilenetv2_035", output_stride=16, dropout=0.1),
    "segformer": lambda: SegFormer(5, backbone="mit_b0"),
    "sam": lambda: SAM(
        5, embed_dim=48, depth=4, num_heads=2, global_blocks=(1, 3), taps=(0, 1, 2, 3), window_size=3, out_channels=16,
        neck_width=16, head_width=16, image_size=64,
    ),
    "trikd_resnet": lambda: TriKDResNet(5, backbone="resnet50", widths=WIDTHS),
    "trikd_tinyvit": lambda: TriKDTinyViT(5, variant="5m", widths=WIDTHS, drop_path=0.1),
    "trikd_deit": lambda: TriKDDeiT(5, variant="tiny", widths=WIDTHS, neck_width=12, image_size=(64, 64)),
}  # fmt: skip


def kept_bytes(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The scores, and how many bytes the forward keeps for the backward."""
    kept: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(1)  # dropout
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        scores = network(images).logits
    return scores, sum(kept.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_changes_but_memory(name):
    torch.manual_seed(0)
    plain = NETWORKS[name]().double().train()
    frugal = copy.deepcopy(plain)
    checkpoint_blocks(frugal)
    frugal = copy.deepcopy(frugal)  # as for a moving average: the copy's blocks are its own
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    (wanted, much), (scores, little) = kept_bytes(plain, images), kept_bytes(frugal, images)
    assert torch.equal(scores, wanted) and little < 0.6 * much
    for one in (wanted, scores):
        one.square().mean().backward()
    for (key, ours), theirs in zip(frugal.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None) and (
            ours.grad is None or torch.equal(ours.grad, theirs.grad)
        ), key
    for (key, ours), theirs in zip(frugal.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), key
    assert frugal.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(frugal.eval()(images).logits, plain.eval()(images).logits)


def test_windows_that_are_filled_up_move_no_range_of_int8():
    """Zeros that SAM fills its windows up with are no batch, and a block computes the same of them twice."""
    torch.manual_seed(0)
    plain = simulate_int8(NETWORKS["sam"]()).train()
    frugal = copy.deepcopy(plain)
    checkpoint_blocks(frugal)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    seen = []
    layer = next(module for name, module in plain.named_modules() if name.endswith("blocks.0.attn.qkv"))
    layer.register_forward_pre_hook(lambda module, given: seen.append(torch.aminmax(given[0].detach())))
    for network in (plain, frugal):
        for _ in range(2):
            network.zero_grad()
            kept_bytes(network, images)[0].square().mean().backward()
    expected = torch.lerp(torch.stack(seen[0]), torch.stack(seen[1]), 0.01)
    assert len(seen) == 2
    torch.testing.assert_close(layer.input_range, expected)
    for (key, ours), theirs in zip(frugal.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is theirs.grad is None or torch.equal(ours.grad, theirs.grad), key


def test_blocks_are_the_innermost_elements_of_rows():
    unit = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    block = nn.Module()
    block.first, block.second = nn.Linear(2, 2), nn.Linear(2, 2)
    stage = nn.Module()
    stage.row = nn.ModuleList([block, nn.ReLU()])
    network = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([stage]), nn.Sequential(unit))
    assert list(blocks_of(network)) == [block, unit]
    with pytest.raises(ValueError, match="no blocks in a row"):
        checkpoint_blocks(nn.Linear(2, 2))


def test_ranges_of_int8_move_once_a_step():
    """Also where another forward comes between a block's two runs, as with images without labels."""
    torch.manual_seed(0)
    plain = simulate_int8(NETWORKS["deeplabv3"]()).train()
    frugal = copy.deepcopy(plain)
    checkpoint_blocks(frugal)
    images = torch.randint(0, 256, (2, 2, 3, 64, 64), dtype=torch.uint8)
    for network in (plain, frugal):
        for _ in range(2):
            torch.manual_seed(1)  # dropout
            sum(network(batch).logits.square().mean() for batch in images).backward()
    for (key, ours), theirs in zip(frugal.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), key
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad), key
    for (key, ours), theirs in zip(frugal.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), key


def test_gradients_are_computed_several_times_of_one_forward():
    """As the report of each term's gradient does, before the step's own backward."""
    torch.manual_seed(0)
    plain = NETWORKS["deeplabv3"]().double().train()
    frugal = copy.deepcopy(plain)
    checkpoint_blocks(frugal)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for network in (plain, frugal):
        network.features_wanted = {"stage2"}
        torch.manual_seed(1)  # dropout
        feature = network(images).features["stage2"]
        place = network.backbone.parameters().__next__()
        torch.autograd.grad(feature.square().mean(), place, retain_graph=True)
        feature.square().mean().backward()
    for (key, ours), theirs in zip(frugal.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is theirs.grad is None or torch.equal(ours.grad, theirs.grad), key
    for (key, ours), theirs in zip(frugal.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), key
