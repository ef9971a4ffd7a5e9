"""Intervals and paired tests, for runs and for the report alike. Numpy and scipy only.

**The unit** is the image: six questions about one picture are not six observations. A sample whose image has no name is
a unit of its own. **Intervals** are 95 %. The share of questions that are
answered in a way (an accuracy, a hallucination rate) has Wilson's. All else (F1, CHAIR-s and CHAIR-i of captions, an
area, a mean, a correlation, every difference of two runs) has the percentile interval of a bootstrap over units.
**Tests** are exact where that can be counted, else their p has an error beside it.

Resampling is seeded: equal records give equal intervals.
"""

from __future__ import annotations

from .areas import auc, auc_interval, resampled_auc, weighted_auc
from .comparison import Comparison, Difference, compare_tables, compare_yes_no, paired_tables
from .intervals import mean_intervals, ratio_intervals, wilson
from .length import LengthControl, control_length, length_table
from .permutations import PValue, image_permutations, permutation_p, sign_flip_p
from .power import POWER, detectable_difference, images_to_tell
from .regression import fit_logistic, fit_poisson
from .resampling import (
    LEVEL,
    RESAMPLES,
    SEED,
    Bounds,
    Interval,
    bootstrap_weights,
    percentile_interval,
    resampled_ratios,
    resampled_sums,
    unit_index,
)
from .significance import holm, mcnemar_exact
from .sums import SampleTable, caption_table, graded, ratios, yes_no_table

__all__ = [
    "LEVEL",
    "POWER",
    "RESAMPLES",
    "SEED",
    "Bounds",
    "Comparison",
    "Difference",
    "Interval",
    "LengthControl",
    "PValue",
    "SampleTable",
    "auc",
    "auc_interval",
    "bootstrap_weights",
    "caption_table",
    "compare_tables",
    "compare_yes_no",
    "control_length",
    "detectable_difference",
    "fit_logistic",
    "fit_poisson",
    "graded",
    "holm",
    "image_permutations",
    "images_to_tell",
    "length_table",
    "mcnemar_exact",
    "mean_intervals",
    "paired_tables",
    "percentile_interval",
    "permutation_p",
    "ratio_intervals",
    "ratios",
    "resampled_auc",
    "resampled_ratios",
    "resampled_sums",
    "sign_flip_p",
    "unit_index",
    "weighted_auc",
    "wilson",
    "yes_no_table",
]
