"""Photographs alike: the picture itself is found, what is like none is said to be like none."""

from __future__ import annotations

import numpy as np
import pytest

from vea.data import synthetic
from vea.data.shards.plan import write_dataset
from vea.data.views.decode import decode
from vea.errors import VeaError
from vea.inference.evidence import NO_EVIDENCE, persons_line
from vea.inference.like import Like
from vea.inference.scene import load_scene

FIELDS = {name: synthetic.FIELDS[name] for name in ("valence", "arousal")}


@pytest.fixture(scope="module")
def samples():
    made = []
    for sample in synthetic.samples(14, split="train", size=64):
        sample.labels = {name: sample.labels[name] for name in FIELDS}
        made.append(sample)
    return made


@pytest.fixture(scope="module")
def like(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("like") / "set"
    write_dataset({"train": samples}, folder, name="scenes", title="", card=None, fields=FIELDS)
    return Like(folder, load_scene())


def test_the_picture_itself_is_the_most_alike_with_its_caption_and_norms(like, samples):
    line = like.line(decode(samples[5].image))
    assert line.found and line.component == "scene model, photographs of scenes"
    first = line.data["photographs"][0]
    assert first["key"] == samples[5].key and first["cosine"] > 0.999 and first["caption"] == samples[5].text[0]
    assert "the same picture" in line.text and f"valence {samples[5].labels['valence']:.1f}" in line.text


def test_what_is_like_none_is_no_evidence(like):
    """The reference, in float64: the cosine of standardised features with each of the set's."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    z = (like.reader.features(noise).astype(float) - like.mean) / like.sd
    wanted = max(float(unit @ z / np.linalg.norm(z)) for unit in like.units.astype(float))
    line = like.line(noise)
    assert line.found == (wanted >= like.least) and not line.found
    assert line.text.startswith(NO_EVIDENCE) and f"{wanted:.2f} < {like.least:.2f}" in line.text


def test_sets_that_do_not_serve(samples, tmp_path):
    write_dataset({"train": samples[:3]}, tmp_path / "few", name="few", title="", card=None, fields=FIELDS)
    with pytest.raises(VeaError, match="has 3 pictures that can be read; ten are needed"):
        Like(tmp_path / "few", load_scene())
    expression = {"expression": synthetic.FIELDS["expression"]}
    faces = [s for s in synthetic.samples(9, size=48) if "expression" in s.labels]
    for sample in faces:
        sample.labels = {"expression": sample.labels["expression"]}
    write_dataset({"train": faces}, tmp_path / "faces", name="faces", title="", card=None, fields=expression)
    with pytest.raises(VeaError, match="has no valence and no arousal; give a prepared OASIS"):
        Like(tmp_path / "faces", load_scene())


class Finds:
    def __init__(self, boxes):
        self.boxes = boxes

    def prepare(self, image, metadata):
        return image

    def rows(self, prepared):
        return [{"boxes": self.boxes, "scores": [0.9] * len(self.boxes)} for _ in prepared]


def test_people_are_counted_and_nobody_is_no_evidence():
    image = np.zeros((100, 200, 3), np.uint8)
    line = persons_line(image, Finds([[0, 0, 100, 100], [150, 0, 160, 50]]))
    assert line.found and line.text == "2 people, the most prominent in 50% of the picture"
    assert persons_line(image, Finds([[0, 0, 20, 100]])).text == "1 person, in 10% of the picture"
    assert persons_line(image, Finds([])).text == f"{NO_EVIDENCE}: nobody was found"
