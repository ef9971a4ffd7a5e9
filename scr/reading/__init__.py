"""How texts are read: the objects that one mentions and where, and how an answer leans between yes and no."""

from typing import TYPE_CHECKING

from .._hooks import on_demand

if TYPE_CHECKING:
    from .answers import AnswerTokens, answer_margins, answer_tokens
    from .objects import Mentions, find_objects, singular, singulars, synonyms
    from .places import Reader, Sentences, Span, lower_with_places, place_words, written_span

__getattr__ = on_demand(__name__)
