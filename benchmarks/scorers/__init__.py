"""The table of scorers: what `python -m benchmarks.score NAME` reads. A new one is one file and one line here.

Imports nothing heavy: rows are "module:Class" strings.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Scorer

# Name → where its class is.                                            ← the only line to add for a new scorer
SCORERS: dict[str, str] = {
    "pope": "benchmarks.scorers.pope:PopeScorer",
    "chair": "benchmarks.scorers.chair:ChairScorer",
    "mme": "benchmarks.scorers.mme:MmeScorer",
    "hallusionbench": "benchmarks.scorers.hallusionbench:HallusionBenchScorer",
    "amber": "benchmarks.scorers.amber:AmberScorer",
    "caption": "benchmarks.scorers.caption:CaptionScorer",
    "vqav2": "benchmarks.scorers.vqav2:VQAv2Scorer",
    "mmvet": "benchmarks.scorers.mmvet:MMVetScorer",
    "sycophancy": "benchmarks.scorers.sycophancy:SycophancyScorer",
}


def load_scorer(name: str) -> Scorer:
    """The scorer called `name`, one of `SCORERS`."""
    module, _, attribute = SCORERS[name].partition(":")
    return getattr(importlib.import_module(module, __name__), attribute)()
