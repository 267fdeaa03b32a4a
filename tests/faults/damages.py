"""Random damages of the bytes of an image file."""

import random
import struct
import zlib


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) - 20)]  # the last bytes of some formats mean nothing


def flipped_bits(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 10, 100))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def zeros(content: bytes, draw: random.Random) -> bytes:
    at, length = draw.randrange(len(content)), draw.choice((1, 16, 512))
    return content[:at] + bytes(min(length, len(content) - at)) + content[at + length :]


def a_hole(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + content[at + draw.choice((1, 2, 64)) :]


def noise(content: bytes, draw: random.Random) -> bytes:
    keep = draw.choice((0, 8, 24))
    return content[:keep] + draw.randbytes(len(content))


def doubled(content: bytes, draw: random.Random) -> bytes:
    return content + content


def header_sizes(content: bytes, draw: random.Random) -> bytes:
    """Another width or height in the head of a PNG, with a right checksum (other formats: noise)."""
    if content[:4] != b"\x89PNG":
        return noise(content, draw)
    head = bytearray(content[12:29])  # IHDR and its data
    head[draw.choice((4, 5, 6, 7, 8, 9, 10, 11))] ^= 1 << draw.randrange(8)
    return content[:12] + bytes(head) + struct.pack(">I", zlib.crc32(head)) + content[33:]


DAMAGES = {"cut": cut, "flipped bits": flipped_bits, "zeros": zeros, "a hole": a_hole, "noise": noise,
           "doubled": doubled, "other sizes in the head": header_sizes}  # fmt: skip


# ---- strange files: written to a path; the pixels they should be read as, where these are others, and how far off
