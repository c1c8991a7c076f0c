"""Is the evidence checked by something that could fail (benchmarks/scene_evidence.py)."""

import importlib.util

import numpy as np
import pytest

from vea.inference.evidence import cells


@pytest.fixture(scope="module")
def bench(repository):
    spec = importlib.util.spec_from_file_location("vea_scene_evidence", repository / "benchmarks" / "scene_evidence.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Model:
    """Sees how red one region is, or (``place`` None) nothing but a number that has no cause in the picture."""

    size, sd = 100, np.array([1.0, 1.0])

    def __init__(self, place):
        self.place, self.rng = place, np.random.default_rng(0)

    def view(self, image):
        return image

    def values(self, views):
        if self.place is None:
            return self.rng.normal(4, 1, (len(views), 2))
        x0, y0, x1, y1 = cells(100)[self.place]
        return np.array([[4 + view[y0:y1, x0:x1, 0].std() / 50, 4.0] for view in views])


@pytest.mark.parametrize("way", ["mean colour (as named)", "blurred", "noise", "shuffled"])
def test_each_way_changes_the_box_and_nothing_else(bench, way):
    view = np.random.default_rng(1).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    x0, y0, x1, y1 = box = (20, 40, 40, 60)
    hidden = bench.WAYS[way](view, box, np.random.default_rng(0))
    inside = np.zeros((100, 100), bool)
    inside[y0:y1, x0:x1] = True
    assert (hidden[~inside] == view[~inside]).all() and (hidden[inside] != view[inside]).any()


def test_a_cause_passes_and_a_model_without_one_does_not(bench):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (100, 100, 3), dtype=np.uint8) for _ in range(25)]
    passed = {}
    for place in (7, None):
        rows = [bench.measure(Model(place), picture, rng) for picture in pictures]
        record = bench.summary(np.array([moves for moves, _ in rows]), np.array([there for _, there in rows]))
        passed[place] = record["blurred"]["all"]["interval"][0] > 0
    assert passed == {7: True, None: False}
