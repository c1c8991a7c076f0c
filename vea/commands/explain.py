"""``vea explain FILE|FOLDER...``: what pictures evoke and why.

vea explain photo.jpg                       # five lines of evidence, each with its component; no language model
vea explain photo.jpg --like data/oasis     # one more: the rated photographs that the scene model sees as most alike
vea explain photo.jpg --persons FILE.onnx   # one more: people, by a detector of yours (vea enrich persons)
vea explain photo.jpg --respond             # two more: what a kind answer aims at, and one
vea explain photo.jpg --faces               # of every face what is seen, what it may mean, and what follows
vea explain photo.jpg --model runs/mine     # a sentence by a model of finetune/train.py
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vea.data.views.formats import passed_over
from vea.data.views.pictures import read_picture
from vea.errors import VeaError, command, did_you_mean
from vea.inference.files import find_files


@command
def main(argv: list[str]) -> int:
    """Prints a sentence per picture; exit 1 where one could not be read."""
    parser = argparse.ArgumentParser(prog="vea explain", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("paths", nargs="+", help="pictures or folders")
    parser.add_argument(
        "--model", help="run folder of finetune/train.py that writes a sentence; without it, lines of evidence"
    )
    parser.add_argument("--emotion", help="explain the pictures as this emotion; needs --model")
    parser.add_argument("--respond", action="store_true", help="add a goal and a response to the evidence")
    parser.add_argument("--faces", action="store_true", help="explain every face by its action units instead")
    parser.add_argument("--like", metavar="DIR", help="a prepared set of rated photographs (OASIS)")
    parser.add_argument("--persons", type=Path, metavar="FILE", help="weights of an ONNX detector of people")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(argv)
    if given.emotion and not given.model:
        raise VeaError("--emotion is what a model that writes is held to; give one with --model")
    if given.respond and given.model:
        raise VeaError("--respond adds to the lines of evidence, and --model writes a sentence; leave out one")
    if given.faces and (given.model or given.respond or given.like or given.persons):
        raise VeaError("--faces explains faces, the other options whole pictures; give --faces alone")
    if given.model and (given.like or given.persons):
        raise VeaError("--like and --persons add lines of evidence, and --model writes a sentence; leave out one")
    passed: Counter[str] = Counter()
    files = find_files(given.paths, passed=passed)
    if passed:
        print(passed_over(passed), file=sys.stderr)
    if given.faces:
        from vea.inference.face_reason import tell

        return tell(files, device=given.device, as_json=given.json)
    return _sentences(given, files) if given.model else _evidence(given, files)


def _evidence(given: argparse.Namespace, files: Sequence[Path | str]) -> int:
    from vea.inference.evidence import Chain

    chain, unreadable = Chain(device=given.device), 0
    if given.persons:
        from vea.enrich.persons import OnnxPersons

        chain.persons = OnnxPersons(given.persons)
    if given.like:
        from vea.inference.like import Like

        chain.like = Like(given.like, chain.scene)
    for path in files:
        try:
            lines = chain.explain(read_picture(path), respond=given.respond)
        except VeaError as error:
            print(f"skipped: {error}", file=sys.stderr)
            unreadable += 1
            continue
        if given.json:
            told = {"path": str(path), "lines": [line.record() for line in lines]}
            print(json.dumps(told, ensure_ascii=False), flush=True)
            continue
        print(f"{path}:")
        for line in lines:
            print(f"  {line.step:8} {line.text} [{line.component}]", flush=True)
    return 1 if unreadable else 0


def _sentences(given: argparse.Namespace, files: Sequence[Path | str]) -> int:
    from vea.inference.explain import explain, load_explainer

    task = load_explainer(given.model, device=given.device)
    if given.emotion and given.emotion not in task.emotions:
        near = did_you_mean(given.emotion, task.emotions)
        raise VeaError(f"--emotion: the model does not know {given.emotion!r}{near}")
    unreadable = 0
    for path in files:
        try:
            ((emotion, words),) = explain(task, [read_picture(path)], emotion=given.emotion)
        except VeaError as error:
            print(f"skipped: {error}", file=sys.stderr)
            unreadable += 1
            continue
        if given.json:
            line = {"path": str(path), "emotion": emotion, "explanation": words}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            print(f"{path}: {emotion} because {words}", flush=True)
    return 1 if unreadable else 0
