"""Splits of few data: themes stay whole, and stratified ones hold out what the label has."""

import importlib.util
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def few(repository):
    sys.path.insert(0, str(repository / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("vea_few_data_script", repository / "benchmarks" / "few_data.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(repository / "benchmarks"))
    return module


@pytest.fixture(scope="module")
def themes():
    """60 themes of 1 to 20 pictures, whose ratings go with the theme."""
    rng = np.random.default_rng(0)
    groups = np.repeat([f"theme {k}" for k in range(60)], rng.integers(1, 21, 60))
    level = dict(zip(np.unique(groups), rng.normal(4, 1, 60)))
    return np.array([level[name] for name in groups]) + rng.normal(0, 0.2, len(groups)), groups


def test_themes_never_cross_and_stratified_splits_are_nearer_to_the_whole(few, themes):
    y, groups = themes
    edges = np.quantile(y, [0.2, 0.4, 0.6, 0.8])
    off: dict[str, list[float]] = {"random": [], "stratified": []}
    for seed in range(10):
        for how, held in (
            ("random", few.random_groups(groups, seed)),
            ("stratified", few.stratified_groups(y, groups, seed)),
        ):
            assert held.dtype == bool and not set(groups[held]) & set(groups[~held])
            counts = np.bincount(np.digitize(y[held], edges), minlength=5)
            off[how].append(float(np.abs(counts - len(y) / 25).sum()))
    assert np.mean(off["stratified"]) < 0.35 * np.mean(off["random"])
    assert (few.stratified_groups(y, groups, 1) == few.stratified_groups(y, groups, 1)).all()


def test_members_are_fitted_without_what_is_held_out(few, themes):
    y, groups = themes
    rng = np.random.default_rng(1)
    x = np.stack([y + rng.normal(0, 0.3, len(y)), rng.normal(size=len(y))], 1)
    held = few.stratified_groups(y, groups, 0)
    found = few.by_member({"sees": x, "noise": x[:, 1:]}, y, groups, held)
    assert few.ccc(found["sees"], y[held]) > 0.85 and abs(few.ccc(found["noise"], y[held])) < 0.4
    spoiled = y.copy()
    spoiled[held] = 0.0  # what is held out cannot matter
    again = few.by_member({"sees": x}, spoiled, groups, held)
    np.testing.assert_array_equal(found["sees"], again["sees"])
