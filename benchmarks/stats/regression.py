"""Logistic and Poisson regression by Newton's method, for many resamples at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_STEPS = 60
_LONGEST_STEP = 3.0
_LARGEST = 25.0  # of standardised covariates: e²⁵ is no ratio, it is a separation on its way to infinity
_TOLERANCE = 1e-9

_Floats = NDArray[np.float64]
_Function = Callable[[_Floats], _Floats]


def fit_logistic(
    design: _Floats, outcomes: NDArray[np.bool_], weights: _Floats | None = None, *, start: _Floats | None = None
) -> _Floats:
    """Coefficients β that maximise Σ w (y·xβ − log(1 + exp xβ)), by iteratively reweighted least squares.

    Source: McCullagh & Nelder 1989, Generalized Linear Models, section 4.4.

    Args:
        design: (n, k) covariates, a column of ones among them for the intercept; standardised, for the check of
            separation.
        outcomes: (n,) what is to be explained.
        weights: (rows, n), a fit for each row; None for one fit in which every sample counts once.
        start: (k,) coefficients to begin with, such as those of all samples; it has no influence on the result.

    Returns:
        (rows, k); NaN where there is no finite maximum: one class, classes that a line separates, or covariates that
        determine each other.

    Raises:
        ValueError: where the shapes do not fit.
    """
    return _fit(design, outcomes.astype(np.float64), weights, start, _sigmoid, lambda mean: mean * (1 - mean))


def fit_poisson(
    design: _Floats, counts: _Floats, weights: _Floats | None = None, *, start: _Floats | None = None
) -> _Floats:
    """Coefficients β that maximise Σ w (y·xβ − exp xβ): the logarithm of the expected count is a line.

    Source: McCullagh & Nelder 1989, Generalized Linear Models, section 6.2.

    Args:
        design: as in `fit_logistic`.
        counts: (n,) what is to be explained, none negative.
        weights: as in `fit_logistic`.
        start: likewise.

    Returns:
        (rows, k); NaN where there is no finite maximum: nothing but zeros, zeros everywhere but at one end, or
        covariates that determine each other.

    Raises:
        ValueError: where the shapes do not fit.
    """
    return _fit(design, counts, weights, start, np.exp, lambda mean: mean)


def _fit(
    design: _Floats,
    target: _Floats,
    weights: _Floats | None,
    start: _Floats | None,
    mean: _Function,
    variance: _Function,
) -> _Floats:
    """The maximum of a likelihood whose derivative is Σ w x (y − mean(xβ)); the variance is a function of the mean."""
    weights = np.ones((1, len(design))) if weights is None else weights
    if design.ndim != 2 or target.shape != design.shape[:1] or weights.shape[1:] != design.shape[:1]:
        raise ValueError(
            f"shapes do not fit: got {design.shape}, {target.shape}, {weights.shape}; "
            "expected (n, k), (n,), (rows, n). Give one row of the design per outcome."
        )
    rows, k = len(weights), design.shape[1]
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), k * k)
    found = np.full((rows, k), np.nan)
    beta, active = np.zeros((rows, k)) + (0.0 if start is None else start), np.arange(rows)
    for _ in range(_STEPS):
        expected = mean(beta @ design.T)
        gradient = (weights[active] * (target - expected)) @ design
        information = ((weights[active] * variance(expected)) @ squares).reshape(-1, k, k)
        # A singular or nearly singular matrix has no unique maximum, and one of them would stop all other fits.
        eigenvalues = np.linalg.eigvalsh(information)
        fine = eigenvalues[:, 0] > 1e-12 * np.maximum(eigenvalues[:, -1], 1e-300)
        beta, active, gradient, information = beta[fine], active[fine], gradient[fine], information[fine]
        if not len(active):
            break
        step = np.linalg.solve(information, gradient[:, :, None])[:, :, 0]
        length = np.abs(step).max(axis=1, keepdims=True)
        beta = beta + step * np.minimum(1.0, _LONGEST_STEP / np.maximum(length, 1e-300))
        done = length[:, 0] < _TOLERANCE
        found[active[done]] = beta[done]
        going = ~done & (np.abs(beta).max(axis=1) < _LARGEST)
        beta, active = beta[going], active[going]
        if not len(active):
            break
    return found


def _sigmoid(values: _Floats) -> _Floats:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))
