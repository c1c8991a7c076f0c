"""Large JPEGs are decoded at the scale that a view needs: the same crops, nearly the same pixels, never too few."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from vea.config import AugmentConfig
from vea.data.views import decode as decoding
from vea.data.views.decode import CorruptImage, Encoded, decode
from vea.data.views.geometry import scale_for
from vea.data.views.pictures import read_image, read_view
from vea.data.views.views import Views
from vea.errors import VeaError


def jpeg(width: int, height: int, *, orientation: int = 1, mode: str = "RGB", seed: int = 0, **options) -> bytes:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, height // 80), max(2, width // 80), 3), dtype=np.uint8)
    image = Image.fromarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, exif=exif, **options)
    return out.getvalue()


FORMS = {
    "plain": {}, "tall": {"size": (1201, 1999)}, "odd": {"size": (1603, 1067)}, "grey": {"mode": "L"},
    "cmyk": {"mode": "CMYK"}, "progressive": {"progressive": True}, "444": {"subsampling": 0},
    **{f"turned {n}": {"orientation": n} for n in range(2, 9)}, "small": {"size": (640, 480)},
    "wide": {"size": (4000, 300)},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("size", [48, 224])
def test_the_views_are_nearly_those_of_all_pixels(form, train, size):
    options = dict(FORMS[form])
    data = jpeg(*options.pop("size", (1600, 1200)), **options)
    views = Views(AugmentConfig(image_size=size), seed=3, train=train)
    whole, lazy = decode(data), Encoded(data)
    assert (lazy.width, lazy.height) == (whole.shape[1], whole.shape[0])
    for key in ("a", "b", "c"):
        one = views.one(whole, key=key).astype(int), views.one(lazy, key=key).astype(int)
        assert one[0].shape == one[1].shape and abs(one[0] - one[1]).mean() < 5
        boxes = [[40, 30, 260, 280]]
        two = views.two(whole, boxes=boxes, key=key), views.two(lazy, boxes=boxes, key=key)
        assert two[0][2] == two[1][2]
        assert all(abs(a.astype(int) - b).mean() < 5 for a, b in zip(two[0][:2], two[1][:2]))
    if form in ("small", "cmyk"):
        assert (one[0] == one[1]).all()


@pytest.mark.parametrize("side", [1000, 1001, 1599, 1600, 2048, 4001])
@pytest.mark.parametrize("need", [8, 48, 125, 126, 224, 448, 800])
def test_never_below_what_a_view_needs(side, need):
    lazy = Encoded(jpeg(side, side * 3 // 4))
    windows = [(0, 0, lazy.width, lazy.height), (10, 10, 10 + side // 2, 10 + side // 2)]
    least = scale_for(windows, size=need)
    found = lazy.pixels(least=least)
    assert found.shape[1] >= least * lazy.width - 1e-6 and found.shape[0] >= least * lazy.height - 1e-6
    assert found.shape[1] / lazy.width < 2 * least + 0.01 or least <= 1 / 8 or found.shape[1] == lazy.width


def test_fewer_pixels_are_decoded(monkeypatch):
    lazy = Encoded(jpeg(1600, 1200))
    assert lazy.pixels(least=0.2).shape == (300, 400, 3)
    assert lazy.pixels(least=0.3).shape == (600, 800, 3)
    assert lazy.pixels(least=0.51).shape == (1200, 1600, 3)
    assert Encoded(jpeg(800, 600)).pixels(least=0.1).shape == (600, 800, 3)
    monkeypatch.setattr(decoding, "SCALED_FROM", 10**9)
    assert Encoded(jpeg(1600, 1200)).pixels(least=0.2).shape == (1200, 1600, 3)


def test_damage_is_told_as_before(tmp_path):
    data = jpeg(1600, 1200)
    for broken in (data[: len(data) // 2], data[:300]):
        with pytest.raises(CorruptImage):
            Encoded(broken).pixels(least=0.2)
        (tmp_path / "broken.jpg").write_bytes(broken)
        with pytest.raises(VeaError, match=r"broken\.jpg"):
            read_view(tmp_path / "broken.jpg", Views(AugmentConfig(), seed=0, train=False).scene)
    assert Encoded(data + b"extra").pixels(least=0.2).shape[2] == 3


@pytest.mark.parametrize("kind", ["path", "bytes", "open", "pil", "array"])
def test_every_way_in_gives_the_view(tmp_path, kind):
    data = jpeg(1600, 1200)
    (tmp_path / "a.jpg").write_bytes(data)
    given = {
        "path": tmp_path / "a.jpg", "bytes": data, "open": io.BytesIO(data), "pil": Image.open(io.BytesIO(data)),
        "array": decode(data),
    }[kind]  # fmt: skip
    views = Views(AugmentConfig(image_size=64), seed=0, train=False)
    found = read_view(given, views.scene)
    assert abs(found.astype(int) - views.one(read_image(tmp_path / "a.jpg"), key="")).mean() < 5
