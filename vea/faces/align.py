"""The square crop around a face; its geometry is that of training (``vea.data.views.geometry``)."""

from __future__ import annotations

from vea.data.views.geometry import CROP_SCALE, crop_square

__all__ = ["CROP_SCALE", "crop_square"]
