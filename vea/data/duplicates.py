"""Pictures that are in a data set twice: perceptual hashes of 256 bits, compared with a tolerance."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from itertools import combinations, pairwise

import imagehash
import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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


def clusters(hashes: Sequence[bytes]) -> list[list[int]]:
    """Returns the sets of two and more pictures that near pairs connect, members ascending."""
    pairs = np.array(near_pairs(hashes), dtype=int).reshape(-1, 2)
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(hashes), len(hashes)))
    found: dict[int, list[int]] = collections.defaultdict(list)
    for i, label in enumerate(connected_components(links, directed=False)[1].tolist() if hashes else []):
        found[label].append(i)
    return [members for members in found.values() if len(members) > 1]


def duplicate_lines(pictures: Sequence[tuple[str, str, bytes]], *, shown: int = 3) -> list[str]:
    """Returns a line per pair of splits that share pictures, and per split that holds some more than once.

    Args:
        pictures: (split, key, hash) of every picture, split by split.
        shown: examples in each line.
    """
    shared: dict[tuple[str, str], list[str]] = collections.defaultdict(list)  # a text per picture of the second split
    for members in clusters([picture[2] for picture in pictures]):
        keys: dict[str, list[str]] = collections.defaultdict(list)
        for i in members:
            keys[pictures[i][0]].append(pictures[i][1])
        for split, found in keys.items():
            shared[split, split] += [f"{found[0]} ~ {key}" for key in found[1:]]
        for one, two in combinations(keys, 2):
            shared[one, two] += [f"{keys[one][0]} ~ {key}" for key in keys[two]]
    lines = []
    for (one, two), found in sorted(shared.items(), key=lambda item: (item[0][0] == item[0][1], item[0])):
        what = f"leakage between {one} and {two}" if one != two else f"duplicates within {one}"
        if found:
            lines.append(f"{what}: {len(found)} near-identical pictures, such as {', '.join(found[:shown])}")
    return lines
