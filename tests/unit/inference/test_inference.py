"""Same picture, same answer: whoever reads a file, in whatever form it is, the probabilities are the same."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vea
from vea.config import DatasetRef, EmotionConfig, RecogniseConfig
from vea.data.loading.items import Unusable
from vea.data.loading.loader import eval_loader
from vea.data.sample import Sample
from vea.data.shards.index import read_index
from vea.data.shards.plan import write_dataset
from vea.data.views.decode import Encoded
from vea.data.views.pictures import read_picture
from vea.enrich.faces import Faces
from vea.enrich.run import enrich
from vea.errors import VeaError
from vea.faces.detect import Detection, faces_in
from vea.inference.evidence import Chain
from vea.inference.explain import explain
from vea.inference.page import answer
from vea.inference.predict import Predictor
from vea.inference.scene import load_scene, look
from vea.tasks.recognise import RecogniseTask
from vea.taxonomy.fields import LabelField

CLASSES = ("angry", "happy", "neutral")
SIZES = {"small": (90, 70), "square": (64, 64), "tall": (640, 1010), "large": (2000, 1400)}


def photograph(width: int, height: int) -> Image.Image:
    """Returns a picture with detail at every scale."""
    numbers = np.random.default_rng(width).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def turned(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif, quality=85)


FORMS = (".jpg", "_grey.jpg", "_turned6.jpg", "_444_progressive.jpg", "_mirrored7.jpg", "_extra_bytes.jpg", ".png",
         ".webp", "_alpha.png", "_16bit.png", "_cmyk.jpg")  # fmt: skip
NAMES = sorted(f"{size}{form}" for size in SIZES for form in (FORMS if size != "square" else FORMS[:3]))


def sources() -> dict[str, bytes]:
    """Returns {name with suffix: file}: formats, modes and turns, each small and large, square or not."""
    found = {}
    for size, sides in SIZES.items():
        image = photograph(*sides)
        found[f"{size}.jpg"] = encoded(image, "JPEG", quality=85)
        found[f"{size}_grey.jpg"] = encoded(image.convert("L"), "JPEG", quality=85)
        found[f"{size}_turned6.jpg"] = turned(image, 6)
        if size == "square":
            continue
        found[f"{size}_444_progressive.jpg"] = encoded(image, "JPEG", subsampling=0, progressive=True)
        found[f"{size}_mirrored7.jpg"] = turned(image, 7)
        found[f"{size}_extra_bytes.jpg"] = found[f"{size}.jpg"] + b"\x00" * 100
        small = image.resize((sides[0] // 2, sides[1] // 2)) if size == "large" else image
        found[f"{size}.png"] = encoded(small, "PNG", compress_level=1)
        found[f"{size}.webp"] = encoded(small, "WEBP", quality=60, method=0)
        alpha = small.copy()
        alpha.putalpha(small.convert("L"))
        found[f"{size}_alpha.png"] = encoded(alpha, "PNG", compress_level=1)
        deep = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
        found[f"{size}_16bit.png"] = encoded(deep, "PNG", compress_level=1)
        found[f"{size}_cmyk.jpg"] = encoded(small.convert("CMYK"), "JPEG", quality=85)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    made_up = sources()
    assert sorted(made_up) == NAMES
    for name, data in made_up.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def prepared(files, tmp_path_factory) -> Path:
    """The same files as ``datasets/prepare.py`` writes them, one split."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    some = [
        Sample(name.replace(".", "-"), (files / name).read_bytes(), name.rpartition(".")[2], {"expression": "happy"},
               source="t", split="test")
        for name in NAMES
    ]  # fmt: skip
    write_dataset({"test": some}, out, name="t", title="t", fields={"expression": LabelField("class", CLASSES)},
                  card=None)  # fmt: skip
    return out


def made(size: int, channels: int) -> Predictor:
    """Returns a predictor with random weights, whose answers hang on every pixel."""
    config = RecogniseConfig.model_validate(
        {
            "name": "tiny",
            "data": {"global_batch_size": 8, "virtual_readers": 1, "workers": 0},
            "augment": {"image_size": size},
            "train": {"steps": 1},
            "model": {"encoder": {"name": "vea_face_cnn", "args": {"widths": [8, 16]}}, "channels": channels},
            "targets": {"expression": 1.0},
        }
    )
    torch.manual_seed(0)
    task = RecogniseTask(config, fields={"expression": LabelField("class", CLASSES)})
    with torch.no_grad():
        task.heads.layers["expression"].weight.normal_(0, 3)
    return Predictor(task, target="expression", device=torch.device("cpu"))


@pytest.fixture(scope="module", params=[(32, 1), (64, 3)], ids=["grey32", "colour64"])
def predictor(request) -> Predictor:
    return made(*request.param)


@pytest.fixture(scope="module")
def evaluated(predictor, prepared) -> dict[str, np.ndarray]:
    """Returns {key: probabilities} as ``finetune/evaluate.py`` gets them."""
    task, found = predictor.task, {}
    refs = [DatasetRef(path=str(prepared), split="test")]
    for batch in eval_loader(task.config, task.item_spec(), refs=refs, batch_size=16, rank=0, world_size=1):
        with torch.inference_mode():
            shares = task.answers(task.predict(batch))["expression"].numpy()
        found |= {key: row for key, row, valid in zip(batch["keys"], shares, batch["valid"]) if valid}
    assert len(found) == len(NAMES)
    return found


def place_of(dataset, name: str) -> int:
    return next(i for i in range(len(dataset)) if dataset.reader.read(i)[0] == name.replace(".", "-"))


@pytest.mark.parametrize("name", NAMES)
def test_predict_and_evaluation_agree_on_crops(predictor, evaluated, files, prepared, name):
    path, dataset = files / name, vea.open_dataset(prepared, "test")
    data = path.read_bytes()
    ways = {"path": path, "text": str(path), "bytes": data, "open": io.BytesIO(data), "encoded": Encoded(data),
            "opened": read_picture(path), "dataset": dataset.encoded(place_of(dataset, name))}  # fmt: skip
    expected = evaluated[name.replace(".", "-")]
    for way, image in ways.items():
        (found,) = predictor.predict(image, detect_faces=False)
        assert list(found.probabilities.values()) == pytest.approx(expected.tolist(), abs=2e-6), way
    ((_, faces),) = look([path], scene=None, faces=predictor, detect_faces=False)
    assert list(faces.probabilities.values()) == pytest.approx(expected.tolist(), abs=2e-6), "look"


@pytest.mark.parametrize("name", [name for name in NAMES if name.split(".")[0].split("_")[0] in ("small", "square")])
def test_arrays_of_small_pictures_too(predictor, evaluated, files, prepared, name):
    dataset = vea.open_dataset(prepared, "test")
    pixels = dataset[place_of(dataset, name)]["image"]
    for image in (pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
        (found,) = predictor.predict(image, detect_faces=False)
        assert list(found.probabilities.values()) == pytest.approx(evaluated[name.replace(".", "-")].tolist(), abs=2e-6)


class Detector:
    """Finds one face at a fixed place of the picture, and one that leans; says which pixels it was shown."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, image: np.ndarray) -> list[Detection]:
        self.shapes.append(image.shape)
        height, width = image.shape[:2]
        box = (width // 4, height // 4, width // 4 + min(width, height) // 3, height // 4 + min(width, height) // 3)
        small = (width // 2, height // 2, width // 2 + width // 20, height // 2 + width // 20)
        return [Detection(box, 0.9), Detection(small, 0.8, np.full((5, 2), 3.0), turn=30.0)]


@pytest.mark.parametrize("name", NAMES)
def test_faces_are_the_same_whoever_reads_the_file(predictor, files, prepared, name, monkeypatch, tmp_path):
    detector = Detector()
    monkeypatch.setattr(predictor, "_detect", detector)
    dataset, path = vea.open_dataset(prepared, "test"), files / name
    (first,) = predictor.predict(path)
    width, height = Image.open(path).size
    if "turned6" in name or "mirrored7" in name:
        width, height = height, width
    for way in (path.read_bytes(), read_picture(path), dataset.encoded(place_of(dataset, name))):
        assert predictor.predict(way)[0] == first
    assert next(look([path], scene=None, faces=predictor)).faces == first

    class Kept:
        def result(self, path: str, name: str, write) -> str:
            write(tmp_path / name)
            return str(tmp_path / name)

    assert answer(predictor, Kept(), str(path))[2] == first.probabilities  # the web page
    assert len(set(detector.shapes)) == 1, "one scale for all"
    box = first.faces[0].box
    assert box[0] == pytest.approx(width / 4, abs=8) and box[3] - box[1] == pytest.approx(min(width, height) / 3, abs=8)
    assert max(detector.shapes[0]) >= min(960, max(width, height)), "the search sees what it needs"


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("square")])
def test_scenes_are_the_same_whoever_reads_the_file(files, prepared, name, chain):
    dataset, path = vea.open_dataset(prepared, "test"), files / name
    reader = chain.scene
    seen = [next(look([path], scene=reader, faces=None)).scene, reader.look(read_picture(path)),
            reader.look(dataset.encoded(place_of(dataset, name)))]  # fmt: skip
    (alone,) = reader.predictor.predict(path)
    assert seen[0] == seen[1] == seen[2]
    assert alone.values["valence"] == pytest.approx(seen[0].valence, abs=1e-5)
    if name == "large.jpg":
        told = next(line for line in chain.explain(read_picture(path)) if line.step == "emotion")
        assert told.data["valence"] == seen[0].valence and told.data["colorfulness"] == seen[0].colorfulness


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain()


def test_colours_are_nearly_those_of_all_pixels(files):
    """Decoding at a scale averages: brightness stays, colorfulness may lose a little."""
    reader = load_scene()
    scaled, whole = (
        reader.look(read_picture(files / "large.jpg")),
        reader.look(read_picture(files / "large.jpg").pixels()),
    )
    assert scaled.brightness == whole.brightness and abs(scaled.colorfulness - whole.colorfulness) <= 0.1
    assert abs(scaled.valence - whole.valence) < 0.2


def test_explain_sees_what_the_loader_sees(files):
    """The views of a writer: of the encoded picture, not of all its pixels."""
    seen = []

    class Tokens:
        def text(self, row):
            return "happy because of the light"

    class Task(torch.nn.Module):
        config, tokens = made(32, 3).task.config, Tokens()

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def encode(self, images):
            seen.append(images.clone())
            return images

        def write(self, features, *, emotion=None):
            return torch.zeros(len(features), 3)

    views = made(32, 3)._view
    explain(Task(), [read_picture(files / "large_turned6.jpg")])
    expected = views.one(Encoded((files / "large_turned6.jpg").read_bytes()), key="")
    assert (seen[0][0].permute(1, 2, 0).numpy() == expected).all()


@pytest.mark.parametrize("recipe", ["expression", "emotion"])
def test_a_model_of_faces_learns_and_is_evaluated_on_what_predict_cuts(files, prepared, monkeypatch, recipe):
    """``augment.region: face``: the sidecar's largest face, turned back, from the file at the scale that serves."""

    def leaning(image: np.ndarray) -> list[Detection]:
        height, width = image.shape[:2]
        if width == height:
            return []  # the square pictures show nobody
        side = min(width, height) // 2
        box = (width // 3, height // 5, width // 3 + side, height // 5 + side)
        around = (box[0] + 3, box[1] - 2, box[2] - 1, box[3] + 4)
        small = Detection((0, 0, side // 3, side // 3), 0.7)
        return [Detection(box, 0.9, np.full((5, 2), 3.0), turn=width / 17, upright=around), small]

    monkeypatch.setattr("vea.enrich.faces.face_detector", lambda min_score: leaning)
    enrich(read_index(prepared), Faces(), name=f"faces_{recipe}", say=lambda line: None)
    predictor = made(32, 3)
    schema = {"expression": RecogniseConfig, "emotion": EmotionConfig}[recipe]
    told = predictor.task.config.model_dump() | {"recipe": recipe}
    told["augment"] |= {"region": "face", "flip": 0.0, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "eval_crop": 1.0}
    predictor = Predictor(RecogniseTask(schema.model_validate(told), fields=predictor.fields), target="expression",
                          device=torch.device("cpu"))  # fmt: skip
    monkeypatch.setattr(predictor, "_detect", leaning)
    task, refs = predictor.task, [DatasetRef(path=str(prepared), split="test", faces=f"faces_{recipe}")]
    rows = {}
    for batch in eval_loader(task.config, task.item_spec(), refs=refs, batch_size=16, rank=0, world_size=1):
        with torch.inference_mode():
            shares = task.answers(task.predict(batch))["expression"]
        rows |= {k: (s.tolist(), i) for k, s, i, v in zip(batch["keys"], shares, batch["image"], batch["valid"]) if v}
    shown = [name for name in NAMES if not name.startswith("square")]
    assert sorted(rows) == sorted(name.replace(".", "-") for name in shown)
    for name in shown:
        shares, image = rows[name.replace(".", "-")]
        (found,) = predictor.predict(files / name)
        assert list(found.probabilities.values()) == pytest.approx(shares, abs=2e-6), name
        picture = read_picture(files / name)
        crop = predictor._crop(picture, faces_in(picture, leaning)[0])
        assert np.array_equal(image.permute(1, 2, 0).numpy(), crop), name
    spec = task.item_spec()
    opened = [spec.open_set(refs[0])]
    learned = spec.maker(opened, train=True).make(opened[0], 0, pass_number=3, place=(0, 0)).views["image"]
    assert np.array_equal(learned, rows[opened[0].read(0)[0]][1].permute(1, 2, 0).numpy()), "nothing is drawn at chance"
    assert not predictor.predict(files / "square.jpg")[0].faces
    square = next(i for i in range(len(opened[0])) if opened[0].read(i)[0].startswith("square"))
    with pytest.raises(Unusable, match="sample 'square-jpg' shows no face"):
        spec.maker(opened, train=True).make(opened[0], square, pass_number=0, place=(0, 0))
    with pytest.raises(VeaError, match="no sidecar faces: run `vea enrich faces"):
        spec.open_set(DatasetRef(path=str(prepared), split="test"))
    (prepared / "sidecars" / f"faces_{recipe}" / "meta.json").write_text(
        (prepared / "sidecars" / f"faces_{recipe}" / "meta.json").read_text().replace('"turns": true', '"turns": false')
    )
    with pytest.raises(VeaError, match="does not tell how faces are turned"):
        spec.open_set(refs[0])
