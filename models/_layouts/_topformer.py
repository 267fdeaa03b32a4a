"""TopFormer in its authors' code, and their ImageNet files."""

from torch import Tensor

from ._layout import Described, NetworkLayout, Renaming

# places of a block's layers, activations between them: with the expansion, and of the first block, which has none
EXPANDING, PLAIN = {"expand": 0, "depthwise": 2, "project": 4}, {"depthwise": 0, "project": 2}
BLOCK = [("attn.to_q", "attention.query"), ("attn.to_k", "attention.key"), ("attn.to_v", "attention.value"),
         ("attn.proj.1", "attention.project"), ("mlp.fc1", "mlp.expand"), ("mlp.fc2", "mlp.project")]  # fmt: skip
LAYER = (("c", "conv"), ("bn", "bn"))  # their Conv2d_BN and ours
INJECTION = {"local_embedding": "local", "global_embedding": "add", "global_act": "weigh"}


def encoder_pairs(theirs: str, ours: str) -> list[tuple[str, str]]:
    """(theirs, ours) for Renaming of the encoder's entries under the two prefixes."""
    layers = [("tpm.stem.0", "stem")]
    for index in range(10):  # one more than the small network has
        places = EXPANDING if index else PLAIN
        layers += [(f"tpm.layer{index + 1}.conv.{place}", f"blocks.{index}.{own}") for own, place in places.items()]
    layers += [(f"trans.transformer_blocks.#.{name}", f"transformer.#.{own}") for name, own in BLOCK]
    pairs = [(f"{theirs}{a}.{part}.*", f"{ours}{b}.{own}.*") for a, b in layers for part, own in LAYER]
    depthwise = f"{theirs}trans.transformer_blocks.#.mlp.dwconv.*", f"{ours}transformer.#.mlp.depthwise.*"
    return [*pairs, depthwise]


TABLE = Renaming([
    *encoder_pairs("backbone.", "backbone."),
    *(
        (f"backbone.SIM.{i}.{theirs}.*", f"injections.stage{i + 1}.{ours}.*")
        for i in (1, 2, 3)
        for theirs, ours in INJECTION.items()
    ),
    ("decode_head.linear_fuse.*", "fuse.*"),
    ("decode_head.conv_seg.*", "classifier.*"),
])  # fmt: skip


def described(state: dict[str, Tensor]) -> Described:
    """The TopFormer of a file."""
    fuse = state["decode_head.linear_fuse.conv.weight"]
    name = "topformer_b" if "backbone.tpm.layer10.conv.0.c.weight" in state else "topformer_t"
    args = {"backbone": name, "depthwise_fuse": fuse.shape[1] == 1, "align_corners": False}
    return Described("topformer", len(state["decode_head.conv_seg.weight"]), args)


ORIGINAL = NetworkLayout(
    "the layout topformer",
    ("backbone.tpm.stem.0.c.weight", "decode_head.linear_fuse.conv.weight"),
    "injections.stage2.local.conv.weight",
    lambda state: TABLE,
    described,
)


def backbone(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """An ImageNet file of pyramid and transformer under our names, None: another file."""
    if "tpm.stem.0.c.weight" not in state:
        return None
    kept = {key: value for key, value in state.items() if key.startswith(("tpm.", "trans."))}
    return Renaming(encoder_pairs("", "")).to_ours(kept)
