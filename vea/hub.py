"""Saved models: opening any of them, and writing them for others, each checked against the run before it is kept.

    vea export runs/expression-ship --to onnx --out expression.onnx   # pixels in, probabilities out, one file
    vea export runs/emotion-oasis --to hub --out exports/emotion      # model.safetensors, config.json, model card
    vea export runs/demo-pretrain --to timm --out exports/encoder     # timm.create_model("local-dir:exports/encoder")

``expression`` is the model that ships. A hub folder is opened by ``vea.load(DIR)`` like a run.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import vea
from vea.config import RECIPES, EncoderConfig, ExpressionConfig
from vea.data import synthetic
from vea.data.sample import LabelField
from vea.data.shards import ShardReader, read_index
from vea.data.transforms import CorruptImage, Views, decode
from vea.errors import RunError, VeaError, did_you_mean
from vea.models.backbone import build_encoder
from vea.models.weights import export_timm, load_encoder
from vea.tasks.expression import ExpressionTask
from vea.training.checkpoint import find_weights, load_weights

ASSETS = Path(__file__).parent / "assets"
SHIPPED = {  # name: the config it was trained by
    "expression": "configs/finetune/expression_ship.yaml",
    "expression-nano": "configs/finetune/expression_nano.yaml",
}
TOLERANCE = 1e-4  # largest difference between an export and its run, in any output
CHECKED = 32  # images on which the two are compared
FORMATS = ("onnx", "hub", "timm")

# -------------------------------------------------------------------------------------------------------------- opening


@dataclass(frozen=True)
class SavedModel:
    """A recogniser read back: the task in evaluation mode, what its checkpoint says of it, and where it was."""

    task: ExpressionTask
    state: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.task.config.name

    @property
    def reads_faces(self) -> bool:
        """True where the model was trained on faces (``finetune/expression.py``), False for whole images."""
        return self.task.config.recipe == "expression"


def open_model(name_or_dir: str | os.PathLike[str], *, ema: bool = False) -> SavedModel:
    """Returns a recogniser that ships (``expression``, ``expression-nano``), of a fine-tuning run, or of a hub folder.

    Raises:
        VeaError: there are no such weights, or they are no recogniser's.
    """
    name = os.fspath(name_or_dir)
    shipped = {path.parent.name: path.parent for path in ASSETS.glob("*/model.safetensors")}
    folder = shipped.get(name, Path(name))
    if not folder.exists():
        if name in SHIPPED:
            raise VeaError(
                f"this installation carries no model {name} (vea/assets/{name} is not there); train one with "
                f"finetune/expression.py {SHIPPED[name]} and give its run folder"
            )
        raise VeaError(
            f"no model at {name}; give {' or '.join(SHIPPED)}, the run folder of a finetune recipe, or a hub folder"
        )
    weights, state = _read_hub(folder) if _is_hub(folder) else load_weights(find_weights(folder), ema=ema)
    schema = RECIPES.get(str(state.get("recipe")))
    if schema is None or not issubclass(schema, ExpressionConfig) or "classes" not in state.get("task", {}):
        raise VeaError(
            f"{folder} is no model that recognises anything (its recipe is {state.get('recipe')!r}); give a run of "
            "finetune/expression.py, emotion.py or attributes.py"
        )
    return SavedModel(_rebuild(schema, weights, state, folder), state, folder)


def _is_hub(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not (folder / "state.json").is_file()


def _read_hub(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        state = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except Exception as error:  # safetensors has types of its own
        raise VeaError(f"{folder} is no whole hub folder ({error}); export or download it again") from None
    return weights, state if isinstance(state, dict) else {}


def fields_of(described: dict[str, Any]) -> dict[str, LabelField]:
    """Returns the label fields of a checkpoint from its ``metadata()``."""
    ranges = described.get("ranges", {})
    return {
        name: LabelField(described["kinds"][name], tuple(classes), *ranges.get(name, (None, None)))
        for name, classes in described["classes"].items()
    }


def _rebuild(
    schema: type[ExpressionConfig], weights: dict[str, Tensor], state: dict[str, Any], folder: Path
) -> ExpressionTask:
    """Returns the task of a checkpoint from what the checkpoint says about itself."""
    try:
        config = schema.model_validate(state["config"])
        config.model.encoder.pretrained = None  # where the weights came from once; they are all in the checkpoint
        task = ExpressionTask(config, fields=fields_of(state["task"]))
        task.load_state_dict(weights)
    except (ValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise VeaError(f"{folder}: weights and config do not belong together ({reason}); export it again") from None
    return task.eval()


def preprocessing(model: SavedModel) -> dict[str, Any]:
    """Returns how pixels reach the network, for a machine to read; normalisation is part of the network."""
    task = model.task
    augment, channels = task.config.augment, task.config.model.channels
    crop = (
        "square around the face box, side = its longer side, the border repeated outside the picture"
        if model.reads_faces
        else f"centre square, side = {augment.eval_crop} of the picture's shorter side"
    )
    return {
        "region": "face" if model.reads_faces else "image",
        "crop": crop,
        "size": [augment.image_size, augment.image_size],
        "interpolation": "linear" if model.reads_faces else augment.interpolation,
        "eval_crop": 1.0 if model.reads_faces else augment.eval_crop,
        "color": "RGB" if channels == 3 else "RGB, made grey inside the network (ITU-R 601 luma)",
        "rescale": 1 / 255,
        "mean": task.mean.flatten().tolist(),
        "std": task.std.flatten().tolist(),
        "normalised_by": "the network",
    }


# ---------------------------------------------------------------------------------------------------- what is compared


def check_images(model: SavedModel, files: Sequence[Path] = ()) -> tuple[Tensor, str]:
    """Returns (uint8 (N, 3, S, S), what they are): ``files``, else the run's validation set, else drawn scenes.

    Raises:
        VeaError: one of ``files`` cannot be read.
    """
    config = model.task.config
    views = Views(config.augment, seed=config.seed, train=False)
    encoded: list[bytes] = []
    where = f"{len(files)} files"
    if files:
        try:
            encoded = [file.read_bytes() for file in files]
        except OSError as error:
            raise VeaError(f"--images: {error.filename}: {error.strerror}") from None
    for ref in [] if files else config.data.val:
        try:
            reader = ShardReader(ref.path, ref.split)
        except VeaError:  # the data is not on this machine
            continue
        places = np.unique(np.linspace(0, len(reader) - 1, CHECKED).astype(int)).tolist()
        encoded, where = [reader.read(place)[1] for place in places], f"{ref.split} of {ref.path}"
        break
    if not encoded:
        encoded = [sample.image for sample in islice(synthetic.samples(CHECKED, split="val"), CHECKED)]
        where = "drawn scenes (the run's validation data is not here)"
    try:
        pixels = [views.one(decode(data), key="") for data in encoded]
    except CorruptImage as error:
        raise VeaError(f"--images: one of them cannot be read ({error})") from None
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), where


@torch.inference_mode()
def outputs(task: ExpressionTask, images: Tensor) -> dict[str, Tensor]:
    """Returns every target's probabilities (or values), and under ``logits_TARGET`` what the heads gave."""
    logits = task.predict({"image": images})
    return {**task.answers(logits), **{f"logits_{name}": value for name, value in logits.items()}}


def _compare(theirs: dict[str, Tensor], ours: dict[str, Tensor], *, what: str) -> dict[str, float]:
    """Returns the largest absolute difference of each output; ``RunError`` beyond ``TOLERANCE``."""
    found = {name: float((theirs[name].float() - value.float()).abs().max()) for name, value in ours.items()}
    worst = max(found, key=lambda name: found[name])
    if not found[worst] <= TOLERANCE:  # NaN fails as well
        raise RunError(
            f"{what} differs from the run by {found[worst]:.2e} in {worst}, beyond {TOLERANCE:.0e}; not kept"
        )
    return found


@contextmanager
def _new_path(out: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``out`` that becomes ``out`` when the block succeeds, and is gone otherwise."""
    if out.exists():
        raise VeaError(f"--out: {out} exists; give another name or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.rename(out)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ----------------------------------------------------------------------------------------------------------------- onnx


class _Recogniser(nn.Module):
    """What the ONNX file computes: pixels in; probabilities and logits of every target out."""

    def __init__(self, task: ExpressionTask, *, unit: bool) -> None:
        super().__init__()
        self.task, self.unit = task, unit

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs in the order of ``outputs``."""
        logits = self.task.predict({"image": images * 255 if self.unit else images})
        return (*self.task.answers(logits).values(), *logits.values())


def export_onnx(
    model: SavedModel, out: Path, *, images: Tensor, input_type: str = "uint8", opset: int = 20
) -> dict[str, float]:
    """Returns {output: largest difference to torch}; writes one ``.onnx`` file.

    Its input ``images`` is (batch, 3, S, S) RGB, uint8 0..255 or (``input_type="float"``) float32 0..1; grey
    conversion and normalisation are inside. Each target has an output of its name (probabilities, or a value on the
    raters' scale) and ``logits_TARGET``. Metadata: ``vea`` (version), ``name``, ``recipe``, and as JSON ``classes``,
    ``kinds``, ``ranges``, ``preprocessing``.

    Raises:
        VeaError: ``out`` exists, or onnx, onnxscript or onnxruntime is not installed.
        RunError: an output differs by more than ``TOLERANCE``; no file is left.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise VeaError(f"--to onnx needs the package {error.name}: pip install 'vea[export]'") from None
    given = images if input_type == "uint8" else images.float() / 255
    expected = outputs(model.task, images)
    network = _Recogniser(copy.deepcopy(model.task), unit=input_type == "float").eval()
    # example batch of 2: torch.export would take a batch of 1 for a constant
    program = torch.onnx.export(
        network,
        (given[:1].repeat(2, 1, 1, 1),),
        input_names=["images"],
        output_names=list(expected),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    described = model.task.metadata()
    texts = {"vea": vea.__version__, "name": model.name, "recipe": model.task.config.recipe,
             "input": f"images: (batch, 3, S, S) RGB, {'uint8 0..255' if input_type == 'uint8' else 'float32 0..1'}",
             "preprocessing": json.dumps(preprocessing(model))}  # fmt: skip
    texts |= {name: json.dumps(described[name], ensure_ascii=False) for name in ("classes", "kinds", "ranges")}
    onnx.helper.set_model_props(proto, texts)
    with _new_path(out) as temporary:
        onnx.save(proto, temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        batches = given[:1], given[1:]  # two sizes, so that a batch that became a constant is found
        ran = [session.run(list(expected), {"images": batch.numpy()}) for batch in batches if len(batch)]
        theirs = {name: torch.from_numpy(np.concatenate(rows)) for name, rows in zip(expected, zip(*ran))}
        return _compare(theirs, expected, what=f"{out}")


# ------------------------------------------------------------------------------------------------------------------ hub


def export_hub(model: SavedModel, out: Path, *, images: Tensor) -> dict[str, float]:
    """Returns {output: largest difference}; writes a folder: model.safetensors, config.json and README.md.

    ``config.json`` holds class names, preprocessing and the run's config; paths of this machine are shortened to names.

    Raises:
        VeaError: ``out`` exists.
        RunError: the folder, opened again, gives other probabilities; it is not left.
    """
    state, described = model.state, model.task.metadata()
    config = model.task.config.model_copy(deep=True)
    config.out = config.train.init_from = None
    for ref in [*config.data.train, *config.data.val]:
        ref.path = Path(ref.path).name
    config.distill.models = [Path(name).name for name in config.distill.models]
    main = main_target(described["kinds"])
    record: dict[str, Any] = {
        "library_name": "vea",
        "vea_version": vea.__version__,
        "recipe": config.recipe,
        "main_target": main,
        "id2label": {str(number): name for number, name in enumerate(described["classes"][main])},
        "task": described,
        "preprocessing": preprocessing(model),
        "config": config.model_dump(mode="json"),
        **{name: state[name] for name in ("step", "samples", "best", "versions", "git") if name in state},
    }
    with _new_path(out) as temporary:
        temporary.mkdir()
        tensors = {name: value.cpu().contiguous().clone() for name, value in model.task.state_to_save().items()}
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (temporary / "README.md").write_text(model_card(model), encoding="utf-8")
        return _compare(outputs(open_model(temporary).task, images), outputs(model.task, images), what=f"{out}")


def main_target(kinds: dict[str, str]) -> str:
    """Returns the label that stands for a model: its first class, else its first distribution, else its first."""
    return next(
        (name for kind in ("class", "distribution") for name in kinds if kinds[name] == kind), next(iter(kinds))
    )


def read_evaluations(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns {split: record} of the ``evaluation_*.json`` beside a model: in its folder, or in its run's."""
    for place in (folder, folder.parent) if folder.name in ("best", "final") else (folder,):
        found = sorted(place.glob("evaluation_*.json"))
        if found:
            read = {path.stem.removeprefix("evaluation_"): json.loads(path.read_text("utf-8")) for path in found}
            return {split: record for split, record in read.items() if isinstance(record, dict) and "targets" in record}
    return {}


_HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece", "mAP", "ccc", "pearson", "rmse")
_USES = {
    "face": "names the expression of faces in pictures. An expression is not an emotion",
    "image": "names the emotion that viewers report of a picture as a whole. It says nothing of the people in it",
}


def model_card(model: SavedModel) -> str:
    """Returns README.md: front matter, data and its terms, use, and limits as the run's evaluations measured them."""
    evaluations = read_evaluations(model.folder)
    config, described, pixels = model.task.config, model.task.metadata(), preprocessing(model)
    sets = list(dict.fromkeys(ref.path for ref in config.data.train))
    rows, limits, index = [], [], []
    for split, record in evaluations.items():
        names = ", ".join(Path(path).name for path in record["data"])
        for target, result in record["targets"].items():
            metrics, intervals = result["metrics"], result.get("intervals", {})
            for metric in (name for name in _HEADLINE if name in metrics):
                bounds = intervals.get(metric)
                between = f"{bounds[0]:.3f} to {bounds[1]:.3f}" if bounds else ""
                rows.append(f"| {names}, {split} | {target} | {result['samples']} | {metric} | {metrics[metric]:.3f} "
                            f"| {between} |")  # fmt: skip
            index.append({"task": {"type": "image-classification"}, "dataset": {"name": names, "type": names,
                          "split": split}, "metrics": [{"type": name, "name": f"{target} {name}",
                          "value": round(metrics[name], 4)} for name in _HEADLINE if name in metrics]})  # fmt: skip
            limits += _limits(target, result, f"{names}, {split}")
        for target, fitted in (record.get("calibration") or {}).items():
            before, after = fitted["ece"]
            limits.append(f"{target}: at the temperature {fitted['temperature']:.2f}, fitted on the validation split, "
                          f"not applied here, the calibration error goes from {before:.3f} to {after:.3f}")  # fmt: skip
    if any(record.get("synthetic") for record in evaluations.values()):
        limits.append("the figures above were measured on drawn (synthetic) pictures, not on photographs")
    front = {
        "library_name": "vea",
        "license": "other",
        "license_name": "terms-of-the-training-data",
        "pipeline_tag": "image-classification",
        "tags": ["vea", "emotion-recognition", config.recipe],
        "datasets": [Path(path).name for path in sets],
        "model-index": [{"name": config.name, "results": index}],
    }
    if not index:
        del front["model-index"]
    none = "No evaluation was found beside the weights: nothing is known of how well this model works."
    head = "| data | label | samples | metric | value | 95 % interval |\n|---|---|---|---|---|---|\n"
    classes = [f"- `{name}` ({described['kinds'][name]}): {', '.join(values) or _range(described, name)}"
               for name, values in described["classes"].items()]  # fmt: skip
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n# {config.name}",
        f"A model of recipe `{config.recipe}`, trained and exported with vea {vea.__version__}; encoder "
        f"`{config.model.encoder.name}`, {sum(p.numel() for p in model.task.parameters()) / 1e6:.2f} M parameters, "
        f"step {model.state.get('step', 'unknown')} of {config.train.steps}.",
        "```python\nimport vea\n(result,) = vea.load(\"DIR\").predict(\"photo.jpg\")\n```",
        "## Labels\n" + "\n".join(classes),
        f"## Input\n{pixels['crop']}, {pixels['size'][0]} x {pixels['size'][1]} pixels, {pixels['color']}.",
        "## Data and licence\n" + "\n".join(_data_line(path) for path in sets) + "\n\nThe weights come with no more "
        "rights than that data gives.",
        f"## Intended use\nResearch and teaching: it {_USES[pixels['region']]}. Not for decisions about people.",
        f"## Measured\n{head + chr(10).join(rows) if rows else none}",
        "## Limits and bias\n" + "\n".join(f"- {line}." for line in [*limits, "No evaluation here is broken down by "
        "age, sex, skin tone or culture of the people shown: differences between them are not known"]),
    ]  # fmt: skip
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _range(described: dict[str, Any], name: str) -> str:
    low, high = described["ranges"].get(name, (None, None))
    return "a number" if low is None else f"a number from {low:g} to {high:g}"


def _data_line(path: str) -> str:
    name = Path(path).name
    try:
        index = read_index(path)
    except VeaError:
        return f"- **{name}**: not on the machine that exported this; its terms are in datasets/cards of vea."
    terms, citation = index.raw.get("terms") or "Terms not stated.", index.raw.get("citation") or ""
    return f"- **{index.title}** (`{name}`). {terms} {citation}"


def _limits(target: str, result: dict[str, Any], where: str) -> list[str]:
    """Returns what an evaluation says of the classes a model is worst at, and of how unequal they are."""
    recalls = {name.removeprefix("recall/"): value for name, value in result["metrics"].items() if "recall/" in name}
    if not recalls:
        return []
    low, high = min(recalls, key=lambda n: recalls[n]), max(recalls, key=lambda n: recalls[n])
    lines = [f"{target} ({where}): recall from {recalls[low]:.2f} ({low}) to {recalls[high]:.2f} ({high})"]
    counts = dict(zip(result.get("classes", []), result.get("samples_per_class", [])))
    if counts:
        few, many = min(counts, key=lambda n: counts[n]), max(counts, key=lambda n: counts[n])
        lines.append(f"{target} ({where}): {counts[few]} samples of {few}, {counts[many]} of {many}; the figures of "
                     "rare classes are uncertain")  # fmt: skip
    return lines


# ----------------------------------------------------------------------------------------------------------------- timm


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
        _remove(out)
        raise


# ----------------------------------------------------------------------------------------------------------------- verb


def main(argv: list[str]) -> None:
    """Runs ``vea export``."""
    parser = argparse.ArgumentParser(prog="vea export", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", help="run folder, hub folder, or the name of the model that ships (expression)")
    parser.add_argument("--to", required=True, metavar="FORMAT", help=" | ".join(FORMATS))
    parser.add_argument("--out", required=True, type=Path, help="file (onnx, timm) or folder (hub, timm) to write")
    parser.add_argument("--input", choices=("uint8", "float"), default="uint8", help="onnx: pixels 0..255 or 0..1")
    parser.add_argument("--images", nargs="+", type=Path, default=[], metavar="FILE", help="pictures to check with")
    parser.add_argument("--ema", action="store_true", help="the averaged weights instead of the last ones")
    given = parser.parse_args(argv)
    if given.to not in FORMATS:
        raise VeaError(f"--to: there is no format {given.to!r}{did_you_mean(given.to, FORMATS)}")
    if given.to == "timm":
        line, found = export_encoder(Path(given.run), given.out, ema=given.ema)
        where, kept = "random images", f"\n{line}"
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
