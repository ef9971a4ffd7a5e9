"""Texts about a user's own images, and which of their words may be made up: what `scr.describe` is made of."""

from typing import TYPE_CHECKING

from .._hooks import on_demand

if TYPE_CHECKING:
    from .describe import MEASURES
    from .doubts.scores import Calibration, feature, find_calibration, list_calibrations
    from .doubts.words import content_words
    from .dropping import drop_doubtful
    from .encoding import encode_prompts
    from .images import ImageError, read_image

__getattr__ = on_demand(__name__)
