"""``report.html`` of an eval run: scores with their controls, reliability, pictures with answers, surest mistakes."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

from vea.data.views.pictures import read_image
from vea.storage.atomic import write_text

STYLE = "\n" + Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return html.escape(str(value))
    return str(value) if isinstance(value, int) else "–" if value != value else f"{value:.3f}"


def flat(scores: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Returns nested scores as {dotted name: number}, without intervals and lists."""
    found: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[prefix + name] = float(value)
    return found


def _classes(scores: dict[str, Any]) -> str:
    """Returns the table of classes and parsers of statements."""
    parsers = scores.get("parsers")
    if not parsers:
        return ""
    head = ["class", "n", *(f"{name} parser" for name in parsers), "95 % interval", "said correct", "gave up"]
    rows = []
    for name, held in parsers["conference"].items():
        low, high = scores["intervals"].get(name, (float("nan"),) * 2)
        accuracies = [_number(parsers[p].get(name, {}).get("accuracy", float("nan"))) for p in parsers]
        tail = [f"{low:.3f} to {high:.3f}", _number(held["positive_ratio"]), _number(held["give_up_ratio"])]
        rows.append([name, _number(held["total"]), *accuracies, *tail])
    return _table(head, rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{''.join(f'<th>{html.escape(h)}</th>' for h in head)}</tr>" + "".join(
        f"<tr>{row}</tr>" for row in cells
    ) + "</table>"  # fmt: skip


def _thumbnail(path: str | None) -> str:
    if path is None:
        return ""
    from PIL import Image

    try:
        image = Image.fromarray(read_image(Path(path)))
    except Exception:  # a picture that moved since spoils a card, not the page
        return ""
    image.thumbnail((320, 320))
    held = io.BytesIO()
    image.save(held, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}">'


def _card(row: dict[str, Any], readout: str) -> str:
    shares = row.get("probabilities") or {}
    said = max(shares, key=lambda name: shares[name]) if readout == "probability" and shares else row.get("text") or ""
    sure = f" (P {max(shares.values()):.2f})" if readout == "probability" and shares else ""
    mark = "right" if (row["points"].get(readout) or 0) >= 0.5 else "wrong"
    return (
        f'<div class="card">{_thumbnail(row["picture"])}<p>{html.escape(row["prompt"][:280])}</p>'
        f'<p class="{mark}">{html.escape(str(said)[:200])}{sure}</p>'
        f'<p class="small">truth: {html.escape(str(row["truth"]))}</p></div>'
    )


def _confidence(row: dict[str, Any]) -> float:
    return max((row.get("probabilities") or {"": 0.0}).values())


def _cards(rows: list[dict[str, Any]], readout: str) -> str:
    scored = [row for row in rows if row["points"].get(readout) is not None]
    wrong = sorted((r for r in scored if r["points"][readout] < 0.5), key=_confidence, reverse=True)[:6]
    right = [row for row in scored if row["points"][readout] >= 0.5][:6]
    parts = [("The surest mistakes", wrong), ("Right answers", right)]
    return "".join(
        f"<h3>{title}</h3><div class='cards'>{''.join(_card(row, readout) for row in chosen)}</div>"
        for title, chosen in parts if chosen
    )  # fmt: skip


def _reliability(rows: list[dict[str, Any]]) -> str:
    """Returns the reliability plot of P(choice) as SVG: bars of accuracy by confidence."""
    pairs = [(_confidence(row), row["points"].get("probability")) for row in rows if row.get("probabilities")]
    pairs = [(c, p) for c, p in pairs if p is not None]
    if not pairs:
        return ""
    bars = []
    for number in range(10):
        inside = [p for c, p in pairs if number / 10 <= c < (number + 1) / 10 or (number == 9 and c == 1)]
        if inside:
            height = 200 * sum(inside) / len(inside)
            shape = f'x="{30 + 20 * number}" y="{210 - height:.1f}" width="18" height="{height:.1f}" fill="#4477aa"'
            bars.append(f"<rect {shape}><title>{len(inside)} answers</title></rect>")
    return (
        '<svg width="250" height="240" role="img" aria-label="Reliability: accuracy by confidence">'
        '<line x1="30" y1="210" x2="230" y2="10" stroke="#999" stroke-dasharray="4"/>'
        f'{"".join(bars)}<line x1="30" y1="210" x2="230" y2="210" stroke="#333"/>'
        '<text x="70" y="232" font-size="12">confidence 0 to 1</text></svg>'
    )


def _section(record: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    cost = record["cost"]
    parts = [
        f"<h2>{html.escape(record['task'])}: {html.escape(record['model'])}</h2>",
        f"<p class='small'>{record['questions']} questions, split {html.escape(record['split'])}; asked now "
        f"{cost['asked']}, kept {cost['kept']}, failed {cost['failed']}; {cost['seconds']:.1f} s, {cost['tokens']} "
        f"tokens, {cost['pictures']} pictures.</p>",
    ]
    for readout, scores in record["scores"].items():
        parts.append(f"<h3>Read-out: {readout}</h3>{_classes(scores)}")
        shown = {k: v for k, v in flat(scores).items() if not k.startswith("parsers.")}
        parts.append(_table(["measure", "value"], [[name, _number(value)] for name, value in shown.items()]))
        if readout == "probability":
            parts.append(_reliability(rows))
        parts.append(_cards(rows, readout))
    if record["context"]:
        lines = [[name, _number(value)] for name, value in flat(record["context"]).items()]
        parts.append("<h3>To be read beside it</h3>" + _table(["", "value"], lines))
    for note in record["notes"]:
        parts.append(f"<p class='small'>{html.escape(note)}</p>")
    if record["troubles"]:
        parts.append(f"<p class='small'>Retries: {html.escape(json.dumps(record['troubles']))}</p>")
    return "".join(parts)


def write_report(folder: Path) -> Path:
    """Writes ``report.html`` over the records of an eval folder; it asks no server and needs no other file."""
    sections = []
    for path in sorted(folder.glob("eval_*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        judged = folder / f"judged_{record['task']}.jsonl"
        rows = [json.loads(line) for line in judged.read_text(encoding="utf-8").splitlines()] if judged.exists() else []
        sections.append(_section(record, rows))
    page = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>vea eval: {html.escape(folder.name)}</title>"
        f"<style>{STYLE}</style><h1>How well does it read emotion?</h1>{''.join(sections)}</html>"
    )
    target = folder / "report.html"
    write_text(target, page)
    return target
