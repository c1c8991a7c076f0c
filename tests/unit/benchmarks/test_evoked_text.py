"""The text side of what is evoked: the control keeps ratings and loses meaning; the network learns what is there."""

import importlib.util

import numpy as np
import pytest

from vea.errors import VeaError


@pytest.fixture(scope="module")
def evoked(repository):
    path = repository / "benchmarks" / "evoked_text.py"
    spec = importlib.util.spec_from_file_location("vea_evoked_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_dealt_lexicon_has_the_same_words_and_the_same_ratings(evoked):
    lexicon = {f"word{k}": (k / 100, -k / 100, 0.0) for k in range(100)}
    dealt = evoked.dealt(lexicon, seed=1)
    assert list(dealt) == list(lexicon) and sorted(dealt.values()) == sorted(lexicon.values())
    assert sum(dealt[word] == rating for word, rating in lexicon.items()) < 10
    assert evoked.dealt(lexicon, seed=1) == dealt != evoked.dealt(lexicon, seed=2)


def test_what_is_there_is_learned_and_what_is_not_is_not(evoked):
    rng = np.random.default_rng(0)
    x = {split: rng.normal(size=(count, 6)).astype(np.float32) for split, count in
         (("train", 400), ("dev", 100), ("test", 200))}  # fmt: skip
    y = {split: np.stack([3 + rows[:, 0], 3 - rows[:, 1], rng.normal(size=len(rows))], 1).astype(np.float32)
         for split, rows in x.items()}  # fmt: skip
    found = evoked.learn(x, y, seed=0)
    assert found[0] > 0.9 and found[1] > 0.9 and abs(found[2]) < 0.25
    assert found == evoked.learn(x, y, seed=0)


def test_a_table_without_splits_is_told(evoked, tmp_path):
    (tmp_path / "a.csv").write_text("id,split,V,A,D,text\n1,train,3,3,3,words\n")
    with pytest.raises(VeaError, match="no splits train, dev and test"):
        evoked.read_emobank(tmp_path / "a.csv")
