"""``vea submit``: hand a run to SLURM with a copy of the code, the config and git's state, taken now.

    vea submit slurm/pretrain.sbatch configs/pretrain/emoset_vitb16.yaml train.steps=1000
    vea submit --nodes=1 --time=8:00:00 slurm/finetune.sbatch finetune/train.py CONFIG

Words before the script go to sbatch. The copy is RUN/code: what git tracks or would track. Every life of the job runs
it, so that edits in the working tree, while the job waits or between two of its lives, change nothing. A run that has
begun keeps the code that it began with. Paths of data and runs are those of the folder the command is given in.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import yaml

from vea.config import RunConfig, load_config
from vea.errors import RunError, VeaError
from vea.storage import atomic

SNAPSHOT = "snapshot.json"


def code_files(root: Path) -> list[str]:
    """Returns the files below ``root`` that git tracks or would track, that are there.

    Raises:
        VeaError: ``root`` is no git working tree.
    """
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(line, cwd=root, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VeaError(f"vea submit needs git to know which files are code: {error}") from None
    if answer.returncode:
        raise VeaError(f"{root} is no git working tree; submit from a clone of vea, or call sbatch yourself")
    return [name for name in answer.stdout.split("\0") if name and (root / name).is_file()]


def take_snapshot(config: RunConfig, *, root: Path, words: list[str], git: dict[str, str]) -> Path:
    """Returns RUN/code, written whole or not at all; the one of a run that has begun stays as it is."""
    run, code = config.run_dir.absolute(), config.run_dir.absolute() / "code"
    if (run / "metrics.jsonl").exists() or (run / "checkpoints").exists():
        if not (code / SNAPSHOT).is_file():
            raise VeaError(f"{run} has begun without a copy of its code; go on with sbatch, or choose another name")
        print(f"{run} has begun: it goes on with the code of its start, {code}")
        return code
    run.mkdir(parents=True, exist_ok=True)
    part = atomic.partial_name(code)
    try:
        for name in code_files(root):
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, part / name)
        written = datetime.now().astimezone().isoformat(timespec="seconds")
        record = {"format": 1, "submitted": written, "command": words, "git": git}
        (part / SNAPSHOT).write_text(json.dumps(record, indent=1), encoding="utf-8")
        (part / "config.yaml").write_text(
            yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
        )
        atomic.put_folder(part, code)
    except OSError as error:
        raise RunError(f"no copy of the code in {run}: {error.strerror or error}; nothing was submitted") from None
    finally:
        atomic.remove(part)
    return code


def main(argv: list[str]) -> int:
    """Takes the copy and calls sbatch; returns its exit code."""
    from vea.storage.provenance import git_state

    if argv and argv[0] in ("-h", "--help"):
        argparse.ArgumentParser(
            prog="vea submit", usage="vea submit [SBATCH OPTIONS] SCRIPT CONFIG [a.b=c ...]", description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        ).parse_args(argv)  # fmt: skip
    place = next((i for i, word in enumerate(argv) if word.endswith(".sbatch")), None)
    if place is None:
        raise VeaError("vea submit: name a batch script, e.g. vea submit slurm/pretrain.sbatch CONFIG [a.b=c ...]")
    options, script, arguments = argv[:place], Path(argv[place]), argv[place + 1 :]
    if script.name not in ("pretrain.sbatch", "finetune.sbatch") or not script.is_file():
        raise VeaError(
            f"vea submit: {script} is neither slurm/pretrain.sbatch nor finetune.sbatch; call sbatch yourself"
        )
    rest = arguments[1:] if script.name == "finetune.sbatch" else arguments
    if not rest or not rest[0].endswith(".yaml"):
        raise VeaError(f"vea submit: {script.name} needs a config (.yaml) among its arguments")
    if shutil.which("sbatch") is None:
        raise VeaError("vea submit: no sbatch here; run the recipe with python or torchrun instead")
    config = load_config(rest[0], rest[1:])
    code = take_snapshot(config, root=Path.cwd(), words=["vea", "submit", *argv], git=git_state())
    print(f"code: {code}", flush=True)
    line = ["sbatch", *options, str(code / script), *arguments]
    return subprocess.run(line, env={**os.environ, "VEA_CODE": str(code)}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
