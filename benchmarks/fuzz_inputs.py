"""The inputs of ``benchmarks/fuzz.py``: whole ones, how they are mutated, and which public reader gets them.

``KINDS`` maps a kind to ``f(rng, box)``: it writes a mutated input below the folder ``box``, reads it, and returns.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from vea.config import load_config
from vea.data.cards import find_card
from vea.data.sample import Sample
from vea.data.shards.check import check_shard, label_counts
from vea.data.shards.index import read_index
from vea.data.shards.plan import write_dataset
from vea.data.shards.reader import ShardReader
from vea.data.sources import make_source
from vea.data.views.pictures import read_image
from vea.errors import VeaError
from vea.models.weight_files import read_weight_file
from vea.models.weights import import_weights
from vea.storage.checkpoint import load_weights, read_checkpoint, save_checkpoint
from vea.taxonomy.fields import LabelField

REPOSITORY = Path(__file__).resolve().parents[1]
CARDS = REPOSITORY / "datasets" / "cards"
ODD_VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**400,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\0",
    "nan",
    "../../../x",
    "/etc/passwd",
    "a" * 5000,
    "=1+1",
    "\ud800",
    "ÿ",
    [],
    {},
    [[]],
    [None],
    {"a": None},
    "0",
    "1e400",
    "\n",
]
ODD_BYTES = [
    b"\0",
    b"\xff",
    b"\xe9",
    b"\r",
    b"\n",
    b'"',
    b",",
    b";",
    b"\t",
    b"\xef\xbb\xbf",
    b"{",
    b"[" * 3000,
    b"NaN",
    b"-1",
    b"9" * 400,
    b"../",
    b"\xff\xd8\xff",
    b"\x80\x04\x95",
    b"%PDF",
    b"%!PS",
    b"\x00\x00\x00\x20ftyp",
]


# ---------------------------------------------------------------------------------------------------------- mutations


def bytes_like(rng: random.Random, data: bytes) -> bytes:
    """Returns ``data`` after one to four changes of bits, bytes or pieces."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        what = rng.randrange(8)
        if what == 0:
            del changed[at:]
        elif what == 1 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif what == 2:
            changed[at:at] = rng.choice(ODD_BYTES)
        elif what == 3:
            del changed[at : at + rng.choice((1, 4, 100))]
        elif what == 4:
            changed[at:at] = changed[at : at + rng.choice((1, 64, 1000))]
        elif what == 5:
            size = rng.choice((1, 4, 64))
            changed[at : at + size] = rng.randbytes(size)
        elif what == 6:
            changed[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff"))
        else:  # near the start, where headers are
            changed[min(at, rng.randrange(64)) :][:1] = rng.randbytes(1)
            start = rng.randrange(min(64, len(changed) + 1))
            changed[start : start + 1] = rng.randbytes(1)
    return bytes(changed)


def value_like(rng: random.Random, value: Any) -> Any:
    """Returns a copy of nested lists and dicts in which one place is odd, gone, twice there or swapped."""
    copy = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, item in list(node.items()) if isinstance(node, dict) else list(enumerate(node)):
            places.append((node, key))
            if isinstance(item, dict | list):
                walk(item)

    if isinstance(copy, dict | list):
        walk(copy)
    if not places or rng.random() < 0.03:
        return rng.choice(ODD_VALUES)
    node, key = rng.choice(places)
    what = rng.randrange(6)
    if what == 0:
        del node[key]
    elif what == 1 and isinstance(node, list):
        node.insert(key, node[key])
    elif what == 2:
        other, at = rng.choice(places)
        with contextlib.suppress(LookupError):  # it may lie in what was taken away
            node[key] = json.loads(json.dumps(other[at]))
    elif what == 3 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    else:
        node[key] = rng.choice(ODD_VALUES)
    return copy


def text_of(rng: random.Random, value: Any) -> bytes:
    """Returns JSON of a mutated value, or mutated JSON of the value."""
    if rng.random() < 0.6:
        return json.dumps(value_like(rng, value)).encode("utf-8", "surrogatepass")
    return bytes_like(rng, json.dumps(value).encode())


# -------------------------------------------------------------------------------------------------------- whole inputs


def pixels(seed: int, height: int = 40, width: int = 32) -> np.ndarray:
    """Returns a picture, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(form: str, *, mode: str = "RGB", seed: int = 0, **save: Any) -> bytes:
    """Returns a small picture in a file format."""
    out = io.BytesIO()
    Image.fromarray(pixels(seed)).convert(mode).save(out, form, **save)
    return out.getvalue()


@functools.cache
def pictures() -> dict[str, bytes]:
    """Returns whole pictures of every ordinary format, by suffix."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = io.BytesIO()
    Image.fromarray(pixels(1)[:, :, 0].astype(np.uint16) << 8).save(wide, "PNG")
    floats = io.BytesIO()
    Image.fromarray((pixels(2)[:, :, 0] / 255).astype(np.float32)).save(floats, "TIFF")
    found = {
        "jpg": encoded("JPEG", exif=exif.tobytes()),
        "grey.jpg": encoded("JPEG", mode="L"),
        "cmyk.jpg": encoded("JPEG", mode="CMYK"),
        "progressive.jpg": encoded("JPEG", progressive=True),
        "png": encoded("PNG"),
        "rgba.png": encoded("PNG", mode="RGBA"),
        "palette.png": encoded("PNG", mode="P"),
        "wide.png": wide.getvalue(),
        "float.tif": floats.getvalue(),
        "one.tif": encoded("TIFF", mode="1"),
        "tif": encoded("TIFF", compression="tiff_lzw"),
        "bmp": encoded("BMP"),
        "ppm": encoded("PPM"),
        "webp": encoded("WEBP"),
        "ico": encoded("ICO"),
        "jp2": encoded("JPEG2000"),
        "gif": encoded("GIF", mode="P", save_all=True, append_images=[Image.fromarray(pixels(3)).convert("P")]),
    }
    with contextlib.suppress(Exception):  # not every Pillow has it
        found["avif"] = encoded("AVIF")
    return found


def csv_of(rows: list[list[Any]]) -> bytes:
    """Returns a table with commas."""
    return "".join(",".join(str(cell) for cell in row) + "\n" for row in rows).encode()


@functools.cache
def tables() -> dict[str, dict[str, bytes]]:
    """Returns raw folders whose heart is a CSV or a list: {card: {file: bytes}}, the table first."""
    face = " ".join(str(v) for v in pixels(4, 48, 48)[:, :, 0].ravel())
    jpg = encoded("JPEG", seed=5)
    votes = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    votes += [
        f"{usage},fer{i:07d}.png,4,0,0,1,3,2,0,0,0,0"
        for i, usage in enumerate(["Training", "PublicTest", "PrivateTest"])
    ]
    oasis = [
        ["file", "category", "valence_mean", "arousal_mean", "caption_human", "split"],
        ["a.jpg", "Animal", 3.5, 2.0, '"a dog, running"', "train"],
        ["b.jpg", "Person", 5, 4, "two", "valid"],
    ]
    fer = [["emotion", "pixels", "Usage"], [0, face, "Training"], [3, face, "PublicTest"], [6, face, "PrivateTest"]]
    return {
        "fer2013": {"fer2013.csv": csv_of(fer)},
        "fer2013 votes": {"fer2013new.csv": "\n".join(votes).encode() + b"\n", "fer2013.csv": csv_of(fer)},
        "oasis": {"oasis.csv": csv_of(oasis), "images/a.jpg": jpg, "images/b.jpg": jpg},
        "rafdb": {
            "EmoLabel/list_patition_label.txt": b"train_00001.jpg 5\ntrain_00002.jpg 1\ntest_0001.jpg 7\n",
            **{f"Image/aligned/{name}_aligned.jpg": jpg for name in ("train_00001", "train_00002", "test_0001")},
        },
    }


@functools.cache
def documents() -> dict[str, tuple[str, Any, dict[str, bytes]]]:
    """Returns raw folders whose heart is JSON: {card: (file, rows or value, other files)}."""
    jpg = encoded("JPEG", seed=7)
    rows = [
        {
            "file": f"{i}.jpg",
            "captions": ["a dog runs", "a dog"],
            "split": split,
            "objects": [{"bbox": [1, 2, 10.5, 12], "category": "person", "iscrowd": 0}],
        }
        for i, split in enumerate(["train", "train", "val", "test"])
    ]
    images = {f"images/{i}.jpg": jpg for i in range(4)}

    def listed(number: int) -> list[list[str]]:
        return [["amusement", f"image/amusement/amusement_{number}.jpg", "annotation/amusement/amusement_1.json"]]

    known = {
        "emotion": "amusement",
        "brightness": 0.4,
        "scene": "bakery/shop",
        "object": ["Dog"],
        "facial_expression": "happy",
        "human_action": None,
    }
    info = {
        "emotion": {
            "label2idx": {
                name: i
                for i, name in enumerate(
                    ["amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness"]
                )
            }
        }
    }
    emo = {f"image/amusement/amusement_{i}.jpg": jpg for i in range(3)} | {"info.json": json.dumps(info).encode()}
    emo |= {f"{split}.json": json.dumps(listed(i)).encode() for i, split in enumerate(("train", "val", "test"))}
    annotation = "annotation/amusement/amusement_1.json"
    return {
        "flickr8k_1k": ("captions.jsonl", rows, images),
        "emoset": ("train.json", listed(0), {**emo, annotation: json.dumps(known).encode()}),
        "emoset annotation": (annotation, known, emo),
        "emoset info": ("info.json", info, {**emo, annotation: json.dumps(known).encode()}),
    }


@functools.cache
def tar_bytes() -> bytes:
    """Returns a tar of three pictures with texts and JSON."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for i in range(3):
            parts = {"jpg": encoded("JPEG", seed=i), "txt": b"a dog runs", "json": b'{"caption": "a dog", "key": "1"}'}
            for suffix, data in parts.items():
                member = tarfile.TarInfo(f"{i:05d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


_WHOLE: Path | None = None


def prepare(folder: Path, kinds: list[str]) -> None:
    """Makes the whole inputs that are files, once a process, below ``folder``."""
    global _WHOLE
    _WHOLE = folder
    folder.mkdir(parents=True, exist_ok=True)
    if {"index", "sidecar"} & set(kinds):
        fields = {"mood": LabelField("class", ("sad", "happy")), "valence": LabelField("value", low=1.0, high=7.0)}
        samples = [
            Sample(
                key=f"s{i}",
                image=encoded("JPEG", seed=i),
                extension="jpg",
                source="fuzz",
                text=["a drawing"],
                labels={"mood": ("sad", "happy")[i % 2], "valence": 1.0 + i},
                split="train",
            )
            for i in range(6)
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            write_dataset(
                {"train": samples[:4], "val": samples[4:]},
                folder / "set",
                name="fuzz",
                title="fuzz",
                fields=fields,
                card=None,
                shard_size=2,
            )
    if "checkpoint" in kinds:
        weight = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(weight.parameters())
        weight(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        state = {"step": 7, "config": {"seed": 0}, "task": {"classes": {"mood": ["sad", "happy"]}}}
        save_checkpoint(
            folder / "run",
            step=7,
            weights={"model": weight.state_dict()},
            keep_every=None,
            optimizer=optimizer.state_dict(),
            state=state,
            keep_last=1,
        )
    if {"weights", "safetensors"} & set(kinds):
        save_file(vit(), folder / "vit.safetensors")
        torch.save({"model": vit(), "epoch": 3}, folder / "vit.pth")


def vit() -> dict[str, torch.Tensor]:
    """Returns weights with the names of a plain ViT of one block."""
    shapes = {
        "cls_token": (1, 1, 64),
        "pos_embed": (1, 5, 64),
        "patch_embed.proj.weight": (64, 3, 8, 8),
        "patch_embed.proj.bias": (64,),
        "blocks.0.norm1.weight": (64,),
        "blocks.0.norm1.bias": (64,),
        "blocks.0.attn.qkv.weight": (192, 64),
        "blocks.0.attn.qkv.bias": (192,),
        "blocks.0.attn.proj.weight": (64, 64),
        "blocks.0.attn.proj.bias": (64,),
        "blocks.0.norm2.weight": (64,),
        "blocks.0.norm2.bias": (64,),
        "blocks.0.mlp.fc1.weight": (256, 64),
        "blocks.0.mlp.fc1.bias": (256,),
        "blocks.0.mlp.fc2.weight": (64, 256),
        "blocks.0.mlp.fc2.bias": (64,),
        "norm.weight": (64,),
        "norm.bias": (64,),
    }
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def whole(name: str) -> Path:
    """Returns a whole input that ``prepare`` made."""
    assert _WHOLE is not None, "prepare() comes first"
    return _WHOLE / name


# ------------------------------------------------------------------------------------------------------ kinds of input


def put(box: Path, files: dict[str, bytes]) -> None:
    """Writes files below ``box``."""
    for name, data in files.items():
        path = box / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def picture(rng: random.Random, box: Path) -> None:
    """A picture of any format, as a file or as bytes."""
    name, data = rng.choice(sorted(pictures().items()))
    path = box / f"picture.{name}"
    path.write_bytes(bytes_like(rng, data))
    read_image(path if rng.random() < 0.5 else path.read_bytes())


def source(card_name: str, root: Path) -> str:
    """Reads a raw folder as ``datasets/prepare.py`` does; every record is a sample or is listed as skipped."""
    card = find_card(card_name, CARDS)
    reader = make_source(card)
    fields = reader.fields(root)
    found = {split: reader.to_write(root, split) for split in reader.splits(root)}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        index = write_dataset(found, root.parent / "out", name="fuzz", title="fuzz", fields=fields, card=card)
    wanted = sum(len(records.keys) for records in found.values())
    kept = sum(entry["samples"] for entry in index.splits.values()) + len(index.raw["skipped"])
    assert wanted == kept, f"{wanted} records became {kept} samples and skipped"
    for split, entry in index.splits.items():
        if entry["samples"]:
            ShardReader(root.parent / "out", split).read(0)
    return f"{kept} records"


def csv(rng: random.Random, box: Path) -> str:
    """A raw data set whose table was damaged."""
    card, files = rng.choice(sorted(tables().items()))
    name = next(iter(files))
    put(box / "raw", {**files, name: bytes_like(rng, files[name])})
    return source(card.split()[0], box / "raw")


def document(rng: random.Random, box: Path) -> str:
    """A raw data set whose JSON was damaged."""
    card, (name, value, files) = rng.choice(sorted(documents().items()))
    if name.endswith(".jsonl"):
        at = rng.randrange(len(value))
        lines = [json.dumps(row).encode() for row in value]
        lines[at] = text_of(rng, value[at])
        data = b"\n".join(lines)
    else:
        data = text_of(rng, value)
    put(box / "raw", {**files, name: data})
    return source(card.split()[0], box / "raw")


def tar(rng: random.Random, box: Path) -> str:
    """A folder of tars, one of which was damaged."""
    put(box / "raw", {"00000.tar": tar_bytes(), "00001.tar": bytes_like(rng, tar_bytes())})
    return source("webdataset", box / "raw")


def index(rng: random.Random, box: Path) -> str:
    """A prepared data set whose index, offsets or shards were damaged: read, counted and checked."""
    root = box / "set"
    shutil.copytree(whole("set"), root)
    files = [root / "index.json"] * 3 + sorted(path for path in root.rglob("*") if path.is_file())
    path = rng.choice(files)
    data = path.read_bytes()
    path.write_bytes(text_of(rng, json.loads(data)) if path.name == "index.json" else bytes_like(rng, data))
    found = read_index(root)
    for split in found.splits:
        label_counts(found, split)
        for shard in found.splits[split]["shards"]:
            check_shard(found, shard, decode=True)
        reader = ShardReader(root, split)
        for i in range(min(len(reader), 10)):
            reader.read(i)
    return found.name


def config(rng: random.Random, box: Path) -> None:
    """A config that ships, changed in a place or in its bytes, and an odd override."""
    path = rng.choice(sorted((REPOSITORY / "configs").glob("[pf]*/*.yaml")))
    with open(path, encoding="utf-8") as file:
        value = yaml.safe_load(file)
    bases = value.get("base", [])
    base = [str((path.parent / name).resolve()) for name in ([bases] if isinstance(bases, str) else bases)]
    value = {**value, "base": base}
    if rng.random() < 0.6:
        data = json.dumps(value_like(rng, value)).encode("utf-8", "surrogatepass")  # JSON is YAML
    else:
        data = bytes_like(rng, yaml.safe_dump(value).encode())
    put(box, {"config.yaml": data})
    overrides = (
        [
            f"{rng.choice(('seed', 'train.steps', 'data.train.0.path', 'model', 'a.b', '', 'train.betas.0'))}="
            f"{rng.choice(ODD_VALUES)!s:.200}"
        ]
        if rng.random() < 0.3
        else []
    )
    load_config(box / "config.yaml", overrides)


def checkpoint(rng: random.Random, box: Path) -> None:
    """A checkpoint one file of which was damaged."""
    shutil.copytree(whole("run"), box / "run")
    path = rng.choice(sorted(path for path in (box / "run").rglob("*") if path.is_file()))
    data = path.read_bytes()
    path.write_bytes(text_of(rng, json.loads(data)) if path.suffix == ".json" else bytes_like(rng, data))
    folder = next((box / "run" / "checkpoints").glob("step_*"))
    load_weights(box / "run")
    read_checkpoint(folder)


def shipped(rng: random.Random, box: Path) -> None:
    """The small model that ships, with a damaged description: opened as ``vea.load`` does."""
    from vea.inference.predict import load

    there = REPOSITORY / "vea" / "assets" / "expression-nano"
    shutil.copytree(there, box / "model")
    path = box / "model" / "state.json"
    path.write_bytes(text_of(rng, json.loads(path.read_text(encoding="utf-8"))))
    load(box / "model").predict(pixels(1, 64, 64))


def weights(rng: random.Random, box: Path) -> None:
    """A file of weights that others trained, damaged, and imported."""
    name = rng.choice(("vit.safetensors", "vit.pth"))
    data = whole(name).read_bytes()
    if rng.random() < 0.3:  # of a zip or a header the first bytes decide
        data = data[:600].replace(b"pos_embed", b"pos_embxd") + data[600:]
    put(box, {name: bytes_like(rng, data)})
    read_weight_file(box / name)
    import_weights(rng.choice(("mae", "timm", "dinov2")), box / name, box / "out")


@functools.cache
def _client() -> Any:
    import os

    from starlette.testclient import TestClient

    from vea.inference.page import application
    from vea.inference.results import Prediction

    class Sees:
        description, fields, reads_faces = "a stand-in", {}, True

        def predict(self, images: Any, **_: Any) -> list[Prediction]:
            several = images if isinstance(images, list) else [images]
            return [Prediction("happy", {"happy": 0.75, "sad": 0.25}) for _ in several]

        def stream(self, paths: Any, **_: Any) -> Any:
            for path in paths:
                try:
                    read_image(path)
                    yield Prediction("happy", {"happy": 0.75, "sad": 0.25})
                except VeaError as error:
                    yield error

    os.environ["GRADIO_TEMP_DIR"] = str(whole("page"))
    client = TestClient(application(Sees(), max_mb=1), raise_server_exceptions=True)  # type: ignore[arg-type]
    return client.__enter__()


def page(rng: random.Random, box: Path) -> str:
    """A request to the page: paths, methods, bodies, headers and uploads that no browser sends."""
    client = _client()
    call = {
        "data": [
            {
                "path": rng.choice(("/etc/passwd", "../x", "", "http://127.0.0.1/x", "\0", str(box))),
                "meta": {"_type": "gradio.FileData"},
                "url": "x",
                "size": 1,
            }
        ],
        "session_hash": "abc",
        "fn_index": 0,
    }
    paths = [
        "/",
        "/health",
        "/config",
        "/gradio_api/upload",
        "/gradio_api/call/look",
        "/gradio_api/queue/join",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/run/predict",
        "/gradio_api/info",
        "/gradio_api/call/many",
        "/gradio_api/upload_progress",
        "/gradio_api/stream/a/b/c",
        "/gradio_api/component_server",
        "/static/x",
        "/gradio_api/file=../../x",
        "/gradio_api/call/look/xyz",
        "/gradio_api/reset",
        "/gradio_api/cancel",
    ]
    path = rng.choice(paths)
    if rng.random() < 0.3:  # as a browser does, with a broken picture
        name = rng.choice(("a.png", "../../x.png", "a" * 400, "\u202egnp.exe", ".htaccess", "=1+1.jpg"))
        sent = client.post(
            "/gradio_api/upload", files={"files": (name, bytes_like(rng, rng.choice(list(pictures().values()))))}
        )
        if sent.status_code != 200:
            raise VeaError(f"upload: {sent.status_code}")
        seen = {"data": [{"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}]}
        body = json.dumps(seen if rng.random() < 0.7 else value_like(rng, seen)).encode("utf-8", "surrogatepass")
        begun = client.post("/gradio_api/call/look", content=body, headers={"content-type": "application/json"})
        if begun.status_code != 200:
            raise VeaError(f"look: {begun.status_code}")
        text = client.get(f"/gradio_api/call/look/{begun.json()['event_id']}").text
        if "event: complete" not in text:
            raise AssertionError(f"the page broke on a picture: {text[:200]}")
        return text[:100]
    if rng.random() < 0.3:
        path = "/" + bytes_like(rng, path.encode()).decode("latin-1").lstrip("/")[:300]
        path = "".join(c for c in path if c.isprintable() and c not in "?#")
    method = rng.choice(("GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"))
    if path.endswith("/upload") and rng.random() < 0.7:
        name = rng.choice(("a.png", "../../x.png", "a" * 400, "\u202egnp.exe", ".htaccess"))
        answer = client.post(path, files={"files": (name, bytes_like(rng, pictures()["png"]))})
    else:
        kind = rng.choice(
            ("application/json", "application/json", "multipart/form-data; boundary=x", "text/plain", "x")
        )
        answer = client.request(method, path, content=text_of(rng, call), headers={"content-type": kind})
    if answer.status_code >= 500 and answer.status_code != 503:
        raise AssertionError(f"{method} {path!r} was answered with {answer.status_code}: {answer.text[:200]}")
    if b"root:x:0" in answer.content:
        raise AssertionError(f"{method} {path!r} handed out a file of the machine")
    if answer.status_code >= 400:
        raise VeaError(f"{method}: {answer.status_code}")
    return str(answer.status_code)


def header(rng: random.Random, box: Path) -> None:
    """A picture whose first bytes, the header, were damaged; the rest is whole."""
    name, data = rng.choice(sorted(pictures().items()))
    edge = min(len(data), rng.choice((32, 64, 128)))
    path = box / f"picture.{name}"
    path.write_bytes(bytes_like(rng, data[:edge]) + data[edge:])
    read_image(path if rng.random() < 0.5 else path.read_bytes())


def safetensors(rng: random.Random, box: Path) -> None:
    """A safetensors file whose header lies: lengths, names, offsets, types, shapes; or whose weights are no numbers."""
    data = whole("vit.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    told, body = data[8 : 8 + size], bytearray(data[8 + size :])
    what = rng.choice(("length", "double", "json", "nan"))
    if what == "double":  # the first name once more
        told = b'{"pos_embed":' + json.dumps(json.loads(told)["pos_embed"]).encode() + b"," + told.lstrip()[1:]
    elif what == "json":
        told = text_of(rng, json.loads(told))
    elif what == "nan":
        body[: 4 * rng.randrange(1, 9)] = b"\x00\x00\xc0\x7f" * rng.randrange(1, 9)
    number = rng.choice((0, 1, 2**31, 2**63 - 1, len(told) + 1)) if what == "length" else len(told)
    put(box, {"vit.safetensors": number.to_bytes(8, "little") + told + bytes(body)})
    read_weight_file(box / "vit.safetensors")
    import_weights("timm", box / "vit.safetensors", box / "out")


def npy_of(value: Any) -> bytes:
    """Returns the bytes of a .npy file."""
    held = io.BytesIO()
    np.save(held, np.array(value), allow_pickle=False)
    return held.getvalue()


def npy(rng: random.Random, box: Path) -> str:
    """AffectNet as released, one of whose numbers was damaged or is another array."""
    files = {}
    for split, number in (("train_set", 0), ("train_set", 1), ("val_set", 0)):
        files[f"{split}/images/{number}.jpg"] = encoded("JPEG", seed=number)
        parts = {"exp": str(number), "val": "0.5", "aro": "-0.25"}
        files |= {f"{split}/annotations/{number}_{name}.npy": npy_of(value) for name, value in parts.items()}
    name = rng.choice(sorted(name for name in files if name.endswith(".npy")))
    others = (b"", b"PK\x03\x04", npy_of([1, 2]), npy_of(np.zeros(0)), npy_of(2**70 * 1.0), npy_of("happy"))
    files[name] = rng.choice(others) if rng.random() < 0.4 else bytes_like(rng, files[name])
    put(box / "raw", files)
    return source("affection", box / "raw")


def folders(rng: random.Random, box: Path) -> None:
    """A tree of class folders with odd names and files, as ``--folder`` and ``vea predict`` walk it."""
    from vea.data.class_folders import divide, find_pictures, look_at

    names = ("happy", "very happy", "Glück 😀", "a" * 60, ".hidden", "x\ny", "-rf", "sad/nested/deeper", "=1+1", "CON")
    odd = {"Thumbs.db": b"x", "._a.jpg": b"x", "a.JPG": encoded("JPEG"), "b.jpeg.png": encoded("PNG"), "c": b"",
           "d.jpg": b""}  # fmt: skip
    for name in rng.sample(names, rng.randrange(1, 5)):
        for file in rng.sample(sorted(odd), rng.randrange(1, 5)):
            put(box / "own", {f"{name}/{file}": bytes_like(rng, odd[file]) if rng.random() < 0.3 else odd[file]})
    if rng.random() < 0.3:
        (box / "own" / "loop").symlink_to(box / "own", target_is_directory=True)
    found, _ = find_pictures(box / "own")
    divide([look_at(path, label, read_image(path)) for label, path in found])


def sidecar(rng: random.Random, box: Path) -> None:
    """The result of a pass over a set, damaged: description, rows."""
    from vea.data.shards.sidecars import check_sidecar, index_checksum

    root = box / "set"
    shutil.copytree(whole("set"), root)
    found = read_index(root)
    meta = {"format": 1, "pass": "persons", "set": "fuzz", "index_sha256": index_checksum(found), "suffix": ".jsonl",
            "options": {}, "model": "x"}  # fmt: skip
    row = {"key": "s0", "boxes": [[0.0, 1.0, 8.0, 9.0]], "scores": [0.9]}
    lines = [json.dumps(row).encode()] * 4
    lines[rng.randrange(4)] = text_of(rng, row)
    told = text_of(rng, meta) if rng.random() < 0.5 else json.dumps(meta).encode()
    place = "sidecars/persons"
    put(root, {f"{place}/meta.json": told, f"{place}/train-000000.jsonl": b"\n".join(lines) + b"\n"})
    problems = check_sidecar(found, "persons")
    assert all("\n" not in problem for problem in problems)


@functools.cache
def clip_bytes() -> bytes:
    """Returns a whole video of four frames."""
    import av

    held = io.BytesIO()
    with av.open(held, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 40, "yuv420p"
        for seed in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels(seed), format="rgb24")))
        container.mux(stream.encode())
    return held.getvalue()


def clip(rng: random.Random, box: Path) -> str:
    """A video, damaged, read frame by frame."""
    from vea.faces.video import frames

    put(box, {"clip.mp4": bytes_like(rng, clip_bytes())})
    return f"{sum(1 for _ in frames(box / 'clip.mp4'))} frames"


KINDS: dict[str, Callable[[random.Random, Path], Any]] = {
    "picture": picture,
    "csv": csv,
    "json": document,
    "tar": tar,
    "index": index,
    "config": config,
    "checkpoint": checkpoint,
    "model": shipped,
    "weights": weights,
    "page": page,
    "header": header,
    "safetensors": safetensors,
    "npy": npy,
    "folders": folders,
    "sidecar": sidecar,
    "clip": clip,
}
