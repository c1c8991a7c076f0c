"""Coarse valence, arousal and dominance of emotion names."""

from __future__ import annotations

# Coarse places of ours in the space of Mehrabian and Russell (1974): octants and rough distances, not ratings.
# Published word norms are more precise, but their terms do not let a part of them be shared.
VAD: dict[str, tuple[float, float, float]] = {
    "amusement": (0.7, 0.4, 0.3),
    "awe": (0.5, 0.5, -0.3),
    "contentment": (0.8, -0.5, 0.4),
    "excitement": (0.7, 0.8, 0.3),
    "anger": (-0.6, 0.7, 0.4),
    "disgust": (-0.6, 0.3, 0.1),
    "fear": (-0.7, 0.7, -0.6),
    "sadness": (-0.7, -0.4, -0.4),
    "happiness": (0.8, 0.5, 0.4),
    "surprise": (0.2, 0.8, -0.2),
    "neutral": (0.0, 0.0, 0.0),
    "contempt": (-0.5, 0.2, 0.5),
}
