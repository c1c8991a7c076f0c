"""Why a face is read as it is: three parts of text from its action units and its recogniser, no language model.

    (found,) = vea.load().predict("photo.jpg")
    print(reason(found.faces[0]).text)

The form is that of ExpLLM (arXiv 2409.02828): key observations, interpretation, conclusion. Everything in it is read or
looked up: the strengths are words of one scale (``vea.taxonomy.action_units.level``), what a unit may mean is the table
of textbooks there, and the conclusion is the recogniser's. Units do not decide: by the table alone 31 % of FER2013's
test faces are named right (docs/results/face_readings.md). Where the two do not agree, the text says so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vea.errors import VeaError
from vea.inference.predict import load
from vea.inference.results import Face, Prediction
from vea.taxonomy.action_units import LEVELS, UNITS, level
from vea.taxonomy.words import canonical_expression

KEY = LEVELS[1][0]  # strength from which a unit is an observation: moderate
Agreement = Literal["agree", "disagree", "silent"]


@dataclass(frozen=True)
class Observation:
    """One unit: its name, its strength as a number and as a word, what is seen, and what it may mean."""

    unit: str
    value: float
    strength: str
    seen: str
    may_mean: tuple[str, ...]

    @property
    def text(self) -> str:
        """The observation as a sentence."""
        unit = UNITS[self.unit]
        means = f"may mean {_list(self.may_mean, 'or')}" if self.may_mean else "is of no one expression"
        return f"AU{unit.number} ({unit.words}: {unit.plain}) is {self.strength}, {self.value:.2f}; {means}."


@dataclass(frozen=True)
class Reason:
    """What a face shows and what follows.

    ``units`` says whether one of the observed units is named for the recogniser's expression ("agree"), all are named
    for others ("disagree"), or none is observed that is named for anything ("silent"). Neutral agrees with silence.
    """

    observations: tuple[Observation, ...]
    interpretation: str
    conclusion: str
    expression: str
    probability: float
    units: Agreement

    @property
    def text(self) -> str:
        """The three parts, a paragraph each."""
        seen = " ".join(one.text for one in self.observations) or "No action unit is moderate or strong."
        return (f"Key observations: {seen}\nInterpretation: {self.interpretation}\n"
                f"Conclusion: {self.conclusion}")  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {**asdict(self), "text": self.text}


def reason(face: Face | Prediction) -> Reason:
    """Returns the reason of a face that ``vea.load(...).predict`` read.

    Raises:
        ValueError: the model has no action units.
    """
    if not face.units:
        raise ValueError("the model reads no action units: take one that ships, or run finetune/units.py")
    expression = face.expression or ""
    share = face.probabilities.get(expression, 0.0)
    known = {name: value for name, value in face.units.items() if name in UNITS and value >= KEY}
    seen = tuple(
        Observation(name, round(value, 3), level(value), UNITS[name].plain, UNITS[name].means)
        for name, value in sorted(known.items(), key=lambda item: -item[1])
    )
    noun = canonical_expression(expression) or expression
    named = _named_for(seen)
    units: Agreement = "agree" if noun in named or (noun == "neutral" and not named) else (
        "disagree" if named else "silent")  # fmt: skip
    return Reason(
        seen, _interpretation(named), _conclusion(noun, share, named, units), expression, round(share, 4), units
    )


def _named_for(seen: tuple[Observation, ...]) -> dict[str, list[str]]:
    """Returns {expression: units observed that are named for it}, the one with most first."""
    found: dict[str, list[str]] = {}
    for one in seen:
        for name in one.may_mean:
            found.setdefault(name, []).append(f"AU{UNITS[one.unit].number}")
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _interpretation(named: Mapping[str, list[str]]) -> str:
    if not named:
        return "Nothing observed is named for an expression: by its units the face is at rest."
    parts = [f"{name} ({', '.join(units)})" for name, units in named.items()]
    return f"By textbook, what is observed fits {'; '.join(parts)}."


def _conclusion(noun: str, share: float, named: Mapping[str, list[str]], units: Agreement) -> str:
    said = f"The recogniser says {noun} ({share:.0%})"
    if units == "agree":
        mine = named.get(noun)
        return f"{said}; {'this fits ' + _list(mine, 'and') if mine else 'no unit speaks against it'}."
    if units == "silent":
        return f"{said}; no unit that is observed is named for it, so its reason is not in these units."
    others = _list(tuple(named)[:2], "or")
    return f"{said}; the units disagree: they would rather fit {others}. Take neither as sure."


def tell(files: Sequence[Path | str], *, device: str = "cpu", as_json: bool = False) -> int:
    """Prints the reason of every face of pictures (``vea explain --faces``); returns 1 where one cannot be read."""
    predictor, unreadable = load("expression", device=device), 0
    for path, found in zip(files, predictor.stream(files)):
        if isinstance(found, VeaError):
            print(f"skipped: {found}", file=sys.stderr)
            unreadable += 1
            continue
        told = [(face, reason(face)) for face in found.faces]
        if as_json:
            faces = [{"box": list(face.box), **why.record()} for face, why in told]
            print(json.dumps({"path": str(path), "faces": faces}, ensure_ascii=False), flush=True)
            continue
        print(f"{path}:" if told else f"{path}: no face found")
        for face, why in told:
            print(f"  face at {','.join(map(str, face.box))}", flush=True)
            print("\n".join(f"    {line}" for line in why.text.splitlines()), flush=True)
    return 1 if unreadable else 0


def _list(names: list[str] | tuple[str, ...], last: str) -> str:
    *most, end = names
    return f"{', '.join(most)} {last} {end}" if most else end
