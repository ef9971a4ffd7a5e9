"""The thresholds of `QuantileStrength`, measured once on a validation split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from .contrast import QUANTILES, Confidence, calibrate_thresholds, confidence
from .errors import ConfigError


def calibrate_confidence(
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    kind: Confidence = "max_logprob",
    quantiles: tuple[float, ...] = QUANTILES,
    **generation: Any,
) -> tuple[float, ...]:
    """Generate without a method, and return quantiles of the confidence of every token, end tokens included.

        thresholds = scr.calibrate_confidence(model, batches_of_val, max_new_tokens=64)
        scr.patch(model, "purified", strength=scr.contrast.QuantileStrength(thresholds=thresholds))

    Args:
        model: with no method on it.
        batches: the processor's inputs, batch after batch, of a validation split; a batch may bring arguments of
            `generate` of its own.
        kind: of confidence; the same as in the configuration that gets the thresholds.
        quantiles: in [0, 1]; SEED's are the quarters.
        **generation: arguments of `generate`, without beams; greedy unless said otherwise.

    Returns:
        A threshold for each quantile, as `scr.contrast.confidence` counts: nats, or for "margin" a probability.

    Raises:
        ConfigError: for beams, no tokens, or an unknown kind.
    """
    seen = []
    for inputs in batches:
        options = {"do_sample": False, **generation, **inputs, "return_dict_in_generate": False}
        for name in ("num_beams", "num_return_sequences"):
            if options.get(name, 1) != 1:
                raise ConfigError(
                    f"beams have no confidence of their own: got {name}={options[name]}; expected greedy decoding or "
                    f"sampling. Leave {name} out."
                )
        probe = _ConfidenceProbe(kind)
        # Where a contrastive method's processor would be: before the caller's own.
        options["logits_processor"] = [probe, *(options.get("logits_processor") or ())]
        tokens = model.generate(**options)
        found = torch.stack(probe.seen, dim=1)
        seen.append(found[_until_end(tokens[:, -found.shape[1] :], end_tokens(model, options))])
    if not seen:
        raise ConfigError("no prompts: got no batches; expected at least one. Give batches of a validation split.")
    return calibrate_thresholds(torch.cat(seen), quantiles)


class _ConfidenceProbe(LogitsProcessor):
    """Passes scores through, and notes how sure they are."""

    def __init__(self, kind: Confidence) -> None:
        self._kind, self.seen = kind, list[Float[Tensor, "rows"]]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(confidence(scores, self._kind).cpu())
        return scores


def end_tokens(model: Any, generation: Mapping[str, Any]) -> list[int]:
    """The tokens at which `generate` ends an answer.

    Args:
        model: the model, whose own configuration counts where nothing else says.
        generation: arguments of `generate`.
    """
    given = generation.get("eos_token_id", getattr(generation.get("generation_config"), "eos_token_id", None))
    ends = given if given is not None else model.generation_config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _until_end(tokens: Int[Tensor, "rows new"], ends: list[int]) -> Tensor:
    """Which tokens belong to an answer: all up to its end token, which counts; what follows is padding."""
    is_end = torch.isin(tokens.cpu(), torch.tensor(ends, dtype=tokens.dtype))
    return is_end.cumsum(dim=1) - is_end.long() == 0
