"""The network that finds faces, exported, answers as torch does, at any size and number of pictures."""

from __future__ import annotations

import numpy as np
import pytest

from vea.commands.export import main
from vea.errors import VeaError
from vea.faces.detect import OWN
from vea.publish.verify import TOLERANCE

pytest.importorskip("onnxscript", reason="the extra export is not installed")


def test_the_shipped_detector_is_exported_to_a_tenth_of_a_thousandth(tmp_path, capsys):
    out = tmp_path / "faces.onnx"
    main(["faces", "--to", "onnx", "--out", str(out)])
    told = [float(line.split(":")[1]) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(told) == 2 and max(told) < TOLERANCE
    assert out.stat().st_size < 1e6

    import onnxruntime

    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    scores, places = session.run(None, {"images": np.zeros((3, 3, 32, 96), np.uint8)})
    assert scores.shape == (3, 4 * 12 + 2 * 6 + 3) and places.shape == (*scores.shape, 14)
    assert OWN.name == "faces"


def test_it_has_no_other_form(tmp_path):
    with pytest.raises(VeaError, match="--to onnx"):
        main(["faces", "--to", "timm", "--out", str(tmp_path / "x")])
