"""Whole runs with other people's networks: transformers' as teacher and as student, encoders without a head, SAM."""

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModel

from segkd.runner.recipe.read import read
from segkd.runner.run_folder.pretrained import from_pretrained

SEGFORMER = (
    "{model: huggingface, args: {config: {model_type: segformer, hidden_sizes: [8, 16, 24, 32], depths: [1, 1, 1, 1], "
    "num_attention_heads: [1, 2, 3, 4], decoder_hidden_size: 16}}"
)
SWIN = (
    "{model_type: swin, embed_dim: 8, depths: [1, 1, 1, 1], num_heads: [1, 1, 2, 2], window_size: 4, "
    "out_features: [stage1, stage2, stage3, stage4]}"
)
MASK2FORMER = (
    f"{{model: huggingface, args: {{config: {{model_type: mask2former, backbone_config: {SWIN}, feature_size: 32, "
    "mask_feature_size: 32, hidden_dim: 32, encoder_layers: 1, encoder_feedforward_dim: 16, dim_feedforward: 32, "
    "num_attention_heads: 2, num_queries: 6, decoder_layers: 2, use_auxiliary_loss: false}}"
)
SAM = (
    "{model: sam, args: {embed_dim: 16, depth: 4, num_heads: 2, global_blocks: [1, 3], taps: [0, 1, 2, 3], "
    "window_size: 2, out_channels: %d, neck_width: 8, head_width: 8, image_size: 32%s}"
)
VIT = dict(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32,
           patch_size=16)  # fmt: skip
SAM2 = dict(
    model_type="sam2_vision_model", backbone_channel_list=[32, 24, 16, 8], fpn_hidden_size=8,
    backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], backbone_config=dict(
        model_type="sam2_hiera_det_model", hidden_size=8, num_attention_heads=1, blocks_per_stage=[1, 2, 1, 1],
        embed_dim_per_stage=[8, 16, 24, 32], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[2],
        window_positional_embedding_background_size=[4, 4], image_size=[64, 64],
    ),
)  # fmt: skip
# encoder -> the feature that is taught
ENCODERS = {
    "dinov2": (VIT | dict(model_type="dinov2", patch_size=14, image_size=56), "last"),
    "dinov3": (VIT | dict(model_type="dinov3_vit"), "last"),
    "siglip2": (VIT | dict(model_type="siglip2_vision_model", num_patches=16), "block2"),
    "clip": (VIT | dict(model_type="clip_vision_model"), "stage3"),
    "sam2": (SAM2, "neck1"),
    "timm_vit": ("test_vit", "last"),
    "timm_registers": ("test_vit3", "stage4"),
    "timm_convnext": ("test_convnext", "stage2"),
}
TWO_STEPS = ("schedule.iterations=2", "evaluate.every=2", "data.batch_size=2", "evaluate.batch_size=1")


@pytest.mark.parametrize("student, teacher", [(SEGFORMER, MASK2FORMER), (MASK2FORMER, SEGFORMER)])
def test_transformers_networks_as_student_and_teacher(distill, folder, student, teacher):
    names = ["sky", "building", "road", "pavement", "tree", "car", "person", "pole"]
    class_map = "{" + ", ".join(f'"{index}": {name}' for index, name in enumerate(names)) + "}"
    own = teacher.replace("config: {", "labels: own, config: {num_labels: 9, ")
    result = distill(
        "tiny.yaml",
        *TWO_STEPS,
        f"networks={{student: {student}}}, teacher: {own}, train: false, weights: random, class_map: {class_map}}}}}",
        "losses=[{loss: cross_entropy}, {loss: kl}, {loss: fitnet, args: {feature: hidden1}}]",
        "evaluate.also=[teacher]",
    )
    assert result.code == 0, result.err
    rows = json.loads((folder / "runs/tiny/summary.json").read_text())["rows"]
    assert [row["network"] for row in rows] == ["teacher", "student, tiny"], "a frozen one has one line"
    log = [json.loads(line) for line in (folder / "runs/tiny/metrics.jsonl").read_text().splitlines()]
    assert {"loss/kl", "loss/fitnet"} <= log[0].keys() and log[-1]["miou"] >= 0
    assert "1 classes of networks.teacher go to none of ours and are left out: 'LABEL_8'" in result.out
    delivered = from_pretrained(folder / "runs/tiny")
    assert delivered(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).logits.shape[1] == 8


def test_a_timm_encoder_under_a_head_of_ours(trained):
    encoder = "source: timm, model: mobilenetv3_small_050, args: {head: pspnet, output_stride: 16, width: 8}"
    run = trained("tiny", *TWO_STEPS, f"networks={{student: {{{encoder}}}}}")
    config = json.loads((run.path / "student/config.json").read_text())
    assert config["model"] == "pspnet" and config["args"]["backbone"] == "timm/mobilenetv3_small_050"
    assert "head: pspnet" in (run.path / "recipe.yaml").read_text()


def test_encoders_without_a_head_as_teachers_of_one_on_an_encoder_of_transformers(trained, folder):
    published = AutoModel.from_config(AutoConfig.for_model(**ENCODERS["dinov3"][0]))
    published.save_pretrained(folder / "published")
    (folder / "published/preprocessor_config.json").write_text('{"image_mean": 0.5, "image_std": 0.5}')
    from_hub = {"source": "hf", "model": str(folder / "published")}
    student = {**from_hub, "args": {"head": "deeplabv3", "output_stride": 16, "width": 8, "pretrained": True}}
    networks = {
        "student": student,
        "published": {**from_hub, "args": {"head": None, "last_norm": True, "pretrained": True}, "train": False},
    }
    losses = [{"loss": "cross_entropy"}, {"loss": "fitnet", "from": "published", "args": {"feature": "stage4"}}]
    for name, (encoder, feature) in ENCODERS.items():
        frozen = {"train": False, "weights": "random"}
        if isinstance(encoder, str):
            networks[name] = {"source": "timm", "model": encoder, "args": {"head": None}, **frozen}
        else:
            networks[name] = {"model": "bare_encoder", "args": {"backbone": encoder}, **frozen}
        args = {"feature": "stage4", "teacher_feature": feature, "over": "batch_space"}
        losses.append({"loss": "nfd", "from": name, "label": name, "args": args})
    run = trained("tiny", *TWO_STEPS, f"networks={json.dumps(networks)}", f"losses={json.dumps(losses)}")
    for row in run.rows():
        assert all(0 < row[f"loss/{term}"] < 5 for term in [*ENCODERS, "fitnet"])
    said = (run.path / "recipe.yaml").read_text()
    assert said.count("head: null") == 4 and "head: deeplabv3" in said and "mean 127.5 127.5 127.5" in run.out
    shutil.rmtree(folder / "published")  # what is delivered has all that it needs
    delivered = from_pretrained(run.path)
    assert delivered(torch.zeros(1, 3, 40, 64, dtype=torch.uint8)).logits.shape[1:] == (8, 3, 4)
    for said in ("", "model: deeplabv3, args: {backbone: hf/somewhere}, "):
        student = read(folder / "tiny.yaml", [f"networks.student={{{said}weights: {run.path}}}"]).networks["student"]
        assert student.args["width"] == 8
        assert student.title == ("deeplabv3 hf/somewhere" if said else "deeplabv3 dinov3_vit")


def test_sam_as_a_teacher_of_features(trained):
    teacher = SAM % (8, ", head: null") + ", train: false, weights: random}"
    losses = "losses=[{loss: cross_entropy}, {loss: fitnet, args: {feature: stage4, teacher_feature: sam}}]"
    run = trained("tiny", *TWO_STEPS, f"networks.teacher={teacher}", losses)
    assert not (run.path / "teachers.json").exists()  # it has no scores
    assert all(row["loss/fitnet"] > 0 for row in run.rows())


def test_sam_prompted_by_the_student_learns_with_it(trained):
    teacher = SAM % (256, ", prompt_guidance: channel") + ", train: lora, prompted_by: student}"
    run = trained(
        "tiny",
        *TWO_STEPS,
        "evaluate.also=[teacher, student+teacher]",
        f"networks.teacher={teacher}",
        "losses=[{loss: cross_entropy}, {loss: cross_entropy, of: teacher, label: teacher_ce, after: 0}, "
        "{loss: kl, from: teacher, after: 0, detach: false}]",
    )
    log = run.rows()
    assert "loss/kl" not in log[0] and "loss/kl" in log[1]
    assert {"miou/teacher", "miou/student+teacher"} <= log[1].keys()
    assert any("linear_a_q" in key for key in run.state()["graph"])
