"""Time and memory of SAM's image encoder: ours with factored attention beside the package segment_anything's own.

    python tests/benchmarks/sam.py [--arch vit_b] [--size 512 512] [--batch 1] [--rounds 3] [--threads 1]

Two jobs: `forward` without gradients, as a frozen teacher runs, and `training`: forward and backward of low-rank
updates of every projection. Two arms of each, the same weights and images; each measurement is a process of its own,
the arms by turns. Time is the smallest CPU time of all rounds, memory the largest resident size over what was there
before the first run. `difference` is the largest one between the two arms' maps, over their standard deviation.
"""

import argparse
import json
import sys
from functools import partial

import torch
from measuring import in_child, peak, seconds
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from segkd.models._lora import add_lora
from segkd.models._sam import PUBLISHED, build_encoder, encode

JOBS, ARMS = ("forward", "training"), ("package", "ours")


def encoder_of(arm: str, options: argparse.Namespace) -> nn.Module:
    """The encoder of one arm; tables for the longer side, so that neither arm resizes those of a square image."""
    torch.manual_seed(0)
    sizes, side = PUBLISHED[options.arch], max(options.size)
    if arm == "ours":
        encoder = build_encoder(sizes, side)
    else:
        encoder = ImageEncoderViT(
            img_size=side,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            out_chans=sizes.out_channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=sizes.window_size,
            global_attn_indexes=sizes.global_blocks,
        )
        # it adds its table to whole images of one size only
        height, width = (pixels // 16 for pixels in options.size)
        encoder.pos_embed = nn.Parameter(torch.zeros(1, height, width, sizes.embed_dim))
    for name, weight in encoder.named_parameters():
        if "rel_pos" in name:
            nn.init.normal_(weight, std=0.02)
    return encoder


def last_map(arm: str, encoder: nn.Module, images: Tensor) -> Tensor:
    """(B, 256, h, w)"""
    if arm == "package":
        return encoder(images)
    last = len(encoder.blocks) - 1
    return encoder.neck(encode(encoder, images, (last,))[last])


def measure(job: str, arm: str, options: argparse.Namespace) -> dict:
    """Seconds and MiB of one job of one arm, and a part of its map."""
    torch.set_num_threads(options.threads)
    encoder = encoder_of(arm, options)
    if job == "training":
        add_lora(encoder)
    images = torch.randn(options.batch, 3, *options.size, generator=torch.manual_seed(1))
    maps, times = [], []

    def run() -> None:
        with torch.set_grad_enabled(job == "training"):
            maps[:] = [last_map(arm, encoder, images)]
        if job == "training":
            maps[0].square().sum().backward()

    used = peak(lambda: times.extend(seconds(run)[1] for _ in range(2)))
    return {"seconds": min(times), "mib": used, "map": maps[0].detach()[0, ::16, ::4, ::4].flatten().tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", choices=sorted(PUBLISHED), default="vit_b")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="multiples of 16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("JOB", "ARM"), help="measure this one alone and print it as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options)))
        return
    for job in JOBS:
        results = {arm: [] for arm in ARMS}
        for _ in range(options.rounds):
            for arm in ARMS:
                results[arm].append(in_child(*sys.argv[1:], "--one", job, arm))
        for arm, runs in results.items():
            fastest, used = min(run["seconds"] for run in runs), max(run["mib"] for run in runs)
            print(f"{job:9} {arm:8} {fastest:7.2f} s {used:7.0f} MiB")
        theirs, ours = (torch.tensor(results[arm][0]["map"]) for arm in ARMS)
        print(f"{job:9} difference {((ours - theirs).abs().max() / theirs.std()).item():.1e}")


if __name__ == "__main__":
    main()
