"""Which arguments of `generate` a run may be given: checked before a model is loaded, as a wrong one ends the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from transformers import GenerationConfig
from transformers.generation import GenerationMode

from scr import ConfigError
from scr.errors import suggestion

SAMPLING = ("temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Arguments that say how to sample."""

# These change what `generate` returns or who sees the logits, which the runner depends on.
_RESERVED = (
    "num_return_sequences",
    "return_dict_in_generate",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
)
# The others run code from the hub.
_MODES = (
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
    GenerationMode.ASSISTED_GENERATION,
)


class _Kind(NamedTuple):
    """What an argument may be: in words, and as a test; and whether transformers wants a float of it."""

    words: str
    fits: Callable[[Any], bool]
    is_float: bool = False


def _whole(least: int) -> _Kind:
    return _Kind(f"a whole number of {least} or more", lambda value: type(value) is int and least <= value < 2**63)


def _number(words: str, fits: Callable[[float], bool]) -> _Kind:
    def is_one(value: Any) -> bool:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max and fits(value)

    return _Kind(words, is_one, is_float=True)


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(of, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


_FLAG = _Kind("true or false", lambda value: type(value) is bool)
_TOKEN = _whole(0)
_TOKENS = _Kind("a token id or a list of them", lambda value: _TOKEN.fits(value) or _is_list(value, _TOKEN.fits))
_TOKEN_LIST = _Kind("a list of token ids", lambda value: _is_list(value, _TOKEN.fits))
_POSITIVE = _number("a number above 0", lambda value: value > 0)
_SHARE = _number("a number above 0 and at most 1", lambda value: 0 < value <= 1)
_SHARE_OR_0 = _number("a number from 0 to 1", lambda value: 0 <= value <= 1)
_CUTOFF = _number("a number from 0 to below 1", lambda value: 0 <= value < 1)

# What transformers finds out when it generates, or not at all. null stands for its own default everywhere.
_KINDS: dict[str, _Kind] = {
    **dict.fromkeys(("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values", "token_healing"), _FLAG),
    **dict.fromkeys(("max_new_tokens", "max_length", "num_beams", "prompt_lookup_num_tokens"), _whole(1)),
    **dict.fromkeys(("min_new_tokens", "min_length", "top_k", "no_repeat_ngram_size"), _whole(0)),
    "encoder_no_repeat_ngram_size": _whole(0),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "max_time"), _POSITIVE),
    "temperature": _number("a number of 0 or more", lambda value: value >= 0),
    **dict.fromkeys(("top_p", "top_h", "typical_p"), _SHARE),
    "min_p": _SHARE_OR_0,
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), _CUTOFF),
    "length_penalty": _number("a number", lambda value: True),
    "stop_strings": _Kind("a text or a list of texts", lambda value: _is_text(value) or _is_list(value, _is_text)),
    "bad_words_ids": _Kind("a list of lists of token ids", lambda value: _is_list(value, _TOKEN_LIST.fits)),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens"), _TOKEN_LIST),
    **dict.fromkeys(("eos_token_id", "forced_eos_token_id"), _TOKENS),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "forced_bos_token_id"), _TOKEN),
}


def check_generation(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse arguments that `generate` does not know or cannot use, or that the runner needs for itself.

    Returns:
        The arguments; 2 as 2.0 where transformers takes nothing but floats.

    Raises:
        ConfigError: naming the first one.
    """
    usable = dict(generation)
    known = sorted(name for name in vars(GenerationConfig()) if not name.startswith("_"))
    for name, value in generation.items():
        if name in _RESERVED:
            raise ConfigError(
                f"generation argument that the runner sets itself: got {name!r}; expected one that leaves one answer "
                "per question. Leave it out."
            )
        if name not in known:
            hint = suggestion(name, known, "See transformers.GenerationConfig.")
            raise ConfigError(
                f"unknown generation argument: got {name!r}; expected a field of GenerationConfig. {hint}"
            )
        if name in _KINDS and value is not None and not _KINDS[name].fits(value):
            raise ConfigError(
                f"generation argument out of range: got {name}={value!r}; expected {_KINDS[name].words}. "
                "Give another value, or leave it out."
            )
        if name in _KINDS and _KINDS[name].is_float and value is not None:
            usable[name] = float(value)
    if generation.get("do_sample") and generation.get("temperature") == 0:
        raise ConfigError(
            "sampling at temperature 0: got temperature=0 with do_sample=True; expected a number above 0. "
            "Leave both out, which is greedy decoding."
        )
    _check_together(usable)
    return usable


def _check_together(generation: Mapping[str, Any]) -> None:
    """Ask transformers."""
    try:
        config = GenerationConfig(**generation)
        config.validate()
        mode = config.get_generation_mode()
    except Exception as error:  # a value of any wrong type may raise anything there
        problem = " ".join(str(error).split())
        raise ConfigError(
            f"generation arguments that cannot be used: got {dict(generation)!r} ({problem}); expected what "
            "transformers.GenerationConfig takes. Give other values."
        ) from error
    if mode not in _MODES:
        raise ConfigError(
            f"a way of generating whose code lies on the hub: got {mode.value.replace('_', ' ')!r} by "
            f"{dict(generation)!r}; expected {', '.join(one.value.replace('_', ' ') for one in _MODES)}. "
            "Leave its arguments out."
        )
