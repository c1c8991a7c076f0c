"""Export an encoder for timm."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from torch import nn

from vea.config import EncoderConfig
from vea.errors import VeaError
from vea.models.vit import build_encoder
from vea.models.weights import export_timm, load_encoder
from vea.publish.verify import _compare
from vea.storage import atomic
from vea.storage.checkpoint import load_weights
from vea.tasks.saved import open_model


def export_encoder(run: Path, out: Path, *, ema: bool = False) -> tuple[str, dict[str, float]]:
    """Returns (a line of Python that loads it, {"features": largest difference}); writes safetensors for timm.

    ``out`` is a ``.safetensors`` file, or a folder that ``timm.create_model("local-dir:OUT", pretrained=True)`` reads
    (model.safetensors and config.json).

    Raises:
        VeaError: ``out`` exists, or the run has no encoder of timm.
        RunError: timm's features differ from the run's; nothing is left.
    """
    if out.exists():
        raise VeaError(f"--out: {out} exists; give another name or remove it")
    weights, state = load_weights(run, ema=ema)
    described = state.get("task", state)
    file = out if out.suffix == ".safetensors" else out / "model.safetensors"
    try:
        line = export_timm(run, file, ema=ema)
        form = described.get("encoder") or state["config"]["model"]["encoder"]
        size, channels = described["image_size"], described.get("channels", 3)
        args = {**form["args"], **({"img_size": size} if form["name"].startswith("vit_") else {})}
        if file is out:
            theirs = timm.create_model(form["name"], **args, in_chans=channels, num_classes=0, checkpoint_path=str(out))
        else:
            pixels = {"input_size": [channels, size, size], "interpolation": "bicubic", "crop_pct": 1.0,
                      "num_classes": 0, "mean": described["mean"], "std": described["std"]}  # fmt: skip
            record = {"architecture": form["name"], "num_classes": 0, "model_args": args, "pretrained_cfg": pixels}
            (out / "config.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            line = f"timm.create_model('local-dir:{out}', pretrained=True)"
            theirs = timm.create_model(f"local-dir:{out}", pretrained=True)
        if "classes" in described:  # a fine-tuned run
            ours: nn.Module = open_model(run, ema=ema).task.encoder
        else:
            ours = build_encoder(
                EncoderConfig(name=form["name"], args=form["args"]), image_size=size, channels=channels
            )
            load_encoder(ours, weights, where=str(run))
        images = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            features = [network.eval().forward_features(images) for network in (theirs, ours)]  # type: ignore[operator]
        return line, _compare({"features": features[0]}, {"features": features[1]}, what=str(out))
    except BaseException:
        atomic.remove(out)
        raise
