"""Emotion wheels of our own: one vocabulary, three wheels, no word without a place.

A word belongs to exactly one family, a family has one polarity, and each wheel gives every family a place
(sector, family). So every word is on every wheel, the order of a table means nothing, and no word can land in a
sector of the opposite polarity (tests hold all three). Sources of the sectors: Parrott (2001), six primary emotions;
Plutchik (1980), eight; the Geneva Emotion Wheel 3.0 (Scherer et al. 2013), four quadrants. Which family goes where is
an editorial choice of ours.
"""

from __future__ import annotations

from functools import cache

# family: (polarity, words). + pleasant, - unpleasant, 0 neither.
_FAMILIES: dict[str, tuple[str, str]] = {
    "joy": (
        "+",
        "joy joyful joyous joyfully joyfulness happiness happy happily happier happiest glad gladly gladness cheer "
        "cheerful cheerfully cheerfulness cheery delight delighted delightful delightfully merry merriment jovial "
        "jolly gleeful glee elated elation ecstatic ecstasy blissful bliss overjoyed euphoric euphoria jubilant "
        "jubilation rapture rapturous exultant exultation radiant beaming smiling smile sunny upbeat festive "
        "celebratory triumphant triumph enjoyment enjoy enjoying enjoyed enjoyable laughter laughing",
    ),
    "amusement": (
        "+",
        "amusement amused amusing amusingly fun funny humorous humor humour playful playfully playfulness silly comic "
        "comical hilarious hilarity whimsical whimsy joking jokey mischievous mischief entertained entertaining "
        "entertainment witty droll teasing",
    ),
    "contentment": (
        "+",
        "contentment content contented contentedly satisfaction satisfied satisfying satisfy peace peaceful peacefully "
        "peacefulness calm calmly calmness calming serene serenity serenely tranquil tranquility tranquillity relaxed "
        "relaxing relaxation ease comfortable comfort comforted comforting cozy cosy soothed soothing mellow placid "
        "harmonious harmony fulfilled fulfillment fulfilment untroubled restful",
    ),
    "excitement": (
        "+",
        "excitement excited exciting excitedly thrilled thrill thrilling exhilarated exhilaration exhilarating "
        "enthusiastic enthusiasm enthusiastically eager eagerly eagerness energetic energized energised energy lively "
        "zest zestful passionate vigorous animated vibrant electrified adventurous exuberant exuberance invigorated "
        "pumped stimulated zeal zealous",
    ),
    "pleasure": ("+", "pleasure pleased pleasing pleasant pleasantly pleasurable gratified gratification delectation"),
    "awe": (
        "+",
        "awe awed awestruck wonder wonderful wondrous wonderment majestic magnificent sublime breathtaking reverence "
        "reverent marvel marveling marvelling marvelous marvellous impressed impressive grandeur "
        "spellbound transcendence transcendent",
    ),
    "love": (
        "+",
        "love loving loved lovingly beloved affection affectionate affectionately fondness fond tender tenderly "
        "tenderness adoration adoring adore adored warm warmth warmhearted caring care attachment attached romantic "
        "romance devotion devoted intimacy intimate cherished infatuation infatuated sentimental sentimentality "
        "endearment endearing",
    ),
    "desire": ("+", "desire desiring lust lustful passion attraction attracted sensual"),
    "admiration": (
        "+",
        "admiration admire admiring admired respect respectful esteem esteemed veneration honored honoured inspired "
        "inspiration inspiring elevation appreciation appreciative appreciating",
    ),
    "gratitude": ("+", "gratitude grateful gratefully thankful thankfully thankfulness"),
    "pride": (
        "+",
        "pride proud proudly accomplished accomplishment achievement successful victorious dignity dignified",
    ),
    "confidence": (
        "+",
        "confidence confident confidently assured assurance assertive determined determination courage courageous "
        "brave bravery bold empowered powerful resolute resolve self-assured secure strong motivated motivation",
    ),
    "trust": (
        "+",
        "trust trusting trusted trustful acceptance accepting accepted approval approving friendly kindness "
        "kind belonging safe safety welcoming faith open-hearted supported",
    ),
    "hope": (
        "+",
        "hope hopeful hopefully hopefulness optimism optimistic encouraged encouragement encouraging promising",
    ),
    "relief": ("+", "relief relieved reassured reassurance unburdened"),
    "compassion": (
        "+",
        "compassion compassionate sympathy sympathetic empathy empathetic empathic kindhearted "
        "understanding forgiving forgiveness",
    ),
    "interest": (
        "+",
        "interest interested interesting curiosity curious curiously intrigued intriguing fascination fascinated "
        "fascinating engaged engagement attentive absorbed immersed inquisitive captivated",
    ),
    "anticipation": (
        "0",
        "anticipation anticipating anticipatory anticipate expectant expectation expecting awaiting vigilant vigilance "
        "alert alertness ready readiness",
    ),
    "concentration": (
        "0",
        "concentration concentrating concentrated focused focus focussed contemplation contemplative contemplating "
        "thoughtful thoughtfulness pensive pensiveness reflective reflection meditative serious seriousness "
        "realization realisation",
    ),
    "surprise": (
        "0",
        "surprise surprised surprising surprisingly surprises astonished astonishment astonishing amazed amazement "
        "amazing startled startle startling astounded stunned shocked shock speechless dumbfounded unexpected "
        "flabbergasted",
    ),
    "confusion": (
        "0",
        "confusion confused confusing confusedly perplexed perplexity puzzled puzzlement bewildered bewilderment "
        "baffled disoriented uncertain uncertainty unsure ambivalent ambivalence doubt/confusion",
    ),
    "nostalgia": (
        "0",
        "nostalgia nostalgic nostalgically wistful wistfulness longing longingly yearning yearn bittersweet "
        "sensitivity sensitive",
    ),
    "neutral": (
        "0",
        "neutral neutrality neutrally indifferent indifference emotionless expressionless impassive unemotional blank "
        "dispassionate detached stoic matter-of-fact composed composure",
    ),
    "sadness": (
        "-",
        "sadness sad sadly sadder saddened sorrow sorrowful sorrowfully grief grieving grieved unhappy unhappiness "
        "unhappily gloomy gloom melancholy melancholic mournful mourning depressed depression depressing dejected "
        "dejection despondent despondency miserable misery heartbroken heartbreak tearful tears crying weeping blue "
        "downcast disheartened woe woeful tragic glum somber sombre",
    ),
    "despair": (
        "-",
        "despair despairing desperate desperation hopeless hopelessness helpless helplessness powerless "
        "powerlessness defeated resigned resignation pessimism pessimistic overwhelmed",
    ),
    "loneliness": (
        "-",
        "loneliness lonely lonesome isolated isolation abandoned abandonment alienated alienation "
        "rejected rejection neglected disconnected disconnection forlorn desolate desolation homesick "
        "homesickness alone",
    ),
    "suffering": (
        "-",
        "suffering suffer pain painful pained hurt hurting anguish anguished agony agonized tormented "
        "torment distress distressed distressing distressful wounded torture",
    ),
    "disappointment": (
        "-",
        "disappointment disappointed disappointing disappointingly discouraged discouragement "
        "letdown let-down dissatisfied dissatisfaction discontent discontentment discontented "
        "disillusioned disillusionment displeased displeasure",
    ),
    "regret": ("-", "regret regretful regretfully remorse remorseful sorry repentant repentance"),
    "guilt": ("-", "guilt guilty guiltily culpable blame"),
    "shame": (
        "-",
        "shame ashamed shameful shamefully humiliated humiliation humiliating inferior inferiority worthless "
        "worthlessness",
    ),
    "embarrassment": (
        "-",
        "embarrassment embarrassed embarrassing embarrassedly awkward awkwardness self-conscious sheepish "
        "flustered mortified",
    ),
    "pity": ("-", "pity pitying pitiful"),
    "boredom": (
        "-",
        "boredom bored boring disinterest disinterested uninterested apathy apathetic listless dull weary "
        "tedium tedious monotonous",
    ),
    "fatigue": (
        "-",
        "fatigue fatigued tired tiredness exhausted exhaustion sleepy drained emotional-numbness numb numbness "
        "intoxication sourness",
    ),
    "fear": (
        "-",
        "fear fearful fearfully afraid scared scary frightened frightening frightful terrified terror terrifying panic "
        "panicked panicky horror horrified horrifying horrific dread dreadful dreading alarmed alarm threatened "
        "threatening menacing menaced creepy eerie petrified spooked phobia fright timid",
    ),
    "anxiety": (
        "-",
        "anxiety anxious anxiously worry worried worrying worrisome nervous nervously nervousness apprehension "
        "apprehensive tense tension tensed uneasy uneasiness unease insecure insecurity stressed stress stressful "
        "restless restlessness agitated agitation disquietment disquiet concerned concern troubled hesitant hesitation "
        "vulnerable vulnerability doubt doubtful cautious wary shy shyness unsettled suspense",
    ),
    "anger": (
        "-",
        "anger angry angrily angrier angered rage raging enraged furious fury furiously mad outraged outrage hostile "
        "hostility aggressive aggression aggressively violent violence irate wrath wrathful livid infuriated "
        "indignant indignation resentful resentment vengeful vengeance hateful hatred hate hating malevolence "
        "malice malicious defiant defiance betrayed betrayal",
    ),
    "annoyance": (
        "-",
        "annoyance annoyed annoying annoyingly irritated irritation irritating irritable irritability "
        "frustrated frustration frustrating frustratingly exasperated exasperation impatient impatience "
        " grumpy cranky grouchy aggravated aggravation bothered disapproval disapproving "
        "disapprove disagreement",
    ),
    "jealousy": ("-", "jealousy jealous jealously envy envious enviously covetous"),
    "bitterness": ("-", "bitterness bitter bitterly cynical cynicism grudge sullen"),
    "disgust": (
        "-",
        "disgust disgusted disgusting disgustedly gross revolted revolting revulsion repulsed repulsive repulsion "
        "nauseated nausea nauseous sickened sickening nasty filthy foul loathing loathe loathsome distaste distasteful "
        "aversion averse abhorrence abhorrent repugnance repugnant appalled appalling detest detestable dislike",
    ),
    "contempt": (
        "-",
        "contempt contemptuous contemptuously contemptible scorn scornful scornfully disdain disdainful disdainfully "
        "smug smugness sneering sneer mocking mockery sarcastic sarcasm condescending condescension arrogant arrogance "
        "skeptical skepticism sceptical scepticism suspicious suspicion distrust distrustful mistrust jaded",
    ),
}

# wheel: sector: (polarity of the sector, families). A neutral family may stand anywhere, a polar one never opposite.
_WHEELS: dict[str, dict[str, tuple[str, str]]] = {
    "parrott": {
        "love": ("+", "love desire admiration gratitude trust compassion"),
        "joy": ("+", "joy amusement contentment excitement pleasure pride confidence hope relief interest awe"),
        "surprise": ("0", "surprise confusion"),
        "anger": ("-", "anger annoyance jealousy bitterness disgust contempt"),
        "sadness": ("-", "sadness despair loneliness suffering disappointment regret guilt shame embarrassment pity "
                    "boredom fatigue"),
        "fear": ("-", "fear anxiety"),
        "neutral": ("0", "neutral concentration anticipation nostalgia"),
    },
    "plutchik": {
        "joy": ("+", "joy amusement contentment excitement pleasure pride relief love desire"),
        "trust": ("+", "trust admiration gratitude compassion confidence"),
        "fear": ("-", "fear anxiety embarrassment"),
        "surprise": ("0", "surprise confusion awe"),
        "sadness": ("-", "sadness despair loneliness suffering disappointment regret guilt pity fatigue"),
        "disgust": ("-", "disgust contempt boredom shame"),
        "anger": ("-", "anger annoyance jealousy bitterness"),
        "anticipation": ("0", "anticipation interest hope concentration"),
        "neutral": ("0", "neutral nostalgia"),
    },
    "geneva": {
        "pleasant, high control": ("+", "joy amusement excitement pleasure pride confidence interest hope"),
        "pleasant, low control": ("+", "love desire admiration gratitude contentment trust relief compassion awe"),
        "unpleasant, low control": ("-", "sadness despair loneliness suffering disappointment regret guilt shame "
                                    "embarrassment pity fear anxiety boredom fatigue"),
        "unpleasant, high control": ("-", "anger annoyance jealousy bitterness disgust contempt"),
        "neither": ("0", "surprise confusion neutral concentration anticipation nostalgia"),
    },
}  # fmt: skip

WHEELS = tuple(_WHEELS)
_POLARITY = {"+": 1, "0": 0, "-": -1}


@cache
def families() -> dict[str, str]:
    """Returns the family of every word of the vocabulary, in lower case."""
    return {word: name for name, (_, words) in _FAMILIES.items() for word in words.split()}


@cache
def sectors(wheel: str, level: int = 1) -> dict[str, str]:
    """Returns the place of every word on a wheel: its sector at level 1, its family at level 2."""
    place = {name: sector for sector, (_, names) in _WHEELS[wheel].items() for name in names.split()}
    return {word: place[name] if level == 1 else name for word, name in families().items()}


def word_polarity(word: str) -> int | None:
    """Returns 1, 0 or -1 for a word of the vocabulary, None for any other."""
    family = families().get(word.lower().strip())
    return None if family is None else _POLARITY[_FAMILIES[family][0]]


def sector_polarity(wheel: str, sector: str) -> int:
    """Returns 1, 0 or -1 for a sector of a wheel."""
    return _POLARITY[_WHEELS[wheel][sector][0]]


def find_words(text: str) -> list[str]:
    """Returns the emotion words of a text in order, each once, without those that are negated within three words."""
    from vea.taxonomy.negation import words_with_negation

    known = families()
    return list(dict.fromkeys(word for word, negated in words_with_negation(text) if word in known and not negated))
