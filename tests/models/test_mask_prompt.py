"""The way from scores to SAM's masks against the package's own forward, image by image, and what the masks do."""

import math

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from segkd.models._mask_prompt import PromptAttention, decode_masks, embed_mask, freeze_unused, mask_prompt
from segkd.models._prediction import Prediction


def sam_parts(width=16, heads=2, hidden=32, mask_channels=16):
    """SAM's prompt encoder and mask decoder, small."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(2, width, heads, hidden)
    decoder = MaskDecoder(transformer_dim=width, transformer=transformer, iou_head_hidden_dim=width)
    return PromptEncoder(width, (6, 6), (96, 96), mask_channels), decoder


@pytest.mark.parametrize("align_corners", [True, False])
def test_the_mask_is_the_winner_at_full_size(align_corners):
    logits = torch.randn(2, 5, 3, 4, requires_grad=True)
    mask = mask_prompt(Prediction(logits, align_corners), (12, 20))
    wanted = torch.nn.functional.interpolate(logits, (12, 20), mode="bilinear", align_corners=align_corners)
    assert mask.shape == (2, 1, 12, 20) and mask.dtype == torch.float32 and not mask.requires_grad
    assert torch.equal(mask[:, 0].long(), wanted.argmax(1))
    # where one class wins clearly, it is the class of the nearest score
    clear = torch.nn.functional.one_hot(torch.tensor([[[0, 2], [3, 1]]]), 4).permute(0, 3, 1, 2) * 9.0
    assert mask_prompt(Prediction(clear, False), (4, 4))[0, 0].tolist() == [[0, 0, 2, 2]] * 2 + [[3, 3, 1, 1]] * 2


def test_half_precision_scores_are_compared_in_float32():
    logits = torch.randn(1, 3, 4, 4).half()
    mask = mask_prompt(Prediction(logits), (16, 16))
    assert mask.dtype == torch.float32 and torch.equal(mask, mask_prompt(Prediction(logits.float()), (16, 16)))


@torch.no_grad()
def test_embeddings_are_the_packages_own_at_its_own_size():
    encoder, _ = sam_parts()
    mask = torch.randint(0, 5, (3, 1, 24, 24)).float()
    sparse, dense, positions = embed_mask(encoder, mask, (6, 6))
    assert sparse.shape == (3, 0, 16) and dense.shape == (3, 16, 6, 6)
    assert torch.allclose(positions, encoder.get_dense_pe(), atol=1e-6)


@torch.no_grad()
def test_positions_at_another_size_by_their_formula_whatever_the_autocast():
    encoder, _ = sam_parts()
    mask = torch.zeros(1, 1, 12, 28)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, dense, positions = embed_mask(encoder, mask, (3, 7))
    assert dense.shape[-2:] == positions.shape[-2:] == (3, 7) and positions.dtype == torch.float32
    frequencies = encoder.pe_layer.positional_encoding_gaussian_matrix.double()
    for row, column in ((0, 0), (2, 5)):
        place = torch.tensor([(column + 0.5) / 7, (row + 0.5) / 3], dtype=torch.float64)
        angle = 2 * torch.pi * (2 * place - 1) @ frequencies
        wanted = torch.cat([angle.sin(), angle.cos()])
        assert torch.allclose(positions[0, :, row, column].double(), wanted, atol=1e-5)


def test_masks_are_the_packages_own_image_by_image():
    encoder, decoder = sam_parts()
    image_map = torch.randn(3, 16, 6, 5, requires_grad=True)
    sparse, dense, positions = embed_mask(encoder, torch.randint(0, 5, (3, 1, 24, 20)).float(), (6, 5))
    points = torch.randn(3, 2, 16)
    for given in (sparse, points):
        ours = decode_masks(decoder, image_map, given, dense, positions)
        theirs = [
            decoder(image_map[i : i + 1], positions, given[i : i + 1], dense[i : i + 1], multimask_output=True)[0]
            for i in range(3)
        ]
        assert ours.shape == (3, 3, 24, 20)
        assert torch.allclose(ours, torch.cat(theirs), atol=1e-5)
    ours.square().sum().backward()
    assert image_map.grad.abs().amax(dim=(1, 2, 3)).min() > 0


@torch.no_grad()
def test_the_image_map_is_brought_to_the_prompts_size():
    encoder, decoder = sam_parts()
    image_map = torch.randn(2, 16, 3, 2)
    embedded = embed_mask(encoder, torch.zeros(2, 1, 24, 20), (6, 5))
    larger = torch.nn.functional.interpolate(image_map, (6, 5), mode="bilinear", align_corners=False)
    assert torch.equal(decode_masks(decoder, image_map, *embedded), decode_masks(decoder, larger, *embedded))


def released(attention, features, prompt_masks):
    """The released weighting, computed as it stands."""
    energy = attention.energy(features, prompt_masks).unsqueeze(-1)  # (B, C, 1)
    weights = torch.softmax(energy.max(-1, keepdim=True)[0].expand_as(energy) - energy, dim=-1)
    return weights.unsqueeze(-1) * features


@pytest.mark.parametrize("masks", [1, 3])
def test_released_attention_leaves_the_features_alone_and_gives_no_gradient(masks):
    torch.manual_seed(0)
    attention = PromptAttention(6).double().eval()
    features = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    prompts = torch.randn(2, masks, 4, 5, dtype=torch.float64, requires_grad=True)
    output = released(attention, features, prompts)
    assert torch.equal(output, features) and torch.equal(attention(features, prompts), features)
    draw = torch.randn_like(output)
    leaves = [features, prompts, attention.conv.weight]
    of_features, *others = torch.autograd.grad((output * draw).sum(), leaves)
    assert torch.equal(of_features, draw) and all(gradient.abs().max() == 0 for gradient in others)
    assert {"conv.weight", "bn.weight", "bn.running_mean"} <= set(attention.state_dict())


def test_energy_is_each_channels_product_with_the_strongest_mask():
    torch.manual_seed(0)
    attention = PromptAttention(3).double().eval()
    features, prompts = torch.randn(2, 3, 2, 4).double(), torch.randn(2, 3, 2, 4).double()
    found = attention.energy(features, prompts)
    query = torch.relu(attention.bn(attention.conv(features)))
    for image in range(2):
        for channel in range(3):
            wanted = sum(query[image, channel, y, x] * max(prompts[image, :, y, x]) for y in range(2) for x in range(4))
            assert torch.allclose(found[image, channel], wanted)


@pytest.mark.parametrize("guidance", ["channel", "spatial"])
def test_working_forms_by_their_formulas_and_their_gradients(guidance):
    torch.manual_seed(0)
    attention = PromptAttention(3, guidance).double().eval()
    features = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    prompts = torch.randn(2, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    found = attention(features, prompts)
    small = torch.nn.functional.interpolate(prompts, (2, 4), mode="bilinear", align_corners=False)
    for image in range(2):
        energies = attention.energy(features, prompts)[image] if guidance == "channel" else None
        for channel in range(3):
            for y in range(2):
                for x in range(4):
                    if guidance == "spatial":
                        strongest = max(small[image, mask, y, x].item() for mask in range(3))
                        factor = 1 + 1 / (1 + math.exp(-strongest))
                    else:
                        shares = [math.exp(energy / 8) for energy in energies.tolist()]
                        factor = 1 + 3 * shares[channel] / sum(shares)
                    wanted = features[image, channel, y, x].item() * factor
                    assert found[image, channel, y, x].item() == pytest.approx(wanted)
    leaves = [features, prompts, *attention.parameters()]
    gradients = torch.autograd.grad(found.square().sum(), leaves)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_what_a_mask_never_reaches_is_frozen_and_nothing_else():
    encoder, decoder = sam_parts()
    freeze_unused(encoder, decoder)
    masks = decode_masks(decoder, torch.randn(2, 16, 3, 2), *embed_mask(encoder, torch.randn(2, 1, 24, 20), (6, 5)))
    masks.square().sum().backward()
    for name, weight in [*encoder.named_parameters(), *decoder.named_parameters()]:
        assert weight.requires_grad == (weight.grad is not None and weight.grad.abs().sum() > 0), name
