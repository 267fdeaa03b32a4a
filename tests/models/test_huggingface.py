"""Networks of transformers, tiny and from configurations alone, against what transformers itself makes of them."""

import copy
import json

import pytest
import torch
from transformers import MaskFormerImageProcessor

from segkd.losses._task import Features
from segkd.models.huggingface import HuggingFace

K = 5
VIT = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64)
FOUR = dict(depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"])
SWIN = dict(model_type="swin", embed_dim=8, num_heads=[1, 1, 2, 2], window_size=4, **FOUR)
CONVNEXT = dict(model_type="convnext", hidden_sizes=[8, 16, 24, 32], **FOUR)
UPER = dict(model_type="upernet", hidden_size=16, auxiliary_channels=8)
DETR = dict(
    d_model=64, encoder_layers=1, decoder_layers=2, encoder_attention_heads=8, decoder_attention_heads=8,
    encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6,
)  # fmt: skip
MASKS = dict(num_queries=6, hidden_dim=32, encoder_feedforward_dim=16, encoder_layers=1, dim_feedforward=16,
             num_attention_heads=2, backbone_config=SWIN)  # fmt: skip
EOMT = dict(num_blocks=2, num_queries=6, num_upscale_blocks=2, patch_size=16) | VIT
RESNET = dict(model_type="resnet", embedding_size=8, hidden_sizes=[8, 16, 24, 32], layer_type="basic", **FOUR)

PER_PIXEL = {
    "segformer": dict(
        model_type="segformer", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16,
    ),
    "upernet-convnext": UPER | dict(backbone_config=CONVNEXT, auxiliary_in_channels=24),
    "upernet-swin": UPER | dict(backbone_config=SWIN, auxiliary_in_channels=32),
    "beit": VIT | dict(model_type="beit", out_indices=[1, 2, 3, 4], use_relative_position_bias=True,
                       use_absolute_position_embeddings=True),
    "data2vec": VIT | dict(model_type="data2vec-vision", out_indices=[0, 1, 2, 3], use_relative_position_bias=True),
    "dpt": VIT | dict(model_type="dpt", backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16],
                      fusion_hidden_size=16, is_hybrid=False),
    "mobilevit": dict(model_type="mobilevit", hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
                      num_attention_heads=2, aspp_out_channels=16, output_stride=16),
    "mobilevitv2": dict(model_type="mobilevitv2", width_multiplier=0.25, aspp_out_channels=16, output_stride=16),
    "mobilenet_v2": dict(model_type="mobilenet_v2", depth_multiplier=0.35, output_stride=8),
}  # fmt: skip
UNIVERSAL = {
    "mask2former": MASKS | dict(model_type="mask2former", feature_size=32, mask_feature_size=32, decoder_layers=2,
                                use_auxiliary_loss=False),
    "maskformer": dict(model_type="maskformer", backbone_config=SWIN, fpn_feature_size=32, mask_feature_size=32,
                       decoder_config=DETR | dict(model_type="detr", backbone_config=RESNET)),
    "maskformer-aux": dict(model_type="maskformer", backbone_config=SWIN, fpn_feature_size=32, mask_feature_size=32,
                           use_auxiliary_loss=True, decoder_config=DETR | dict(model_type="detr",
                                                                               backbone_config=RESNET)),
    "oneformer": MASKS | dict(model_type="oneformer", mask_dim=32, conv_dim=32, decoder_layers=3,
                              text_encoder_width=16, text_encoder_num_layers=1, text_encoder_vocab_size=99),
    "eomt": EOMT | dict(model_type="eomt"),
    "eomt_dinov3": EOMT | dict(model_type="eomt_dinov3"),
    "detr": DETR | dict(model_type="detr", backbone_config=RESNET),
}  # fmt: skip
ALL = PER_PIXEL | UNIVERSAL


def network(name):
    torch.manual_seed(0)
    net = HuggingFace(K, config=ALL[name])
    if name.startswith("mobile"):  # whose own start makes the scores vanish
        for module in net.network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    return net


def images(height=64, width=64, batch=2):
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), generator=draw, dtype=torch.uint8)


@pytest.mark.parametrize("name", PER_PIXEL)
def test_scores_are_those_of_transformers(name):
    net = network(name).eval()
    size = (64, 96) if net.extent in (None, "patches") else (64, 64)
    with torch.no_grad():
        theirs = net.network(net.normalize(images(*size))).logits
        ours = net(images(*size))
    assert torch.equal(ours.resized(theirs.shape[-2:]), theirs)
    assert (ours.aux is None) and ours.features == {}


@pytest.mark.parametrize("name", UNIVERSAL)
def test_argmax_is_that_of_the_processor(name):
    net = network(name).eval()
    given = {"output_hidden_states": True} if "former" in name else {}
    if name == "oneformer":
        given["task_inputs"] = torch.tensor([[49406, 518, 10549, 533, 29119, 1550, 49407] + [0] * 70] * 2)
    with torch.no_grad():
        ours = net(images()).logits
        output = net.network(net.normalize(images()), **given)
    if name == "detr":  # whose own processor has another resize
        output.class_queries_logits, output.masks_queries_logits = output.logits, output.pred_masks
    theirs = MaskFormerImageProcessor().post_process_semantic_segmentation(output)
    assert torch.equal(ours.argmax(1), torch.stack(theirs)) and ours.shape[1] == K
    assert ours.exp().amax() <= 6.001 and ours.std() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_features_are_as_announced_and_every_trained_parameter_learns(name):
    net = network(name)
    size = (48, 33) if net.extent == "fixed" else (65, 97)
    net.features_wanted = set(net.channels)
    assert {"hidden0", "hidden1"} <= net.features_wanted and ("head" in net.channels) == (name != "detr")
    prediction = net(images(*size))
    assert list(prediction.features) == list(net.channels)
    cut = name == "upernet-convnext"  # whose patches leave out the image's last columns and rows
    for feature, maps in prediction.features.items():
        stride = net.strides[feature]
        expected = [side // stride if cut else -(-side // stride) for side in size]
        assert list(maps.shape) == [2, net.channels[feature], *expected], feature
    loss = prediction.logits.square().mean()
    if net.has_aux:
        assert prediction.aux.shape[:2] == (2, K)
        loss = loss + prediction.aux.square().mean()
    loss.backward()
    idle = [key for key, value in net.named_parameters() if value.requires_grad and value.grad is None]
    frozen = {key for key, value in net.named_parameters() if not value.requires_grad}
    assert idle == [] and (name == "detr" or frozen == set(net.unreached))
    encoder = [key for key, _ in net.named_parameters() if key.startswith(net.backbone_prefixes)]
    assert 0 < len(encoder) < len(list(net.parameters()))


@pytest.mark.parametrize("name", ALL)
def test_other_precisions(name):
    net = network(name).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = net(images()).logits
    with torch.no_grad():
        single, double = net(images()).logits, net.double()(images()).logits
    assert double.dtype == torch.float64 and half.isfinite().all()
    # EoMT's attention masks are thresholds, and what lies at one falls on either side
    assert (single - double).abs().max() < (0.5 if name == "eomt" else 1e-3) * double.std()


@pytest.mark.parametrize("name", ["segformer", "mask2former", "eomt", "upernet-swin", "detr"])
def test_arguments_without_files_build_the_same_network(name):
    net = network(name).eval()
    again = HuggingFace(K, **json.loads(json.dumps(net.arguments_without_files({"name": "there"})))).eval()
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images()).logits, net(images()).logits)


def test_tokens_lie_where_their_patches_do():
    net = network("beit").eval()
    plain = net.network(net.normalize(images(64, 96)), output_hidden_states=True).hidden_states[2]
    net.features_wanted = {"hidden2"}
    (maps,) = net(images(64, 96)).features.values()
    assert torch.equal(maps[1, :, 3, 2], plain[1, 1 + 3 * 6 + 2])


def test_padding_shows_at_the_right_and_the_bottom_only():
    net = network("segformer").eval()
    net.extent, net.patch = "patches", 32
    with torch.no_grad():
        padded = torch.nn.functional.pad(net.normalize(images(65, 97)), (0, 31, 0, 31))
        assert torch.equal(net(images(65, 97)).logits, net.network(padded).logits[..., :17, :25])


@pytest.mark.parametrize("name, least", [
    ("segformer", 32), ("upernet-convnext", 32), ("mask2former", 64), ("beit", 32), ("dpt", 1), ("mobilenet_v2", 1),
])  # fmt: skip
def test_images_smaller_than_the_network_reads_are_padded(name, least):
    """Mask2Former's as a map of one cell is too little for its norms of one channel a group, which are the test's."""
    net = network(name).eval()
    assert net.least == least
    with torch.no_grad():
        for height, width in ((20, 7), (28, 90), (45, 20), (1, 1)):
            logits = net(images(height, width)).logits
            assert logits.isfinite().all() and logits.shape[-2] <= height and logits.shape[-1] <= width
            if net.extent is None and least > 1:
                sides = max(height, least), max(width, least)
                padded = torch.nn.functional.pad(
                    net.normalize(images(height, width)), (0, sides[1] - width, 0, sides[0] - height)
                )
                whole = net.compute(padded, set(), None)["logits"]
                stride = 32 // net.compute(torch.zeros(1, 3, 96, 32), set(), None)["logits"].shape[-1]
                for side, cells in ((height, logits.shape[-2]), (width, logits.shape[-1])):
                    assert side >= least or cells == -(-side // stride), "a padded side shows the image alone"
                assert torch.equal(logits, whole[..., : logits.shape[-2], : logits.shape[-1]])
        if net.extent is None:
            assert net.read_size((least, least + 5)) is None


def test_any_module_can_be_a_feature():
    net = network("segformer").eval()
    features = Features("networks.teacher", net.channels, net.strides, measure=net.measure)
    # the convolution in front of its third stage, wherever the installed transformers has it
    paths = [path for path, module in net.network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    name = next(f"module:{path}" for path in paths if net.network.get_submodule(path).out_channels == 24)
    generator = torch.get_rng_state()
    assert name not in net.channels
    assert features.use(name) == net.channels[name] == 24 and net.strides[name] == 16
    assert torch.equal(generator, torch.get_rng_state()) and not net.network.training
    net.features_wanted = {name, "hidden2"}
    prediction = copy.deepcopy(net)(images(65, 97))
    assert prediction.features[name].shape == (2, 24, 5, 7)
    with pytest.raises(ValueError, match="has no module 'decoder'; its outermost ones are segformer, decode_head"):
        features.use("module:decoder")
    with pytest.raises(ValueError, match="networks.teacher has no feature 'stage9'; it has: hidden0"):
        features.use("stage9")
    with pytest.raises(ValueError, match="the output of module 'class_predictor' is no feature map"):
        network("mask2former").measure("module:class_predictor")


def test_images_larger_than_the_network_reads():
    with pytest.raises(ValueError, match=r"reads images of 64 x 64 pixels, got 64 x 65: .* window: \[64, 64\]"):
        network("eomt")(images(64, 65))
