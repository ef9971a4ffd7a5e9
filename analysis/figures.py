"""All that a folder of results allows: `python -m analysis.figures results/ --out figures/`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .command import run_command
from .entropy import entropy_findings
from .findings.ablations import ablation_findings
from .findings.credit import credit_findings
from .findings.failures import failure_findings
from .findings.finding import Analysis
from .findings.forest import forest_findings
from .findings.frontier import frontier_findings
from .findings.guard import guard_findings
from .findings.roc import roc_findings
from .findings.strata import strata_findings
from .findings.summary import summary_findings

ANALYSES: dict[str, Analysis] = {
    "forest": forest_findings,
    "guard": guard_findings,
    "summary": summary_findings,
    "frontier": frontier_findings,
    "roc": roc_findings,
    "entropy": entropy_findings,
    "strata": strata_findings,
    "credit": credit_findings,
    "ablations": ablation_findings,
    "failures": failure_findings,
}
"""Name → analysis, in the order in which a reader wants them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    return run_command("analysis.figures", "All tables and figures that the records allow.", ANALYSES, argv)


if __name__ == "__main__":
    sys.exit(main())
