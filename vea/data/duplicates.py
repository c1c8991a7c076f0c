"""Pictures that are in a data set twice: perceptual hashes of 256 bits, compared with a tolerance."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from itertools import pairwise

import imagehash
import numpy as np
from PIL import Image

# of 256. Of 1,200 photographs, paintings and faces JPEG 50 and half the size changed at most 16 bits, in 99 % at most
# 14; the nearest other picture was at least 60 away (python benchmarks/duplicates.py)
MAX_BITS = 15
_CHUNKS = 16  # of 16 bits: hashes that differ in fewer bits than there are chunks agree in one of them


def picture_hash(image: Image.Image) -> bytes:
    """Returns 32 bytes that change little when a picture is re-encoded or scaled (phash of imagehash, 16 x 16)."""
    return np.packbits(imagehash.phash(image.convert("RGB"), hash_size=16).hash).tobytes()


def near_pairs(hashes: Sequence[bytes], *, max_bits: int = MAX_BITS) -> list[tuple[int, int]]:
    """Returns pairs (i, j), i < j, that differ in at most ``max_bits`` bits, sorted; of equal hashes only neighbours.

    All such pairs of different hashes are found: two hashes that differ in less than 16 bits agree in one of their 16
    chunks, so only those that share a chunk are compared.

    Raises:
        ValueError: ``max_bits`` is 16 or more.
    """
    if max_bits >= _CHUNKS:
        raise ValueError(f"at most {_CHUNKS - 1} bits, got {max_bits}")
    if not hashes:
        return []
    table = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(len(hashes), 32)
    unique, inverse = np.unique(table, axis=0, return_inverse=True)
    members: list[list[int]] = [[] for _ in unique]
    for i, group in enumerate(inverse.ravel().tolist()):
        members[group].append(i)
    found = {pair for group in members for pair in pairwise(group)}
    for chunk in range(_CHUNKS):
        values = unique[:, 2 * chunk].astype(np.uint16) << 8 | unique[:, 2 * chunk + 1]
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order], prepend=-1))
        for bucket in np.split(order, starts[1:]):
            for place, row in enumerate(bucket[:-1]):
                others = bucket[place + 1 :]
                bits = np.bitwise_count(unique[others] ^ unique[row]).sum(1)
                for other in others[bits <= max_bits]:
                    one, two = sorted((members[row][0], members[other][0]))
                    found.add((one, two))
    return sorted(found)


def duplicate_lines(pictures: Sequence[tuple[str, str, bytes]], *, shown: int = 3) -> list[str]:
    """Returns a line per pair of splits that share pictures, and per split that holds some twice.

    Args:
        pictures: (split, key, hash) of every picture.
        shown: examples in each line.
    """
    pairs: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for i, j in near_pairs([picture[2] for picture in pictures]):
        (one, key_one, _), (two, key_two, _) = pictures[i], pictures[j]
        pairs[one, two].append(f"{key_one} ~ {key_two}")
    return [
        f"{'leakage between ' + one + ' and ' + two if one != two else 'duplicates within ' + one}: {len(found)} "
        f"near-identical pairs, such as {', '.join(found[:shown])}"
        for (one, two), found in sorted(pairs.items(), key=lambda item: (item[0][0] == item[0][1], item[0]))
    ]

