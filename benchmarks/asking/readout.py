"""Whether margins are read from what answers begin with: which first token was the likeliest, and which ids are read.

One model's published numbers move by points with the ids that a yes is read over. So every run says which it read, how
often one of them was the likeliest token, and how much of the probability they hold. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from ..records import FirstTokenCount, ReadoutAudit, SampleRecord

LEAST_MASS = 0.5
"""Mean probability of the margin's ids below which a run is warned of."""
_SHOWN = 3


def audit_readout(records: Sequence[SampleRecord], yes: Sequence[int], no: Sequence[int]) -> ReadoutAudit:
    """What a run's margins are read from, and whether its answers begin with it.

    Args:
        records: the run's samples; those without a readout are left out.
        yes: ids that the margin reads a yes over.
        no: likewise.
    """
    read = [record.readout for record in records if record.readout is not None]
    counts = Counter((one["token"], one["text"]) for one in read)
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    found = ReadoutAudit(
        yes=list(yes),
        no=list(no),
        answers=len(read),
        argmax=[FirstTokenCount(token=token, text=text, count=count) for (token, text), count in ordered],
        won=sum(count for (token, _), count in ordered if token in {*yes, *no}),
        mass=fmean(one["mass"] for one in read) if read else None,
        warning=None,
    )
    if found["mass"] is not None and (not found["won"] or found["mass"] < LEAST_MASS):
        found["warning"] = (
            f"margins are read beside the answers: got {readout_in_words(found)}; expected them to be the likeliest of "
            f"some, and to hold {100 * LEAST_MASS:.0f} % or more. Trust neither margins nor AUC here: ask for one "
            "word, as --prompt-variant one_word does, and look at the outputs."
        )
    return found


def readout_in_words(audit: ReadoutAudit) -> str:
    """A line about an audit."""
    shown = [f"{one['text']!r} {one['count']}" for one in audit["argmax"][:_SHOWN]]
    others = len(audit["argmax"]) - _SHOWN
    return (
        f"first tokens {', '.join(shown)}{f' and {others} others' if others > 0 else ''}; the margin's "
        f"{len(audit['yes']) + len(audit['no'])} ids are the likeliest of {audit['won']} of {audit['answers']} answers "
        f"and hold {100 * (audit['mass'] or 0.0):.1f} % of the probability"
    )
