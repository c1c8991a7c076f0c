"""``vea explain``: which emotion pictures evoke and why."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter

from vea.data.views.formats import passed_over
from vea.data.views.pictures import read_image
from vea.errors import VeaError, command, did_you_mean
from vea.inference.explain import explain, load_explainer
from vea.inference.files import find_files


@command
def main(argv: list[str]) -> int:
    """Prints a sentence per picture; exit 1 where one could not be read."""
    parser = argparse.ArgumentParser(prog="vea explain", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("paths", nargs="+", help="pictures or folders")
    parser.add_argument("--model", required=True, help="run folder of finetune/train.py")
    parser.add_argument("--emotion", help="explain the pictures as this emotion")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(argv)
    passed: Counter[str] = Counter()
    files = find_files(given.paths, passed=passed)
    if passed:
        print(passed_over(passed), file=sys.stderr)
    task = load_explainer(given.model, device=given.device)
    if given.emotion and given.emotion not in task.emotions:
        near = did_you_mean(given.emotion, task.emotions)
        raise VeaError(f"--emotion: the model does not know {given.emotion!r}{near}")
    unreadable = 0
    for path in files:
        try:
            ((emotion, words),) = explain(task, [read_image(path)], emotion=given.emotion)
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
