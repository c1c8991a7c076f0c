from pathlib import Path

import pytest
import torch

from vea.errors import VeaError
from vea.inference.intensity import Intensity, affect, k_means
from vea.taxonomy.emotions import FER2013_7, FERPLUS_8
from vea.taxonomy.vad import VAD

NAMES = ("neutral", "happiness", "sadness")


def faces(per_class: int = 200) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns features (N, 5) along one axis for each emotion, the classes, and how strong each face was made."""
    generator = torch.Generator().manual_seed(0)
    strength = torch.rand(per_class, generator=generator)
    rows, labels = [torch.zeros(per_class, 5)], [torch.zeros(per_class, dtype=torch.long)]
    for index, axis in ((1, 0), (2, 3)):
        row = torch.zeros(per_class, 5)
        row[:, axis] = 1 + strength
        rows.append(row)
        labels.append(torch.full((per_class,), index))
    found = torch.cat(rows)
    return found + 0.01 * torch.randn(found.shape, generator=generator), torch.cat(labels), strength


def test_a_stronger_face_has_a_larger_intensity_and_neutral_has_none():
    found, labels, strength = faces()
    intensity = Intensity.fit(found, labels, classes=NAMES)
    values = intensity(found)
    assert intensity.classes == ("happiness", "sadness")
    assert values[labels == 0].abs().max() < 0.05
    assert torch.corrcoef(torch.stack([values[labels == 1, 0], strength]))[0, 1] > 0.99
    assert abs(values[labels == 1, 0].quantile(0.95).item() - 1) < 1e-4


def test_two_centres_serve_an_emotion_that_has_two_looks():
    found, labels, _ = faces()
    merged = labels.clamp(max=1)  # both emotions under one name
    one = Intensity.fit(found, merged, classes=NAMES[:2]).project(found[labels == 1])
    two = Intensity.fit(found, merged, classes=NAMES[:2], centres=2).project(found[labels == 1])
    assert two.mean() > 1.3 * one.mean()


def test_centres_are_the_means_of_their_clusters():
    points = torch.tensor([[0.0], [0.2], [10.0], [10.2]])
    assert sorted(k_means(points, 2).flatten().tolist()) == pytest.approx([0.1, 10.1])


def test_written_directions_read_back_the_same(tmp_path: Path):
    found, labels, _ = faces()
    intensity = Intensity.fit(found, labels, classes=NAMES)
    intensity.write(tmp_path / "intensity.safetensors")
    assert torch.equal(Intensity.read(tmp_path / "intensity.safetensors")(found), intensity(found))


def test_a_file_without_directions_and_classes_without_neutral_are_refused(tmp_path: Path):
    with pytest.raises(VeaError, match="holds no intensity"):
        Intensity.read(tmp_path / "missing.safetensors")
    with pytest.raises(VeaError, match="neutral"):
        Intensity.fit(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), classes=("happiness",))
    with pytest.raises(VeaError, match="too few faces of sadness"):
        Intensity.fit(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1]), classes=NAMES)


@pytest.mark.parametrize("taxonomy", [FER2013_7, FERPLUS_8])
def test_affect_of_one_sure_class_is_its_place_and_of_two_the_middle(taxonomy):
    corners = affect(torch.eye(len(taxonomy)), classes=taxonomy.classes)
    assert torch.allclose(corners, torch.tensor(taxonomy.vad()))
    halves = torch.zeros(1, len(taxonomy))
    halves[0, taxonomy.classes.index("neutral")] = halves[0, taxonomy.classes.index("fear")] = 3.0  # votes, not shares
    assert torch.allclose(affect(halves, classes=taxonomy.classes)[0], torch.tensor(VAD["fear"]) / 2)
    with pytest.raises(VeaError, match="awe"):
        affect(torch.ones(1, 1), classes=("awe",))
