"""``vea export``: a model for others, checked against the run."""

from __future__ import annotations

import argparse
from pathlib import Path

from vea.errors import VeaError, did_you_mean
from vea.faces.detect import OWN
from vea.publish.face_onnx import export_face_net
from vea.publish.hub import export_hub
from vea.publish.onnx import export_onnx
from vea.publish.timm import export_encoder
from vea.publish.verify import check_images
from vea.tasks.saved import open_model

FORMATS = ("onnx", "hub", "timm", "pupil")


def main(argv: list[str]) -> None:
    """Runs ``vea export``."""
    parser = argparse.ArgumentParser(prog="vea export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", help="run folder, hub folder, the name of a model that ships (expression), or faces, "
                        "the network that finds them")  # fmt: skip
    parser.add_argument("--to", required=True, metavar="FORMAT", help=" | ".join(FORMATS))
    parser.add_argument("--out", required=True, type=Path, help="file (onnx, timm) or folder to write")
    parser.add_argument("--input", choices=("uint8", "float"), default="uint8", help="onnx: pixels 0..255 or 0..1")
    parser.add_argument("--images", nargs="+", type=Path, default=[], metavar="FILE", help="pictures to check with")
    parser.add_argument("--ema", action="store_true", help="the averaged weights instead of the last ones")
    given = parser.parse_args(argv)
    if given.to not in FORMATS:
        raise VeaError(f"--to: there is no format {given.to!r}{did_you_mean(given.to, FORMATS)}")
    if given.run == "faces":
        if given.to != "onnx":
            raise VeaError("faces: the network that finds faces is exported --to onnx")
        found, where, kept = export_face_net(OWN, given.out), "random images", ""
    elif given.to == "timm":
        line, found = export_encoder(Path(given.run), given.out, ema=given.ema)
        where, kept = "random images", f"\n{line}"
    elif given.to == "pupil":
        from vea.publish.pupil import export_pupil  # it needs transformers

        found, where, kept = {"logits": export_pupil(Path(given.run), given.out)}, "20 tokens", ""
    else:
        model = open_model(given.run, ema=given.ema)
        images, where = check_images(model, given.images)
        kept = ""
        if given.to == "hub":
            found = export_hub(model, given.out, images=images)
        else:
            found = export_onnx(model, given.out, images=images, input_type=given.input)
        where = f"{len(images)} images, {where}"
    print(f"largest difference to the run ({where}):")
    for name, value in found.items():
        print(f"  {name}: {value:.2e}")
    print(f"wrote {given.out}{kept}")
