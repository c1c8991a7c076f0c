"""Salient masks: which patches, the exact ratio on every picture, and the budget rule."""

import numpy as np
import pytest

from vea.data.loading.collate import mask_chances, mask_noise
from vea.data.views.salient import salient_cells, salient_noise, salient_patches

GRID, SIDE = 4, 32
N = GRID * GRID


def test_patches_half_in_a_box_or_half_of_a_small_box():
    found = salient_patches([[0, 0, 16, 8]], grid=GRID, side=SIDE).reshape(GRID, GRID)
    assert found[0].tolist() == [True, True, False, False] and not found[1:].any()
    assert np.flatnonzero(salient_patches([[9, 9, 11, 12]], grid=GRID, side=SIDE)).tolist() == [5], (
        "smaller than a patch"
    )
    assert not salient_patches([[-40, -40, -8, -8]], grid=GRID, side=SIDE).any(), "outside of the view"
    assert not salient_patches(np.empty((0, 4)), grid=GRID, side=SIDE).any()
    assert salient_patches([[-9, -9, 99, 99]], grid=GRID, side=SIDE).all()


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_salient", [0, 1, 5, 14, 16])
@pytest.mark.parametrize("num_kept", [1, 4, 12])
def test_the_ratio_is_exact_on_every_picture(probability, num_salient, num_kept):
    for picture in range(20):
        noise, chances = mask_noise(0, picture, num_patches=N)[0], mask_chances(0, picture, num_patches=N)[0]
        salient = np.zeros(N, bool)
        salient[np.random.default_rng(picture).permutation(N)[:num_salient]] = True
        changed = salient_noise(noise, chances, salient, probability=probability, num_kept=num_kept)
        kept = np.argsort(changed, kind="stable")[:num_kept]
        assert (changed < 0).sum() == num_kept and (changed[kept] < 0).all()
        if probability == 1 and num_salient <= N - num_kept:
            assert not salient[kept].any()
        if probability == 0 and num_salient <= num_kept:
            assert salient[kept].sum() == num_salient


def test_salient_patches_go_with_k_and_the_others_with_what_is_left_of_the_budget():
    num_kept, num_salient, k = 8, 5, 0.8
    salient = np.arange(N) < num_salient
    gone = np.zeros(N)
    for picture in range(4000):
        noise, chances = mask_noise(1, picture, num_patches=N)[0], mask_chances(1, picture, num_patches=N)[0]
        gone += salient_noise(noise, chances, salient, probability=k, num_kept=num_kept) >= 0
    shares = gone / 4000
    p = max(0, ((N - num_kept) - k * num_salient) / (N - num_salient))  # eMLM's rule, facts2 section 7
    assert shares[:num_salient] == pytest.approx(k, abs=0.03) and shares[num_salient:] == pytest.approx(p, abs=0.03)


def test_without_salient_patches_the_mask_is_todays():
    noise, chances = mask_noise(0, 3, num_patches=N)[0], mask_chances(0, 3, num_patches=N)[0]
    changed = salient_noise(noise, chances, np.zeros(N, bool), probability=0.9, num_kept=6)
    assert (np.argsort(changed, kind="stable") == np.argsort(noise, kind="stable")).all()


def test_chances_do_not_follow_the_noise():
    noise, chances = (make(0, "all", num_patches=20_000) for make in (mask_noise, mask_chances))
    assert chances.min() >= 0 and chances.max() < 1 and chances.mean() == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(noise.ravel(), chances.ravel())[0, 1]) < 0.02


def test_the_cells_with_the_highest_saliency_are_boxes_of_the_picture():
    map_of = np.zeros((2, 2), np.float32)
    map_of[1, 0] = 3
    assert salient_cells(map_of, size=(100, 60), share=0.25) == [[0, 30, 50, 60]]
    assert salient_cells(np.full((2, 2), np.nan), size=(100, 60), share=0.25) == []
