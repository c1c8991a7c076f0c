"""Which emotion a sentence speaks of: the judge behind EA, emotional alignment (ArtEmis; SEVLM, section 4).

TF-IDF of words and pairs of words and a logistic regression, trained on the explanations of the training split; what
it says of people's own words on the scored split is reported beside EA, for no model's words can be judged better.
"""

from __future__ import annotations

from collections.abc import Sequence

from vea.errors import VeaError


class TextEmotionClassifier:
    """Names the emotion of sentences.

    Args:
        texts: explanations of the training split.
        emotions: the emotion of each.

    Raises:
        VeaError: scikit-learn is missing, or the sentences have fewer than two emotions.
    """

    def __init__(self, texts: Sequence[str], emotions: Sequence[str]) -> None:
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
            from sklearn.linear_model import LogisticRegression
            from sklearn.pipeline import make_pipeline
        except ImportError:
            raise VeaError("EA needs the package scikit-learn: pip install 'vea[vlm]'") from None
        if len(set(emotions)) < 2:
            raise VeaError("EA needs training explanations of at least two emotions")
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        # balanced: ArtEmis has ten times as much contentment as anger
        self._model = make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))
        self._model.fit(list(texts), list(emotions))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Returns the emotion of each sentence."""
        return [str(name) for name in self._model.predict(list(texts))] if texts else []
