"""Evaluations in a report: tables, confusions, mistakes with their pictures."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vea.data.shards.reader import ShardReader
from vea.errors import VeaError
from vea.publish.report.html import _interval, _is_local, _number, _table, _text
from vea.publish.report.plots import _image

WORST_ERRORS = 12
EXPLAINED = 6  # pictures with the right emotion, and as many with a wrong one
THUMBNAIL_SIDE = 160


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
