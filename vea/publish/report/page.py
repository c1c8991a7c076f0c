"""A run folder as one HTML page: curves, pictures, evaluations and the config, with nothing fetched from anywhere.

Pictures are in the page as base64, and a content security policy forbids every request, so the file can be mailed or
archived and shows the same in ten years.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vea.config import read_yaml
from vea.data.shards.index import read_index
from vea.errors import VeaError
from vea.publish.report.evaluation import _evaluation_section
from vea.publish.report.html import _is_local, _number, _text
from vea.publish.report.plots import _figure, _names, _plot, caption_of, group_names
from vea.storage.atomic import write_text
from vea.storage.checkpoint import list_checkpoints

_CSS = "\n" + Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON file; {} where there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise VeaError(f"{path} cannot be read ({error}); remove it or write it again") from None
    if not isinstance(found, dict):
        raise VeaError(f"{path} must hold a mapping, it holds a {type(found).__name__}; remove it or write it again")
    return found


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the records of ``metrics.jsonl`` in order of their step.

    Raises:
        VeaError: no such file.
    """
    if not path.is_file():
        raise VeaError(f"no {path.name} in {path.parent}; give the folder of a run that has started training")
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a running or killed run may be cut
            continue
        if isinstance(record, dict) and "kind" in record and isinstance(record.get("step"), int):
            records.append(record)
    return sorted(records, key=lambda record: record["step"])


def _weights_state(run_dir: Path) -> dict[str, Any]:
    """Returns the metadata saved with the run's weights (final, else best, else the newest checkpoint), or {}."""
    for folder in (run_dir / "final", run_dir / "best", *(found.path for found in list_checkpoints(run_dir)[::-1])):
        if (folder / "state.json").is_file():
            return _read_json(folder / "state.json")
    return {}


def _synthetic_sets(config: dict[str, Any], evaluations: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the names of the generated data sets among those trained, validated or evaluated on."""
    data = config.get("data") or {}
    paths = [ref["path"] for part in ("train", "val") for ref in data.get(part) or []]
    names = {}
    for path in dict.fromkeys(paths):
        if _is_local(path) and (Path(path) / "index.json").is_file():
            index = read_index(path)
            if index.synthetic:
                names[path] = index.title
    for record in evaluations:
        if record.get("synthetic") and not any(path in names for path in record.get("data", [])):
            names |= {path: path for path in record.get("data", [])}
    return list(dict.fromkeys(names.values()))


def _header(run_dir: Path, config: dict[str, Any], weights: dict[str, Any], synthetic: Sequence[str]) -> str:
    state = _read_json(run_dir / "state.json")
    best = state.get("best") or weights.get("best")
    git = weights.get("git") or {}
    commit = git.get("commit", "") + (" (with uncommitted changes)" if git.get("changed_files") else "")
    versions = ", ".join(f"{name} {version}" for name, version in (weights.get("versions") or {}).items())
    facts = {
        "recipe": config.get("recipe", ""),
        "state": state.get("state", "unknown"),
        "step": f"{state.get('step', '?')} of {state.get('steps', '?')}",
        "best": f"{best['metric']} {_number(best['value'])} at step {best['step']}" if best else "",
        "teacher": (weights.get("task") or {}).get("teacher") or "",
        "git commit": commit,
        "versions": versions,
        "notes": config.get("notes", ""),
        "folder": str(run_dir),
    }
    lines = [f"<h1>{_text(str(config.get('name', run_dir.name)))}</h1>"]
    if synthetic:
        named = _text(", ".join(synthetic))
        lines.append(
            f'<p class="banner">Synthetic data: {named}. These numbers show that the code runs; '
            "they say nothing about real pictures.</p>"
        )
    shown = "".join(f"<dt>{name}</dt><dd>{_text(str(fact))}</dd>" for name, fact in facts.items() if fact)
    lines.append(f"<dl>{shown}</dl>")
    return "\n".join(lines)


def _curves(records: Sequence[dict[str, Any]]) -> str:
    by_kind = {kind: [record for record in records if record["kind"] == kind] for kind in ("train", "val")}
    groups = group_names(_names(by_kind["train"]), _names(by_kind["val"]))
    if not groups:
        return '<h2>Curves</h2><p class="dim">Nothing was logged yet.</p>'
    figures = [
        _figure(
            _plot(by_kind[kind], names, title=title, percent=names == ["data_wait"]),
            caption="",
            alt=f"{title}: {', '.join(names)} over the step",
        )
        for title, (kind, names) in groups.items()
    ]
    return f'<h2>Curves</h2><div class="grid">{"".join(figures)}</div>'


def _pictures(run_dir: Path) -> str:
    paths = [path for path in sorted((run_dir / "pictures").glob("*.png")) if not path.name.startswith(".")]
    if not paths:
        return ""
    figures = "".join(_figure(path.read_bytes(), caption=caption_of(path.stem)) for path in paths)
    return f'<h2>Pictures</h2><div class="grid">{figures}</div>'


def write_report(run_dir: str | Path) -> Path:
    """Returns the path of ``report.html``, written into the run folder; a running run's page shows what it has so far.

    Raises:
        VeaError: no such folder, it holds no run, or a file in it cannot be read.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise VeaError(f"no run folder at {run_dir}; give the folder that a recipe wrote (runs/NAME)")
    records = read_metrics(run_dir / "metrics.jsonl")
    config_path = run_dir / "config.yaml"
    config = read_yaml(config_path)
    evaluations = {path: _read_json(path) for path in sorted(run_dir.glob("evaluation_*.json"))}
    resolved = config_path.read_text(encoding="utf-8")
    synthetic = _synthetic_sets(config, evaluations.values())
    sections = [
        _header(run_dir, config, _weights_state(run_dir), synthetic),
        *(_evaluation_section(path, record) for path, record in evaluations.items()),
        _pictures(run_dir),
        _curves(records),
        f"<details><summary>Resolved config</summary><pre>{_text(resolved)}</pre></details>",
        f'<p class="dim">Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.</p>',
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(str(config.get('name', run_dir.name)))}</title>\n<style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body></html>\n"
    )
    path = run_dir / "report.html"
    write_text(path, page)
    return path
