"""The exact test of two paired proportions, and what several tests together are worth."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest


def mcnemar_exact(wrong_to_right: int, right_to_wrong: int) -> float:
    """Two-sided exact p of McNemar's test: both changes are equally likely; 1.0 where nothing changed.

    Source: McNemar 1947, Psychometrika 12, 153, with the binomial distribution in place of the approximation.

    Raises:
        ValueError: for a negative count.
    """
    if min(wrong_to_right, right_to_wrong) < 0:
        raise ValueError(
            f"a count is negative: got {wrong_to_right}, {right_to_wrong}; expected ≥ 0. Check the counts."
        )
    discordant = wrong_to_right + right_to_wrong
    if discordant == 0:
        return 1.0
    return float(binomtest(wrong_to_right, discordant).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values of several tests by Holm's step-down method; in the order given, each at most 1.

    All that stay below a level are found at that level together: one false find among them is as rare as the level
    says, whatever the tests have to do with each other.

    Source: Holm 1979, Scand. J. Stat. 6, 65.

    Raises:
        ValueError: for a value that is no probability.
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"no probability: got p = {p}; expected 0 to 1. Check the tests.")
    adjusted, largest = [1.0] * len(p_values), 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = largest
    return adjusted
