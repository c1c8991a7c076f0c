"""The 40 categories of EmoNet-Face with their synonyms, for zero-shot prompts and for reading answers.

Names and synonyms are those of its guide (LAION, arXiv 2505.20033, CC BY 4.0), each synonym once. A word may stand for
several categories: ``laughter`` is amusement and elation.
"""

from __future__ import annotations

_SYNONYMS = {
    "Amusement": "lighthearted fun; amusement; mirth; joviality; laughter; playfulness; silliness; jesting; delight",
    "Elation": "happiness; excitement; joy; exhilaration; laughter; jubilation; cheerfulness",
    "Pleasure/Ecstasy": "ecstasy; pleasure; bliss; beatitude",
    "Contentment": (
        "contentment; relaxation; peacefulness; calmness; satisfaction; ease; serenity; bliss; fulfillment; "
        "gladness; lightness; tranquility"
    ),
    "Thankfulness/Gratitude": "thankfulness; gratitude; appreciation; gratefulness",
    "Affection": "sympathy; compassion; warmth; trust; caring; forgiveness; devotion; tenderness; reverence",
    "Infatuation": "infatuation; having a crush; romantic desire; fondness; butterflies in the stomach; adoration",
    "Hope/Enthusiasm/Optimism": (
        "hope; enthusiasm; optimism; anticipation; courage; encouragement; zeal; fervor; inspiration; determination"
    ),
    "Triumph": "triumph; superiority; hubris",
    "Pride": "pride; dignity; self-confidently; honor; self-consciousness",
    "Interest": "interest; fascination; curiosity; need for cognition",
    "Awe": "awe; awestruck; wonder",
    "Astonishment/Surprise": "astonishment; surprise; amazement; shock; startlement",
    "Concentration": "concentration; deep focus; engrossment; absorption; attention",
    "Contemplation": "contemplation; thoughtfulness; pondering; reflection; meditation; brooding; pensiveness",
    "Relief": "relief; respite; alleviation; solace; comfort; liberation",
    "Longing": "yearning; longing; pining; wistfulness; nostalgia; craving; desire; benign envy; homesickness",
    "Teasing": "teasing; bantering; mocking playfully; ribbing; provoking lightly",
    "Impatience and Irritability": (
        "impatience; irritability; irritation; restlessness; short-temperedness; exasperation"
    ),
    "Sexual Lust": "sexual lust; carnal desire; lust; feeling horny; feeling turned on",
    "Doubt": "doubt; distrust; suspicion; skepticism; uncertainty; pessimism",
    "Fear": "fear; terror; dread; apprehension; alarm; horror; panic; nervousness",
    "Distress": "worry; anxiety; unease; anguish; trepidation; concern; upset; pessimism; foreboding",
    "Confusion": "confusion; bewilderment; disorientation; perplexity",
    "Embarrassment": "embarrassment; shyness; mortification; discomfiture; awkwardness; self-consciousness",
    "Shame": "shame; guilt; remorse; humiliation; contrition",
    "Disappointment": "disappointment; regret; dismay; letdown; chagrin",
    "Sadness": (
        "sadness; sorrow; grief; melancholy; dejection; despair; self-pity; sullenness; heartache; mournfulness; misery"
    ),
    "Bitterness": "resentment; acrimony; bitterness; cynicism; rancor; malicious envy",
    "Contempt": "contempt; disapproval; scorn; disdain; loathing; detestation",
    "Disgust": "disgust; revulsion; repulsion; abhorrence; loathing",
    "Anger": "anger; rage; fury; hate; irascibility; enragement; wrath; annoyance",
    "Malevolence/Malice": "spite; sadism; malevolence; malice; malicious envy; revenge; desire to harm; schadenfreude",
    "Sourness": "sourness; tartness; acidity; acerbity; sharpness",
    "Pain": "physical pain; suffering; torment; ache; agony",
    "Helplessness": "helplessness; hopelessness; powerlessness; desperation; submission",
    "Fatigue/Exhaustion": "fatigue; exhaustion; weariness; lethargy; burnout",
    "Emotional Numbness": (
        "numbness; detachment; insensitivity; emotional blunting; apathy; existential void; boredom; stoicism; "
        "indifference"
    ),
    "Intoxication/Altered States of Consciousness": (
        "being drunk; stupor; intoxication; disorientation; altered perception"
    ),
    "Jealousy & Envy": "jealousy; envy; covetousness",
}
EMONET_FACE_40: dict[str, tuple[str, ...]] = {name: tuple(words.split("; ")) for name, words in _SYNONYMS.items()}
_ALIASES = {"hopelessness": "Helplessness"}  # what one of its files calls it


def emonet_categories(word: str) -> list[str]:
    """Returns the categories that a word stands for: a category's name, a part of it, or a synonym; case is nothing."""
    wanted = word.strip().lower()
    if wanted in _ALIASES:
        return [_ALIASES[wanted]]
    return [name for name, words in EMONET_FACE_40.items()
            if wanted in (name.lower(), *name.lower().split("/"), *words)]  # fmt: skip
