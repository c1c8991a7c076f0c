"""A run folder as one HTML page: curves, pictures, evaluations and the config, with nothing fetched from anywhere.

Pictures are in the page as base64, and a content security policy forbids every request, so the file can be mailed or
archived and shows the same in ten years.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vea.config import read_yaml
from vea.data.shards import ShardReader, read_index
from vea.errors import VeaError
from vea.training.checkpoint import list_checkpoints, write_text

WORST_ERRORS = 12
EXPLAINED = 6  # pictures with the right emotion, and as many with a wrong one
THUMBNAIL_SIDE = 160
INK = "#808488"  # readable on the white and on the dark page, which share one set of plots

_CAPTIONS = {
    "reconstruction": "Reconstruction: image | masked | reconstruction, one sample a row",
    "similarity_student": "Similarity matrix A (student): the samples of one batch against each other",
    "similarity_teacher": "Similarity matrix C (teacher): the same samples, the same colour scale as A",
}
_SPEED = ("images_per_s", "data_wait", "grad_norm", "lr", "memory_gb")
_BOOKKEEPING = {"kind", "step", "samples", "time", "elapsed_s", "eta_s"}
_HEADLINE = ("accuracy", "accuracy_top3", "balanced_accuracy", "macro_f1")
_TITLES = {
    "images_per_s": "Throughput: images per second",
    "data_wait": "Share of time waiting for data",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "memory_gb": "GPU memory (GB)",
}

_CSS = """
:root { color-scheme: light dark; --page: #fff; --text: #1c2024; --dim: #5c646c; --line: #d9dde1; --card: #f5f6f8;
  --mark: 37 99 235; --warn: #8a4b00; --warn-page: #fff3dc; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --text: #e4e7ea; --dim: #9aa3ab; --line: #343a41;
  --card: #1d2126; --mark: 96 150 250; --warn: #ffcf85; --warn-page: #3a2b10; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
.dim { color: var(--dim); }
.banner { margin: 1rem 0; padding: .75rem 1rem; border-left: 4px solid currentColor; border-radius: 4px;
  color: var(--warn); background: var(--warn-page); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: 1rem 0; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 1rem; }
.errors { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
figure { margin: 0; padding: .75rem; background: var(--card); border-radius: 8px; }
figure img { display: block; max-width: 100%; margin: 0 auto; }
.errors img { width: 100%; height: 140px; object-fit: contain; }
.none { height: 140px; display: grid; place-items: center; color: var(--dim); border: 1px dashed var(--line); }
figcaption { margin-top: .5rem; font-size: .85rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child { text-align: left; } th { font-weight: 600; } caption { text-align: left; color: var(--dim); }
.confusion td { text-align: center; min-width: 3.2rem; border: 1px solid var(--page); }
.confusion .right { outline: 2px solid rgb(var(--mark)); outline-offset: -2px; }
pre { padding: 1rem; background: var(--card); border-radius: 8px; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; margin-top: 2.5rem; font-weight: 600; }
"""

_text = html.escape


# ---------------------------------------------------------------------------------------------------------- reading


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


def _is_local(path: str) -> bool:
    return "://" not in path  # a report asks no server, so sets behind a URL are named and not opened


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


# ----------------------------------------------------------------------------------------------------------- curves


def _series(records: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = [(r["step"], r[name]) for r in records if isinstance(r.get(name), (int, float))]
    return [step for step, _ in points], [float(value) for _, value in points]


def _names(records: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the numbers that ``records`` have, in the order of their first appearance."""
    seen: dict[str, None] = {}
    for record in records:
        seen |= {name: None for name, value in record.items() if isinstance(value, (int, float))}
    return [name for name in seen if name not in _BOOKKEEPING]


def _is_loss(name: str) -> bool:
    return "loss" in name or name.rpartition("/")[2] == "nll"


def group_names(train: Sequence[str], val: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Returns the plots to draw: title -> ("train" or "val", names that share the plot)."""
    groups: dict[str, tuple[str, list[str]]] = {}

    def add(title: str, kind: str, name: str) -> None:
        groups.setdefault(title, (kind, []))[1].append(name)

    for name in train:
        if _is_loss(name):
            add("Training loss and its parts", "train", name)
    for name in _SPEED:
        if name in train:
            add(_TITLES[name], "train", name)
    for name in train:
        if not _is_loss(name) and name not in _SPEED:
            add(f"Training: {name}", "train", name)
    for name in val:
        parent, _, last = name.rpartition("/")
        if _is_loss(name):
            add("Validation losses", "val", name)
        elif last in _HEADLINE:
            add(f"Validation: {parent or 'metrics'}", "val", name)
        elif parent.rpartition("/")[2] == "recall":
            add(f"Validation: {parent}", "val", name)
        else:
            add(f"Validation: {name}", "val", name)
    return groups


def _plot(records: Sequence[dict[str, Any]], names: Sequence[str], *, title: str, percent: bool) -> bytes:
    """Returns a transparent PNG of the series ``names`` over the step."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: no display, no global state
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(5.6, 3.1), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    colours = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
    for index, name in enumerate(names):
        steps, values = _series(records, name)
        marker = "o" if len(steps) <= 30 else None  # a single point has no line
        axes.plot(steps, values, label=name, linewidth=1.4, marker=marker, markersize=3, color=colours(index % 20))
    axes.set_title(title, color=INK, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel("step", color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=INK, alpha=0.25, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if len(names) > 1:
        axes.legend(fontsize=7, frameon=False, labelcolor=INK, ncols=1 if len(names) <= 8 else 2)
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()


# ------------------------------------------------------------------------------------------------------------- HTML


def _image(data: bytes, *, alt: str, kind: str = "png") -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{_text(alt)}">'


def _figure(data: bytes, *, caption: str, alt: str | None = None) -> str:
    shown = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f"<figure>{_image(data, alt=alt or caption)}{shown}</figure>"


def caption_of(stem: str) -> str:
    """Returns the words below a picture, from its file name without ``.png``."""
    words = stem.replace("_", " ").replace("-", " ").strip()
    return _CAPTIONS.get(stem, words[:1].upper() + words[1:])


def _number(value: Any) -> str:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _interval(bounds: Any) -> str:
    if not isinstance(bounds, list) or not all(isinstance(b, (int, float)) and math.isfinite(b) for b in bounds):
        return "–"
    return " – ".join(f"{bound:.4f}" for bound in bounds)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"]
    for first, *rest in rows:
        lines.append(f"<tr><th>{_text(first)}</th>" + "".join(f"<td>{_text(cell)}</td>" for cell in rest) + "</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


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


# ------------------------------------------------------------------------------------------------------- evaluations


def worst_errors(table: dict[str, list], keys: Sequence[str], *, count: int = WORST_ERRORS) -> list[dict[str, Any]]:
    """Returns the wrong predictions with the highest confidence, surest first; samples without a label are left out."""
    rows = zip(keys, table["target"], table["prediction"], table["confidence"])
    wrong = [
        {"key": key, "target": target, "prediction": prediction, "confidence": confidence}
        for key, target, prediction, confidence in rows
        if target >= 0 and target != prediction
    ]
    return sorted(wrong, key=lambda row: (-row["confidence"], row["key"]))[:count]


def read_thumbnails(data: Sequence[str], split: str, keys: Iterable[str]) -> dict[str, bytes]:
    """Returns small JPEGs by key, read from the prepared sets at ``data``; keys that cannot be found are left out.

    A key that several of the sets have is left out too: the evaluation does not say which of them was meant.
    """
    wanted = set(keys)
    found: dict[str, list[bytes]] = {}
    for path in data if wanted else ():
        if not _is_local(path) or not (Path(path) / "index.json").is_file():
            continue
        try:
            reader = ShardReader(path, split)
            here: set[str] = set()
            for index in range(len(reader)):
                key, image, _ = reader.read(index)
                if key in wanted:
                    found.setdefault(key, []).append(image)
                    here.add(key)
                    if here == wanted:
                        break
        except VeaError:  # the set was changed or moved since: the numbers stand without its pictures
            continue
    thumbnails = {key: _thumbnail(images[0]) for key, images in found.items() if len(images) == 1}
    return {key: picture for key, picture in thumbnails.items() if picture is not None}


def _thumbnail(data: bytes) -> bytes | None:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data)) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
        small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        stream = io.BytesIO()
        small.save(stream, "JPEG", quality=85)
        return stream.getvalue()
    except Exception:  # PIL's decoders raise almost anything on damaged files
        return None


def _confusion(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Returns the matrix as a table, cells coloured by their share of the row; CSS has glyphs for any script."""
    head = "".join(f"<th>{_text(name)}</th>" for name in classes)
    lines = [f"<caption>rows: truth, columns: prediction</caption><tr><th></th>{head}</tr>"]
    for row, (name, counts) in enumerate(zip(classes, confusion)):
        total = max(1, sum(counts))
        cells = "".join(
            f'<td{" class=right" if column == row else ""} style="background: rgb(var(--mark) / {0.7 * n / total:.3f})"'
            f' title="{_text(name)} taken for {_text(classes[column])}: {n / total:.1%}">{n}</td>'
            for column, n in enumerate(counts)
        )
        lines.append(f"<tr><th>{_text(name)}</th>{cells}</tr>")
    return f'<div class="scroll"><table class="confusion">{"".join(lines)}</table></div>'


def _errors(rows: Sequence[dict[str, Any]], classes: Sequence[str], thumbnails: dict[str, bytes]) -> str:
    if not rows:
        return '<p class="dim">No prediction was wrong.</p>'
    figures = []
    for row in rows:
        truth, said = classes[row["target"]], classes[row["prediction"]]
        data = thumbnails.get(row["key"])
        picture = _image(data, alt=row["key"], kind="jpeg") if data else '<div class="none">picture not found</div>'
        figures.append(
            f"<figure>{picture}<figcaption><b>{_text(said)}</b> ({row['confidence']:.1%}), is <b>{_text(truth)}</b>"
            f'<br><span class="dim">{_text(row["key"])}</span></figcaption></figure>'
        )
    return f'<div class="grid errors">{"".join(figures)}</div>'


def _good_and_bad(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns pictures whose emotion was named and pictures where it was not, each spread over the whole split."""
    chosen = []
    for right in (True, False):
        these = [row for row in rows if row["text"].startswith(row["emotion"]) == right]
        step = max(1, len(these) // EXPLAINED)
        chosen += these[::step][:EXPLAINED]
    return chosen


def _explanations(rows: Sequence[dict[str, Any]], thumbnails: dict[str, bytes]) -> str:
    figures = []
    for row in rows:
        data = thumbnails.get(row["key"])
        picture = _image(data, alt=row["key"], kind="jpeg") if data else '<div class="none">picture not found</div>'
        told = [f"people: {row['emotion']}: {(row['references'] or [''])[0]}"]
        if row.get("swapped"):
            told.append(f"before another picture: {row['swapped']}")
        dim = "".join(f'<br><span class="dim">{_text(line)}</span>' for line in told)
        figures.append(f"<figure>{picture}<figcaption><b>{_text(row['text'])}</b>{dim}</figcaption></figure>")
    return f'<div class="grid errors">{"".join(figures)}</div>'


def _evaluation(record: dict[str, Any]) -> str:
    predictions, targets = record["predictions"], record["targets"]
    worst = {
        name: worst_errors(predictions[name], predictions["keys"])
        for name, result in targets.items()
        if name in predictions and result.get("classes")
    }
    sentences = {name: rows for name, rows in predictions.items() if name in targets and isinstance(rows, list)}
    written = {name: _good_and_bad(rows) for name, rows in sentences.items()}
    wanted = {row["key"] for rows in [*worst.values(), *written.values()] for row in rows}
    thumbnails = read_thumbnails(record["data"], record["split"], wanted)
    weights = record.get("weights") or {}
    about = f"{', '.join(record['data'])}; weights: {weights.get('kind', '?')} of step {weights.get('step', '?')}"
    note = " (synthetic data)" if record.get("synthetic") else ""
    lines = [f"<h2>Evaluation on {_text(record['split'])}{note}</h2>", f'<p class="dim">{_text(about)}</p>']
    for target, result in targets.items():
        metrics, intervals, classes = result["metrics"], result["intervals"], result.get("classes")
        lines.append(f"<h3>{_text(target)}: {result['samples']} samples</h3>")
        lines.append(
            _table(
                ("metric", "value", "95 % interval"),
                (
                    (name, _number(value), _interval(intervals.get(name)))
                    for name, value in metrics.items()
                    if not name.startswith("recall/")
                ),
            )
        )
        if target in written:
            lines.append(f"<h3>{_text(target)}: the right emotion, then a wrong one</h3>")
            lines.append(_explanations(written[target], thumbnails))
        if not classes:  # values, label sets and words have neither recall nor confusion
            continue
        lines.append(f"<h3>{_text(target)}: recall of each class</h3>")
        lines.append(
            _table(
                ("class", "samples", "recall", "95 % interval"),
                (
                    (name, str(n), _number(metrics.get(f"recall/{name}")), _interval(intervals.get(f"recall/{name}")))
                    for name, n in zip(classes, result["samples_per_class"])
                ),
            )
        )
        lines.append(f"<h3>{_text(target)}: confusion matrix</h3>{_confusion(classes, result['confusion'])}")
        if target in worst:
            lines.append(f"<h3>{_text(target)}: the surest of the wrong predictions</h3>")
            lines.append(_errors(worst[target], classes, thumbnails))
    return "\n".join(lines)


def _evaluation_section(path: Path, record: dict[str, Any]) -> str:
    try:
        return _evaluation(record)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise VeaError(
            f"{path} is not what finetune/evaluate.py writes ({type(error).__name__}: {error}); evaluate again "
            "or remove it"
        ) from None


# ------------------------------------------------------------------------------------------------------------- page


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
