"""vea: the open suite for visual emotion analysis and pretraining."""

import os as _os

_os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks PyPI for its version at import otherwise
_os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded unless the user asks: HF_HUB_OFFLINE=0

__version__ = "0.1.0"
