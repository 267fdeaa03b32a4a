"""Names of the entries of SAM's image encoder, prompt encoder and mask decoder in five codes, and what they tell."""

from torch import Tensor

from .._sam import PATCH, PUBLISHED

# (theirs, ours) for Renaming; our prompt encoder and mask decoder are named as Meta's
META = [("image_encoder.*", "backbone.*")]

OPENMMLAB = [
    ("image_encoder.layers.#.ln#.*", "backbone.blocks.#.norm#.*"),
    ("image_encoder.layers.#.ffn.layers.0.0.*", "backbone.blocks.#.mlp.lin1.*"),
    ("image_encoder.layers.#.ffn.layers.1.*", "backbone.blocks.#.mlp.lin2.*"),
    ("image_encoder.layers.#.*", "backbone.blocks.#.*"),
    ("image_encoder.patch_embed.projection.*", "backbone.patch_embed.proj.*"),
    ("image_encoder.channel_reduction.*", "backbone.neck.*"),
    ("image_encoder.*", "backbone.*"),
]

TIMM = [
    ("blocks.#.mlp.fc#.*", "backbone.blocks.#.mlp.lin#.*"),
    *((f"{part}*", f"backbone.{part}*") for part in ("blocks.", "patch_embed.", "pos_embed", "neck.")),
]

MLPS = ("mask_decoder.output_hypernetworks_mlps.#", "mask_decoder.iou_prediction_head")
HUGGINGFACE = [
    ("vision_encoder.layers.#.layer_norm#.*", "backbone.blocks.#.norm#.*"),
    ("vision_encoder.layers.#.*", "backbone.blocks.#.*"),
    ("vision_encoder.patch_embed.projection.*", "backbone.patch_embed.proj.*"),
    ("vision_encoder.neck.conv1.*", "backbone.neck.0.*"),
    ("vision_encoder.neck.layer_norm1.*", "backbone.neck.1.*"),
    ("vision_encoder.neck.conv2.*", "backbone.neck.2.*"),
    ("vision_encoder.neck.layer_norm2.*", "backbone.neck.3.*"),
    ("vision_encoder.*", "backbone.*"),
    (
        "prompt_encoder.shared_embedding.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    ("prompt_encoder.point_embed.#.*", "prompt_encoder.point_embeddings.#.*"),
    *(
        (f"prompt_encoder.mask_embed.{theirs}.*", f"prompt_encoder.mask_downscaling.{ours}.*")
        for theirs, ours in (("conv1", 0), ("layer_norm1", 1), ("conv2", 3), ("layer_norm2", 4), ("conv3", 6))
    ),
    ("mask_decoder.transformer.layers.#.layer_norm#.*", "mask_decoder.transformer.layers.#.norm#.*"),
    ("mask_decoder.transformer.layer_norm_final_attn.*", "mask_decoder.transformer.norm_final_attn.*"),
    ("mask_decoder.upscale_conv1.*", "mask_decoder.output_upscaling.0.*"),
    ("mask_decoder.upscale_layer_norm.*", "mask_decoder.output_upscaling.1.*"),
    ("mask_decoder.upscale_conv2.*", "mask_decoder.output_upscaling.3.*"),
    *(
        (f"{mlp}.{theirs}.*", f"{mlp}.layers.{ours}.*")
        for mlp in MLPS
        for theirs, ours in (("proj_in", 0), ("layers.0", 1), ("proj_out", 2))
    ),
]


def encoder_arguments(state: dict[str, Tensor]) -> dict:
    """Arguments of our SAM that the entries of an encoder, under our names, tell.

    Raises:
        ValueError: an encoder in pieces, or one without relative positions.
    """
    try:
        table, patches = state["backbone.pos_embed"], state["backbone.patch_embed.proj.weight"]
        hidden, out_channels = state["backbone.blocks.0.mlp.lin1.weight"], state["backbone.neck.0.weight"].shape[0]
        depth = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("backbone.blocks."))
        rows = [state[f"backbone.blocks.{index}.attn.rel_pos_h"].shape for index in range(depth)]
    except KeyError as error:
        raise ValueError(f"this is no whole image encoder of SAM: it has no entry {error} in our names") from None
    grid, width = table.shape[1], table.shape[-1]
    if tuple(patches.shape[-2:]) != (PATCH, PATCH):
        raise ValueError(
            f"this encoder's patches are {tuple(patches.shape[-2:])} pixels; only {PATCH} x {PATCH} is read"
        )
    head_width = rows[0][1]
    # a table as long as the whole grid's axis is that of a block that attends over all of it
    whole = [index for index, (length, _) in enumerate(rows) if length == 2 * grid - 1]
    sizes = {"embed_dim": width, "depth": depth, "num_heads": width // head_width, "global_blocks": whole}
    for name, published in PUBLISHED.items():
        same = (published.embed_dim, published.depth, published.num_heads * head_width) == (width, depth, width)
        if same and set(published.global_blocks) <= set(whole):
            sizes, whole = {"arch": name}, published.global_blocks
    windows = [length for index, (length, _) in enumerate(rows) if index not in whole]
    if windows and windows[0] != 27:
        sizes["window_size"] = (windows[0] + 1) // 2
    if out_channels != 256:
        sizes["out_channels"] = out_channels
    if hidden.shape[0] != 4 * width:
        sizes["mlp_ratio"] = hidden.shape[0] / width
    sizes["image_size"] = PATCH * grid
    updates = {third: f"backbone.blocks.0.attn.qkv.linear_a_{third}.weight" for third in "qkv"}
    ranks = {third: len(state[key]) for third, key in updates.items() if key in state}
    return sizes | ({"lora_rank": next(iter(ranks.values())), "lora_targets": list(ranks)} if ranks else {})
