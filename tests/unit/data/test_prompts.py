import json

from vea.config import PromptConfig
from vea.data.prompts import NO_TEXT, attribute_prompt, caption_of, prompt
from vea.data.synthetic import samples

FULL = {
    "scene": "bakery/shop",
    "object": ["Sports uniform", "Ball", "Dog"],
    "brightness": 0.5,
    "colorfulness": "0.3",
    "facial_expression": "happy",
    "human_action": "boxing ",
    "emotion": "amusement",
}
ATTRIBUTES = PromptConfig(source="attributes")


def test_attribute_sentences_word_for_word():
    assert attribute_prompt(FULL) == (
        "The scene type of this photo is bakery/shop. The main subjects are Sports uniform, Ball and Dog. "
        "The image has a brightness of 0.5 and color saturation of 0.3. Human facial expression is happy. "
        "The action being performed is boxing. The overall emotion conveyed is amusement."
    )


def test_missing_attributes_drop_their_sentence():
    assert attribute_prompt({"object": ["Car"], "emotion": "awe"}) == (
        "The main subjects are Car. The overall emotion conveyed is awe."
    )
    assert attribute_prompt({"object": ["Car", "Dog"], "scene": None}) == "The main subjects are Car and Dog."
    assert attribute_prompt({"object": []}) == ""
    assert attribute_prompt({"brightness": 0.0, "colorfulness": 0.0}) == (
        "The image has a brightness of 0.0 and color saturation of 0.0."
    )


def test_label_free_variant_has_no_label():
    text = attribute_prompt(FULL, emotion=False)
    assert "amusement" not in text and "emotion" not in text
    assert text.endswith("The action being performed is boxing.")
    assert attribute_prompt({"expression": "sad"}) == "Human facial expression is sad."
    assert attribute_prompt({"expression": "sad"}, emotion=False) == ""


def test_source_auto_prefers_captions():
    metadata = {"id": "a", "labels": FULL, "text": ["a dog"]}
    assert prompt(metadata, config=PromptConfig()) == "a dog"
    assert prompt(metadata, config=ATTRIBUTES).startswith("The scene type")
    assert prompt(metadata | {"text": []}, config=PromptConfig()).startswith("The scene type")
    assert prompt(metadata | {"text": []}, config=PromptConfig(source="caption")) == NO_TEXT
    assert prompt({"id": "a", "labels": {}, "text": []}, config=PromptConfig()) == NO_TEXT


def test_caption_choice_is_fixed_by_the_key_and_spreads():
    captions = [str(i) for i in range(5)]
    chosen = [caption_of({"id": f"k{i}", "text": captions}) for i in range(200)]
    assert chosen == [caption_of({"id": f"k{i}", "text": captions}) for i in range(200)]
    assert set(chosen) == set(captions)


def test_real_metadata_of_a_sample_works():
    for sample in samples(5, size=32):
        metadata = json.loads(sample.metadata())
        assert prompt(metadata, config=PromptConfig()) in sample.text
        assert f"conveyed is {sample.labels['emotion']}." in prompt(metadata, config=ATTRIBUTES)
