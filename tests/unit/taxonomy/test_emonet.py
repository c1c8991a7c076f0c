from vea.taxonomy.emonet import EMONET_FACE_40, emonet_categories


def test_there_are_forty_categories_each_with_synonyms_that_lead_back():
    assert len(EMONET_FACE_40) == 40
    for name, words in EMONET_FACE_40.items():
        assert words and len(set(words)) == len(words)
        assert all(name in emonet_categories(word) for word in (name, name.upper(), *words))


def test_a_word_may_be_of_several_categories_and_an_alias_is_of_one():
    assert {"Amusement", "Elation"} <= set(emonet_categories("laughter"))
    assert emonet_categories("Surprise") == ["Astonishment/Surprise"]
    assert emonet_categories("Hopelessness") == ["Helplessness"] and emonet_categories("table") == []
