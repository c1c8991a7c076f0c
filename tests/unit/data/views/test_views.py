"""Decoding of every kind of file, shared geometry of the two views, keyed randomness, evaluation without resampling."""

import io
import random
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from vea.config import AugmentConfig
from vea.data.loading.order import KeyedUniforms
from vea.data.views import geometry
from vea.data.views.decode import CorruptImage, decode
from vea.data.views.geometry import eval_window, placed_boxes
from vea.data.views.person import person_window
from vea.data.views.views import Views
from vea.errors import VeaError


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth RGB picture: red grows to the right, green to the bottom."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], -1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# ------------------------------------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_formats_decode_to_the_same_rgb(kind):
    expected = picture()
    found = decode(encoded(Image.fromarray(expected), kind, quality=95))
    assert found.dtype == np.uint8 and found.shape == expected.shape and found.flags.c_contiguous
    assert np.abs(found.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "RGBA", "1"])
def test_odd_modes_become_rgb(mode):
    image = Image.fromarray(picture()).convert(mode)
    found = decode(encoded(image, {"CMYK": "JPEG"}.get(mode, "PNG")))
    assert found.shape == (60, 80, 3)
    assert np.abs(found.astype(int) - np.array(image.convert("RGB"))).mean() < 4


def test_grey_and_progressive_jpeg():
    grey = decode(encoded(Image.fromarray(picture()).convert("L"), "JPEG"))
    assert grey.shape == (60, 80, 3) and (grey[..., 0] == grey[..., 2]).all()
    assert decode(encoded(Image.fromarray(picture()), "JPEG", progressive=True)).shape == (60, 80, 3)


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16)
    for array in (ramp, np.stack([ramp] * 3, -1)):
        found = decode(cv2.imencode(".png", array)[1].tobytes())
        assert np.abs(found[..., 0].astype(int) - (ramp >> 8)).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    found = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100))
    assert found.shape == (10, 20, 3)
    assert found[5, 10, 0] > 240 and found[5, 10, 2] < 15


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_thin_images_make_views(size):
    image = decode(encoded(Image.new("RGB", size, "red"), "PNG"))
    for train in (True, False):
        scene, person, has_person = Views(AugmentConfig(image_size=16), seed=0, train=train).two(
            image, boxes=[[0, 0, 1, 1]], key="k"
        )
        assert scene.shape == person.shape == (16, 16, 3) and not has_person
        assert scene[..., 0].min() > 240


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    from PIL import ImageOps

    image = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {"quality": 95}))
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    found = decode(data)
    assert found.shape == expected.shape == ((80, 60, 3) if orientation > 4 else (60, 80, 3))
    assert np.abs(found.astype(int) - expected).mean() < 2


def test_exif_is_found_behind_other_segments_and_padding():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(picture()), "JPEG", exif=exif, quality=95)
    start = data.index(b"\xff\xe1")
    comment = b"\xff\xfe\x00\x08Exif\x00\x00"  # a comment that only looks like it
    for between in (comment, comment + b"\xff\xff\xff", b"\xff\xed\xea\x60" + bytes(59998)):
        assert decode(data[:start] + between + data[start:]).shape == (80, 60, 3)
    plain = encoded(Image.fromarray(picture()), "JPEG", quality=95)
    assert decode(plain[:2] + comment + plain[2:]).shape == (60, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_corrupt_files(kind):
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)), kind)
    for broken in (b"", b"hello", whole[:20], whole[: len(whole) // 2], whole[:8] + bytes(200)):
        with pytest.raises(CorruptImage):
            decode(broken)


def test_harmless_extra_bytes_in_a_jpeg():
    whole = encoded(Image.fromarray(picture()), "JPEG")
    assert decode(whole[:-2] + b"\x00\x00" + whole[-2:]).shape == (60, 80, 3)
    assert decode(whole + b"trailing").shape == (60, 80, 3)


def test_huge_images_are_refused_by_their_header():
    def png(width: int, height: int) -> bytes:
        def chunk(name: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

    jpeg = bytearray(encoded(Image.fromarray(picture()), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 30_000, 30_000)
    for data in (png(30_000, 30_000), png(30_000, 1), png(20_000, 20_000), bytes(jpeg)):
        with pytest.raises(CorruptImage, match=r"refused before decoding|exceeds limit"):
            decode(data)


# --------------------------------------------------------------------------------------------------------------- views


def test_views_never_disagree_on_the_flip():
    image = picture(120, 160)  # red grows to the right, in every crop
    views = Views(AugmentConfig(image_size=32, scale=(0.5, 1.0)), seed=3)
    flips = []
    for n in range(60):
        scene, person, has_person = views.two(image, boxes=[[40, 20, 120, 110]], key=f"k{n}")
        assert has_person
        to_left = [int(view[:, 0, 0].mean()) > int(view[:, -1, 0].mean()) for view in (scene, person)]
        assert to_left[0] == to_left[1]
        flips.append(to_left[0])
    assert 10 < sum(flips) < 50


def test_randomness_is_keyed_by_seed_pass_and_key():
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    config = AugmentConfig(image_size=24, rotate=20, color_jitter=0.4, grayscale=0.3, erase=0.5,
                           rand_augment="rand-m9-mstd0.5-inc1")  # fmt: skip
    boxes = [[10, 10, 60, 60]]

    def make(seed: int, key: str, pass_number: int) -> np.ndarray:
        return np.stack(Views(config, seed=seed).two(image, boxes=boxes, key=key, pass_number=pass_number)[:2])

    reused = Views(config, seed=1)
    for key in ("a", "b", "c"):
        reused.two(image, boxes=boxes, key=key, pass_number=4)  # what came before leaves no trace
    for key in ("c", "a"):
        assert (np.stack(reused.two(image, boxes=boxes, key=key, pass_number=4)[:2]) == make(1, key, 4)).all()
    first = make(1, "a", 4)
    assert all((first != other).any() for other in (make(2, "a", 4), make(1, "a", 5), make(1, "b", 4)))
    assert (first[0] != first[1]).any()


def test_rand_augment_leaves_the_global_generators_alone():
    views = Views(AugmentConfig(image_size=16, rand_augment="rand-m9-mstd0.5"), seed=0)
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    views.one(picture(), key="x")
    assert (random.random(), np.random.random()) == expected
    with pytest.raises(VeaError, match="rand_augment"):
        Views(AugmentConfig(rand_augment="autoaug"), seed=0)


@pytest.mark.parametrize("option", ["color_jitter", "grayscale", "erase", "rotate"])
def test_each_option_changes_the_view(option):
    plain = Views(AugmentConfig(image_size=32), seed=0).one(picture(), key="k")
    value = {"color_jitter": 0.5, "grayscale": 1.0, "erase": 1.0, "rotate": 30.0}[option]
    changed = Views(AugmentConfig(image_size=32, **{option: value}), seed=0).one(picture(), key="k")
    assert (plain != changed).any()
    if option == "grayscale":
        assert (changed[..., 0] == changed[..., 1]).all()


def test_crop_area_stays_in_scale():
    numbers = KeyedUniforms("test")
    areas = []
    for _ in range(500):
        window = geometry.random_resized_window(numbers, width=400, height=300, scale=(0.2, 1), ratio=(0.75, 4 / 3))
        x0, y0, x1, y1 = window
        assert 0 <= x0 < x1 <= 400 and 0 <= y0 < y1 <= 300
        areas.append((x1 - x0) * (y1 - y0) / 120_000)
        assert 0.7 < (x1 - x0) / (y1 - y0) < 1.4
    assert 0.19 < min(areas) < 0.25 and max(areas) > 0.9


def test_person_window():
    boxes = [[40, 20, 60, 80], [0, 0, 5, 5]]
    assert person_window(boxes, width=100, height=100) == (39, 17, 61, 83)  # 10 % larger, centred
    assert person_window([[-50, -50, 30, 30]], width=100, height=100) == (0, 0, 34, 34)
    assert person_window([], width=100, height=100) is None
    for box in ([200, 200, 300, 300], [10, 10, 10, 50], [5, 5, 6, 6], [0, 0, float("nan"), 5], [1, 2, 3]):
        assert person_window([box], width=100, height=100) is None
    for n in range(50):
        numbers = KeyedUniforms("box", n)
        x0, y0, x1, y1 = person_window([[40, 20, 60, 80]], width=100, height=100, numbers=numbers)
        assert x0 <= 42 and y0 <= 24 and x1 >= 58 and y1 >= 76 and 20 <= x1 - x0 <= 25 and 60 <= y1 - y0 <= 73


def test_person_view_shows_the_box_and_the_whole_image_without_one():
    image = np.zeros((100, 200, 3), np.uint8)
    image[30:70, 120:160] = 255
    views = Views(AugmentConfig(image_size=20), seed=0, train=False)
    _, person, has_person = views.two(image, boxes=[[120, 30, 160, 70]], key="k")
    assert has_person and person.mean() > 200
    _, person, has_person = views.two(image, boxes=[], key="k")
    assert not has_person
    assert (person == cv2.resize(image, (20, 20), interpolation=cv2.INTER_AREA)).all()


# ---------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("eval_crop", [0.875, 1.0])
def test_small_faces_are_not_resampled(eval_crop):
    face = np.random.default_rng(0).integers(0, 255, (48, 48), dtype=np.uint8)
    data = encoded(Image.fromarray(face), "PNG")
    for channels in (1, 3):
        views = Views(AugmentConfig(image_size=48, eval_crop=eval_crop), seed=0, channels=channels, train=False)
        view = views.one(decode(data), key="k")
        assert view.shape == (48, 48, channels)
        assert (view == face[..., None]).all()


def test_eval_window_is_resize_then_centre_crop():
    assert eval_window(width=500, height=400, image_size=224, eval_crop=0.875) == (75, 25, 425, 375)
    assert eval_window(width=500, height=400, image_size=224, eval_crop=1.0) == (50, 0, 450, 400)
    assert eval_window(width=30, height=40, image_size=48, eval_crop=0.5) == (0, 5, 30, 35)
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8), (0, 0), 6)
    found = Views(AugmentConfig(image_size=224), seed=0, train=False).one(image, key="k")
    resized = cv2.resize(image, (320, 256), interpolation=cv2.INTER_CUBIC)[16:240, 48:272]
    assert np.abs(found.astype(int) - resized).mean() < 1


def test_eval_does_not_depend_on_seed_or_key():
    one, two = (Views(AugmentConfig(image_size=16), seed=seed, train=False) for seed in (0, 1))
    assert (one.one(picture(), key="a") == two.one(picture(), key="b", pass_number=3)).all()


@pytest.mark.parametrize("train", [True, False])
def test_placed_boxes_are_where_the_views_show_them(train):
    """A bright rectangle in a dark picture is found in both views at its placed box, mirrored or not."""
    config = AugmentConfig(image_size=64, scale=(0.6, 1.0), interpolation="area")
    views, people = Views(config, seed=0, train=train), [[20, 10, 90, 80]]
    image = np.zeros((100, 120, 3), np.uint8)
    box = [40, 30, 70, 60]
    image[30:60, 40:70] = 255
    for number in range(20):
        key = str(number)
        shown = views.two(image, boxes=people, key=key)
        placed = views.placed([box], size=(120, 100), around=people, key=key)
        for view, found in zip(shown, placed):
            rows, columns = np.nonzero(view[..., 0] > 127)
            if not len(rows):
                continue
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(np.clip(found[0], 0, 64) - seen).max() <= 2.5


def test_a_placed_box_turns_with_its_view():
    window, side = (0, 0, 64, 64), 64
    (turned,) = placed_boxes([[40, 10, 60, 20]], window, side=side, flip=False, degrees=90)
    assert turned == pytest.approx([10, 3, 20, 23], abs=1.01)
