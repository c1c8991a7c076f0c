"""An export is compared with the run before it is left."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vea.data import synthetic
from vea.data.shards.reader import ShardReader
from vea.data.views.decode import CorruptImage, decode
from vea.data.views.views import Views
from vea.errors import RunError, VeaError
from vea.inference.readings import Readings
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import SavedModel

TOLERANCE = 1e-4  # largest difference between an export and its run, in any output
CHECKED = 32  # images on which the two are compared


def check_images(model: SavedModel, files: Sequence[Path] = ()) -> tuple[Tensor, str]:
    """Returns (uint8 (N, 3, S, S), what they are): ``files``, else the run's validation set, else drawn scenes.

    Raises:
        VeaError: one of ``files`` cannot be read.
    """
    config = model.task.config
    views = Views(config.augment, seed=config.seed, train=False)
    encoded: list[bytes] = []
    where = f"{len(files)} files"
    if files:
        try:
            encoded = [file.read_bytes() for file in files]
        except OSError as error:
            raise VeaError(f"--images: {error.filename}: {error.strerror}") from None
    for ref in [] if files else config.data.val:
        try:
            reader = ShardReader(ref.path, ref.split)
        except VeaError:  # the data is not on this machine
            continue
        places = np.unique(np.linspace(0, len(reader) - 1, CHECKED).astype(int)).tolist()
        encoded, where = [reader.read(place)[1] for place in places], f"{ref.split} of {ref.path}"
        break
    if not encoded:
        encoded = [sample.image for sample in islice(synthetic.samples(CHECKED, split="val"), CHECKED)]
        where = "drawn scenes (the run's validation data is not here)"
    try:
        pixels = [views.one(decode(data), key="") for data in encoded]
    except CorruptImage as error:
        raise VeaError(f"--images: one of them cannot be read ({error})") from None
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), where


@torch.inference_mode()
def outputs(task: RecogniseTask, images: Tensor, readings: Readings | None = None) -> dict[str, Tensor]:
    """Returns every target's probabilities (or values), under ``logits_TARGET`` what the heads gave, and readings."""
    found = task.features(task.normalise(images))
    logits = task.heads(found)
    answers = task.answers(logits)
    told = {**answers, **{f"logits_{name}": value for name, value in logits.items()}}
    return told | (readings(found, answers) if readings else {})


def _compare(theirs: dict[str, Tensor], ours: dict[str, Tensor], *, what: str) -> dict[str, float]:
    """Returns the largest absolute difference of each output; ``RunError`` beyond ``TOLERANCE``."""
    found = {name: float((theirs[name].float() - value.float()).abs().max()) for name, value in ours.items()}
    worst = max(found, key=lambda name: found[name])
    if not found[worst] <= TOLERANCE:  # NaN fails as well
        raise RunError(
            f"{what} differs from the run by {found[worst]:.2e} in {worst}, beyond {TOLERANCE:.0e}; not kept"
        )
    return found
