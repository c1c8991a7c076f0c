"""What is read of a face beside the labels that its model learned: action units, intensities, valence and arousal.

    model = open_model("expression")
    readings = Readings.of(model)
    found = model.task.features(model.task.normalise(images))                 # (N, F), computed once
    readings(found, model.task.answers(model.task.heads(found)))["units"]     # (N, U)

Units and intensities come from files beside the model (``units.safetensors``: finetune/units.py,
``intensity.safetensors``: benchmarks/intensity.py --out), valence, arousal and dominance from its answer over
expressions by a table (``vea.inference.intensity.affect``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vea.data.views.decode import say_once
from vea.inference.intensity import Intensity, affect
from vea.models.units import UnitHead
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import SavedModel
from vea.taxonomy.words import canonical_expression

if TYPE_CHECKING:
    from vea.inference.results import Face, Prediction

UNITS_FILE, INTENSITY_FILE = "units.safetensors", "intensity.safetensors"
AFFECT = ("valence", "arousal", "dominance")  # -1 to 1
SAME = 1e-2  # relative difference of the probe up to which it is the network that a file was made for


class Readings(nn.Module):
    """Called with features (N, F) and the task's answers, returns {"units", "intensity", "affect"}: (N, K) each.

    Only those that there are; ``names`` says what the columns are.

    Args:
        units: the head, None for none.
        intensity: the directions, None for none.
        shares: the label whose shares give valence and arousal, and its classes; None for none.
    """

    def __init__(
        self,
        *,
        units: UnitHead | None = None,
        intensity: Intensity | None = None,
        shares: tuple[str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__()
        self.units, self._shares = units, shares
        self._directions = intensity is not None
        self.names: dict[str, tuple[str, ...]] = {}
        if units is not None:
            self.names["units"] = units.units
        if intensity is not None:
            self.names["intensity"] = intensity.classes
            for name in ("neutral", "directions", "low", "high"):
                self.register_buffer(name, getattr(intensity, name))
        if shares is not None:
            self.names["affect"] = AFFECT

    def forward(self, found: Tensor, answers: dict[str, Tensor]) -> dict[str, Tensor]:
        told: dict[str, Tensor] = {}
        if self.units is not None:
            told["units"] = self.units(found[:, : len(self.units.mean)])
        if self._directions:
            parts = {name: getattr(self, name) for name in ("neutral", "directions", "low", "high")}
            first = found[:, : parts["neutral"].shape[0]].float()  # of models that were joined: the first one's
            told["intensity"] = Intensity(self.names["intensity"], **parts)(first)
        if self._shares is not None:
            label, classes = self._shares
            told["affect"] = affect(answers[label].float(), classes=classes)
        return told

    @classmethod
    def of(cls, model: SavedModel) -> Readings:
        """Returns what can be read of a model's faces; of a model of whole pictures nothing.

        A file that was made for another network is left out with a warning.

        Raises:
            VeaError: a file is damaged.
        """
        if not model.reads_faces:
            return cls()
        units = intensity = None
        if (path := model.folder / UNITS_FILE).is_file():
            head = UnitHead.read(path)
            units = head if _fits(model.task, torch.tensor(head.described.get("probe", [])), path) else None
        if (path := model.folder / INTENSITY_FILE).is_file():
            read = Intensity.read(path)
            intensity = read if _fits(model.task, read.probe, path) else None
        return cls(units=units, intensity=intensity, shares=_shares(model.task)).eval()


POSE = ("yaw", "pitch", "roll")  # degrees


def columns(readings: Readings, *, landmarks: bool = False) -> list[str]:
    """Returns the names of ``flat``'s entries: of affect, intensities, units, and of the pose where it is asked for."""
    names = [f"face_{name}" for name in readings.names.get("affect", ())]
    names += [f"intensity_{name}" for name in readings.names.get("intensity", ())]
    return [*names, *readings.names.get("units", ()), *(POSE if landmarks else ())]


def flat(face: Face | Prediction) -> dict[str, float]:
    """Returns what was read of a face under the names of ``columns``."""
    told = {f"face_{name}": value for name, value in face.affect.items()}
    told |= {f"intensity_{name}": value for name, value in face.intensity.items()}
    marks = getattr(face, "landmarks", None)
    return {**told, **face.units, **({name: getattr(marks, name) for name in POSE} if marks else {})}


def _shares(task: RecogniseTask) -> tuple[str, tuple[str, ...]] | None:
    """Returns the label of expressions, rather votes than one class, with its classes."""
    known = [
        (name, field.classes)
        for kind in ("distribution", "class")
        for name, field in task.fields.items()
        if field.kind == kind and all(canonical_expression(word) for word in field.classes)
    ]
    return known[0] if known else None


@torch.inference_mode()
def probe(task: RecogniseTask) -> Tensor:
    """Returns the features (F,) of a fixed picture, by which a file beside a model knows its network."""
    side = task.config.augment.image_size
    ramp = torch.linspace(0, 255, side).round().to(torch.uint8)
    picture = torch.minimum(ramp[:, None], ramp.flip(0)[None]).expand(1, 1, side, side)
    return task.features(task.normalise(picture)).float()[0]


def _fits(task: RecogniseTask, known: Tensor, path: Path) -> bool:
    found = probe(task)[: len(known)]  # of models that were joined: the first one's
    if known.shape == found.shape and bool((found - known).norm() <= SAME * known.norm()):
        return True
    say_once(f"{path} was made for another network than the one beside it and is left out; make it again")
    return False
