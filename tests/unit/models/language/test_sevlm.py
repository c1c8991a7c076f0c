"""SEVLM and prefix models: what a token may depend on, lexicons, sentences, and the ways to write."""

import json
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch

pytest.importorskip("transformers")

from vea.config import ExplainModelConfig, GenerateConfig
from vea.errors import VeaError
from vea.metrics.text_emotion import TextEmotionClassifier
from vea.models.feature_cache import KeptFeatures, pool_patches
from vea.models.language.sevlm import Explainer
from vea.models.language.tokens import HubTokens, WordTokens, make_sentences
from vea.models.language.vad import VadEncoder, built_in, lemmas, look_up, read_lexicon, vad_table
from vea.tasks.explain_metrics import dominant_emotion, pairs_of

EMOTIONS = ["awe", "fear", "something else"]
TEXTS = ["the sky is dark and a dog runs", "a happy child because of the sun", "angry waves and a sad boat at sea"]


@pytest.fixture(scope="module")
def tokens():
    return WordTokens.learn(TEXTS, emotions=EMOTIONS, size=100)


def build(tokens, kind="sevlm", seed=0, wild=True, **decoder):
    torch.manual_seed(seed)
    sizes = {"width": 32, "depth": 2, "heads": 2, **decoder}
    config = ExplainModelConfig(kind=kind, max_tokens=40, decoder=sizes)
    table = vad_table(tokens.words(), built_in())
    model = Explainer(config, tokens=tokens, features=12, token_vad=table, heads=("vad", "contrastive")).eval()
    for parameter in model.parameters() if wild else ():  # at the start VAD and segments do nothing
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module", params=["sevlm", "prefix"])
def model(request, tokens):
    return build(tokens, request.param)


def features(count=2, seed=1):
    return torch.randn(count, 5, 12, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------------------- sentences


def test_spans_follow_each_sentences_own_because(tokens):
    pairs = [("fear", TEXTS[1]), ("something else", "the sky"), ("awe", ""), ("", TEXTS[0])]
    made = make_sentences(pairs, tokens, max_tokens=40)
    prompt = 4  # <end> the emotion is
    assert made.emotion.sum(1).tolist() == [prompt + 1, prompt + 2, prompt + 1, prompt]
    words = len(tokens.encode(TEXTS[0]))
    assert made.explanation.sum(1).tolist() == [1 + 7 + 1, 1 + 2 + 1, 1, 1 + words + 1]  # because, words, <end>
    assert made.answer.sum(1).tolist() == [1 + 9, 2 + 4, 1 + 1, words + 1], "an unknown emotion is not learned"
    assert (made.mask == (made.emotion | made.explanation)).all() and not (made.emotion & made.explanation).any()
    assert tokens.text(made.ids[1, prompt:]) == "something else because the sky"


def test_a_text_of_ten_thousand_words_is_cut(tokens):
    made = make_sentences([("fear", "dark " * 10_000)], tokens, max_tokens=12)
    assert made.ids.shape == (1, 12) and made.answer.sum() == 12 - 4 and made.ids[0, -1] != tokens.end


def test_the_vocabulary_keeps_what_a_sentence_needs(tokens):
    small = WordTokens.learn(TEXTS, emotions=EMOTIONS, size=11)
    assert small.size == 11 and small.decode(small.encode("the emotion is something else because")).count(" ") == 5
    assert tokens.decode(tokens.encode("a zebra runs")) == "a runs"


# ----------------------------------------------------------------------------------------------------------- causality


def test_no_future_word_changes_an_earlier_logit(model, tokens):
    made = make_sentences([("fear", TEXTS[0]), ("awe", TEXTS[2])], tokens, max_tokens=40)
    memory = model.memory(features())
    with torch.no_grad():
        logits, _ = model(memory, made)
        for place in range(1, made.ids.shape[1]):
            changed = make_sentences([("fear", TEXTS[0]), ("awe", TEXTS[2])], tokens, max_tokens=40)
            changed.ids[:, place:] = torch.randint(2, tokens.size, changed.ids[:, place:].shape)
            assert torch.equal(model(memory, changed)[0][:, :place], logits[:, :place]), place


def test_the_image_and_the_words_before_do_change_a_logit(model, tokens):
    made = make_sentences([("fear", TEXTS[0])], tokens, max_tokens=40)
    with torch.no_grad():
        logits, _ = model(model.memory(features(1)), made)
        assert not torch.allclose(model(model.memory(features(1, seed=2)), made)[0], logits)
        made.ids[:, 6] = tokens.encode("happy")[0]
        assert not torch.allclose(model(model.memory(features(1)), made)[0][:, 6:], logits[:, 6:])


def test_pads_change_nothing(model, tokens):
    alone = make_sentences([("fear", "the sky")], tokens, max_tokens=40)
    beside = make_sentences([("fear", "the sky"), ("awe", TEXTS[2])], tokens, max_tokens=40)
    length = alone.ids.shape[1]
    assert beside.ids.shape[1] > length
    with torch.no_grad():
        one, _ = model(model.memory(features(1)), alone)
        two, _ = model(model.memory(features(1)).expand(2, -1, -1), beside)
        beside.ids[0, length:] = 5
        three, _ = model(model.memory(features(1)).expand(2, -1, -1), beside)
    assert torch.allclose(two[:1, :length], one, atol=1e-5) and torch.allclose(three[:1, :length], one, atol=1e-5)


def test_the_vad_encoder_looks_back_only():
    torch.manual_seed(0)
    encoder, vad = VadEncoder(max_tokens=9).eval(), torch.randn(2, 9, 3)
    before = encoder(vad)
    vad[:, 5:] = 0.5
    after = encoder(vad)
    assert torch.equal(before[:, :5], after[:, :5]) and not torch.allclose(before[:, 5:], after[:, 5:])


# ------------------------------------------------------------------------------------------------------------- writing


def write(model, tokens, images=32, **options):
    memory = model.memory(features(images, seed=3))
    settings = GenerateConfig(**{"max_new_tokens": 12, **options.pop("settings", {})})
    return model.write(memory, tokens=tokens, settings=settings, emotions=EMOTIONS, **options)


def test_cache_and_batch_size_change_no_token(model, tokens):
    together = write(model, tokens)
    assert len({tuple(row) for row in together.tolist()}) > 1, "all the same: nothing is compared"
    assert torch.equal(together, write(model, tokens, use_cache=False))
    memory = model.memory(features(32, seed=3))
    settings = GenerateConfig(max_new_tokens=12)
    for row in range(32):
        alone = model.write(memory[row : row + 1], tokens=tokens, settings=settings, emotions=EMOTIONS)
        assert tokens.text(alone[0]) == tokens.text(together[row])


@pytest.mark.parametrize("method", ["greedy", "beam", "nucleus"])
def test_a_step_reads_one_new_token(tokens, monkeypatch, method):
    decoder, lengths = (model := build(tokens)).decoder, []
    transformer = decoder.transformer.forward

    def counted(*, inputs_embeds, **options):
        lengths.append(inputs_embeds.shape[1])
        return transformer(inputs_embeds=inputs_embeds, **options)

    monkeypatch.setattr(decoder.transformer, "forward", counted)
    write(model, tokens, 2, settings={"method": method, "constrain": False})
    assert lengths[0] == 4 and len(lengths) > 3 and set(lengths[1:]) == {1}, "the cache is dropped without a word"


def test_products_by_onednn_change_no_token(model, tokens, monkeypatch):
    together = write(model, tokens)
    monkeypatch.setattr("vea.models.language.sevlm.quick_products", lambda decoder: nullcontext())
    assert torch.equal(together, write(model, tokens))


def test_cache_changes_no_beam(model, tokens):
    beam = {"settings": {"method": "beam", "beams": 3}}
    assert torch.equal(write(model, tokens, 4, **beam), write(model, tokens, 4, use_cache=False, **beam))


def test_a_beam_explains_the_emotion_that_is_most_likely_whatever_the_batch(model, tokens):
    beam = {"settings": {"method": "beam", "beams": 3}}
    together, greedy = write(model, tokens, 8, **beam), write(model, tokens, 8)
    named = [tokens.text(row).split(" because")[0] for row in greedy]
    assert [tokens.text(row).split(" because")[0] for row in together] == named
    memory = model.memory(features(8, seed=3))
    settings = GenerateConfig(max_new_tokens=12, method="beam", beams=3)
    for row in range(8):
        alone = model.write(memory[row : row + 1], tokens=tokens, settings=settings, emotions=EMOTIONS)
        assert tokens.text(alone[0]) == tokens.text(together[row])


def test_the_answer_starts_with_an_emotion(model, tokens):
    for method in ("greedy", "beam", "nucleus"):
        for row in write(model, tokens, 6, settings={"method": method}):
            assert any(tokens.text(row).startswith(f"{name} because") for name in EMOTIONS)


def test_an_emotion_that_is_asked_for_is_what_is_explained(model, tokens):
    rows = write(model, tokens, 4, emotion="something else")
    assert all(tokens.text(row).startswith("something else because") for row in rows)
    assert rows.shape[1] <= 12, "the emotion counts: the decoder has no positions beyond"


def test_n_best_are_different_and_greedy_has_one(model, tokens):
    rows = write(model, tokens, 2, settings={"method": "beam"}, count=4)
    assert len(rows) == 8 and len({tuple(row) for row in rows[:4].tolist()}) == 4
    with pytest.raises(VeaError, match="greedy decoding has one result"):
        write(model, tokens, 2, count=2)


def test_a_pair_of_words_is_not_written_twice_where_that_is_asked(model, tokens):
    def most_repeated(**settings):
        pairs = []
        for row in write(model, tokens, 16, settings={"max_new_tokens": 24, **settings}).tolist():
            words = row[row.index(tokens.because) + 1 :]  # behind what may have been given
            words = words[: words.index(tokens.end)] if tokens.end in words else words
            pairs.append(max(Counter(pairwise(words)).values(), default=0))
        return max(pairs)

    assert most_repeated() > 1, "nothing repeats: nothing is shown"
    for method in ("greedy", "beam"):
        assert most_repeated(method=method, no_repeat_ngram=2) == 1


def test_the_last_logits_alone_are_the_last_of_all(tokens):
    decoder, memory = (model := build(tokens)).decoder, model.memory(features())
    ids = make_sentences([("fear", TEXTS[0]), ("awe", TEXTS[2])], tokens, max_tokens=12).ids
    with torch.no_grad():
        whole = decoder(ids, encoder_hidden_states=memory).logits
        last = decoder(ids, encoder_hidden_states=memory, logits_to_keep=1).logits
    assert whole.shape[1] == ids.shape[1] and torch.allclose(last, whole[:, -1:], atol=1e-5)


# ------------------------------------------------------------------------------------------------------------ lexicons


def test_nrc_vad_of_both_scales(tmp_path):
    (tmp_path / "one.txt").write_text(
        "Word\tValence\tArousal\tDominance\nhappy\t1.000\t0.735\t0.772\nsad\t0.225\t0.333\t0.149\n"
    )
    (tmp_path / "two.txt").write_text(
        "term\tvalence\tarousal\tdominance\nhappy\t1.0\t0.47\t0.544\nsad\t-0.55\t-0.334\t-0.702\n"
    )
    one, two = read_lexicon(tmp_path / "one.txt"), read_lexicon(tmp_path / "two.txt")
    assert one["happy"] == pytest.approx(two["happy"]) and one["sad"] == pytest.approx(two["sad"])


def test_warriner(vea_data):
    found = read_lexicon(vea_data / "lexicons" / "warriner_xanew" / "Ratings_Warriner_et_al.csv")
    assert len(found) == 13_905 and found["aardvark"] == pytest.approx((0.315, -0.6475, -0.1825))
    assert all(-1 <= value <= 1 for row in found.values() for value in row)


@pytest.mark.parametrize(
    "content", ["", "happy,1,2,3\n", "happy\t1\t2\n", "happy\thigh\tlow\tlow\n", "happy\t7\t3\t2\n", "\x00\xff"]
)
def test_a_lexicon_in_another_format_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "words.txt").write_bytes(content.encode("latin-1"))
    with pytest.raises(VeaError, match="is neither NRC-VAD") as caught:
        read_lexicon(tmp_path / "words.txt")
    assert "\n" not in str(caught.value)


def test_a_form_of_a_word_has_its_rating():
    lexicon = {"run": (1.0, 0.0, 0.0), "happy": (0.0, 1.0, 0.0), "hope": (0.0, 0.0, 1.0), "the": (0.5, 0.5, 0.5)}
    assert look_up("running", lexicon) == look_up("runs", lexicon) == lexicon["run"]
    assert look_up("Happiest", lexicon) == look_up("happily", lexicon) == lexicon["happy"]
    assert look_up("hoping", lexicon) == look_up("hoped", lexicon) == lexicon["hope"]
    assert look_up("sky", lexicon) == (0, 0, 0) and "is" in list(lemmas("is"))


# ------------------------------------------------------------------------------------------- models of Hugging Face


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny GPT-2 with a tokenizer that has no pad token, as GPT-2's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = [
        "<|endoftext|>",
        "<unk>",
        *(f"Ġ{word}" for word in [*" ".join(TEXTS).split(), "because", "emotion", "fear"]),
    ]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    path = tmp_path_factory.mktemp("decoder")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", unk_token="<unk>").save_pretrained(
        path
    )
    config = GPT2Config(vocab_size=len(vocabulary) + 5, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["sevlm", "prefix"])
def test_a_local_decoder_starts_from_its_weights(folder, kind):
    from safetensors.torch import load_file

    tokens = HubTokens(str(folder))
    assert tokens.tokenizer.pad_token is None and tokens.words()[2] == "the"
    model = build(tokens, kind, wild=False, path=str(folder))
    own, theirs = model.decoder.state_dict(), load_file(folder / "model.safetensors")
    assert torch.equal(own["transformer.h.1.attn.c_attn.weight"], theirs["transformer.h.1.attn.c_attn.weight"])
    made = make_sentences([("fear", "the sky"), ("fear", TEXTS[2])], tokens, max_tokens=40)
    assert made.answer.sum(1).tolist() == [1 + 1 + 2 + 1, 1 + 1 + 8 + 1]
    memory = model.memory(features())
    assert model(memory, made)[0].isfinite().all()
    rows = model.write(memory, tokens=tokens, settings=GenerateConfig(max_new_tokens=6), emotions=["fear"])
    assert all(tokens.text(row).startswith("fear because") for row in rows)


def test_folders_that_do_not_serve_are_refused(folder, tmp_path):
    with pytest.raises(VeaError, match="no folder"):
        HubTokens(str(tmp_path / "nothing"))
    with pytest.raises(VeaError, match="has no tokenizer"):
        HubTokens(str(tmp_path))
    other = tmp_path / "llama"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(VeaError, match="sevlm needs GPT-2's family and this is llama"):
        build(HubTokens(str(folder)), path=str(other))


# ------------------------------------------------------------------------------------------------- pictures and scores


def test_patches_are_pooled_in_two_dimensions():
    grid = torch.arange(16.0).reshape(1, 16, 1)
    assert pool_patches(grid, 4).flatten().tolist() == [2.5, 4.5, 10.5, 12.5], "the four quarters of a 4 x 4 grid"
    assert pool_patches(grid, 2).flatten().tolist() == [3.5, 11.5], "two is no square: along the rows"
    assert pool_patches(grid, None) is grid and pool_patches(grid, 99) is grid


def test_kept_features_are_computed_once_even_by_another_run(tmp_path):
    asked = []

    def make(places):
        asked.append(places)
        return torch.full((len(places), 2, 3), float(len(asked)))

    first = KeptFeatures(tmp_path)
    assert first.get(["a", "b"], make).shape == (2, 2, 3)
    assert KeptFeatures(tmp_path).get(["b", "c"], make)[:, 0, 0].tolist() == [1.0, 2.0]
    assert asked == [[0, 1], [1]]


def test_the_dominant_emotion_has_more_than_half():
    assert dominant_emotion([("fear", "a"), ("fear", "b"), ("awe", "c")]) == "fear"
    assert dominant_emotion([("fear", "a"), ("awe", "b")]) == ""


def test_captions_without_an_emotion_teach_words_where_asked():
    texts = ["fear because it is dark", "a dog"]
    assert pairs_of(texts, "", EMOTIONS) == [("fear", "it is dark")]
    assert pairs_of(texts, "", EMOTIONS, unlabelled=True) == [("fear", "it is dark"), ("", "a dog")]


def test_the_judge_of_sentences_learns_their_emotion():
    pytest.importorskip("sklearn", reason="needs the extra: pip install 'vea[vlm]'")
    dark, light = ["a dark wood at night", "a dark cellar", "night and fog"], ["a bright sky", "sun on a bright field"]
    judge = TextEmotionClassifier([*dark, *light], ["fear"] * 3 + ["awe"] * 2)
    assert judge.predict(["the night is dark", "the sun is bright"]) == ["fear", "awe"] and judge.predict([]) == []
    with pytest.raises(VeaError, match="two emotions"):
        TextEmotionClassifier(dark, ["fear"] * 3)
