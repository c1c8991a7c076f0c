"""Write what ``vea predict`` and ``vea explain`` say of photographs of people and of paintings, as text.

    VEA_DATA=DIR python benchmarks/gallery.py --out docs/gallery.md

25 photographs (people_samples) and every n-th painting of wikiart_pd_224, chosen before any was looked at. No picture
is copied. What stands above the line "## Photographs" of the page is kept: it is written by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from vea.commands.predict import scene_line
from vea.data.views.pictures import read_image
from vea.errors import VeaError, command
from vea.inference.evidence import Chain

FIRST = "## Photographs\n"


def said(chain: Chain, path: Path, title: str) -> str:
    """Returns one picture's part of the page."""
    image = read_image(path)
    (found,) = chain.faces.predict(image)
    predicted = [scene_line(chain.scene.look(image))]
    predicted += [f"{face.expression} {max(face.probabilities.values()):.0%} at {','.join(map(str, face.box))}"
                  for face in found.faces[:3]]  # fmt: skip
    lines = [f"{line.step:8} {line.text} [{line.component}]" for line in chain.explain(image)]
    return "\n".join([f"### {title}", "", "```", *predicted, "", *lines, "```", ""])


@command
def main(argv: list[str]) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/gallery.md"))
    parser.add_argument("--paintings", type=int, default=20)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    raw = os.environ.get("VEA_DATA")
    if not raw:
        raise VeaError("set VEA_DATA to the folder of the raw data: people_samples and wikiart_pd_224 are read")
    chain, art, people = Chain(), Path(raw) / "wikiart_pd_224", Path(raw) / "people_samples" / "images"
    rows = [json.loads(line) for line in (art / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = sorted(rows, key=lambda row: row["file"])[:: len(rows) // given.paintings][: given.paintings]
    above = given.out.read_text(encoding="utf-8").partition(FIRST)[0] if given.out.exists() else "# Gallery\n\n"
    parts = [above + FIRST, *(said(chain, path, path.name) for path in sorted(people.iterdir())), "## Paintings\n"]
    parts += [said(chain, art / "images" / row["file"], f"{row['artist']}: {row['title']} ({row['style']})")
              for row in rows]  # fmt: skip
    given.out.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
