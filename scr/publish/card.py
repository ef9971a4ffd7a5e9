"""The card of a published method: what it is, how to run it, and what was measured, or that nothing was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..methods import METHODS
from ..patching.registry import list_families
from ..version import __version__
from .numbers import Measured
from .travelling import Published

_HEAD = """---
library_name: transformers
license: apache-2.0
tags:
- custom_generate
- scr-vlm
---

# {method}

{summary}. A method against hallucination of vision-language models, run by `scr-vlm`, which has to be installed.

```python
out = model.generate(**inputs, custom_generate="THIS REPOSITORY", trust_remote_code=True{beams})
```

Answers are those of `with scr.patch(model, {method!r}, ...)` around a plain `generate`, with the fields that
`custom_generate/generate.py` lists. Streamers, batches and logits processors work as there; what is refused there is
refused here. A prompt without an image gets what it gets without the method. Keep this repository apart from weights:
beside them transformers would put it in place of `generate` itself.

* source: {paper}
* acts on: {levers}
* models: {families}
* written by scr-vlm {version}
{tokens}
## Numbers

"""
_NONE = """None: nothing was measured with these fields. Measure them on your model, beside the unpatched one:

```bash
python -m benchmarks.run --method {method} --model MODEL
```
"""
_SOME = """All metrics of each run, the 95 % interval of each beside it. Columns differ by the method alone.
"""


def card(what: Published, numbers: Sequence[Measured]) -> str:
    """The text of README.md.

    Args:
        what: the method.
        numbers: what was measured of it; the card says so where there is nothing.
    """
    entries = [METHODS[part] for part in what.configs]
    beams = max(entry.least_beams for entry in entries)
    tokens = sorted({name for config in what.configs.values() for name in config.answer_tokens})
    head = _HEAD.format(
        method=what.method,
        summary="; ".join(entry.summary for entry in entries),
        beams=f", num_beams={beams}" if beams > 1 else "",
        paper=", ".join(dict.fromkeys(entry.paper for entry in entries)),
        levers=", ".join(dict.fromkeys(lever for entry in entries for lever in entry.requires)),
        families=", ".join(list_families()),
        version=__version__,
        tokens=f"* {', '.join(tokens)}: ids of one tokenizer, no other model's\n" if tokens else "",
    )
    return head + ("\n".join([_SOME, *map(_table, numbers)]) if numbers else _NONE.format(method=what.method))


def _table(one: Measured) -> str:
    run = one.method
    images = "all" if run.get("limit") is None else run["limit"]
    said = {
        "model": f"{run['model']} ({run.get('revision') or 'revision not known'})",
        "rule": run.get("rule"),
        "images": images,
        "prompt": run.get("prompt"),
        "generation": run.get("generation") or "as the model has it",
        "adapter": run.get("adapter") or "none",
        "measured": run.get("finished"),
    }
    lines = [f"### {run['task']}", "", "; ".join(f"{name}: {value}" for name, value in said.items()), ""]
    lines += [f"| metric | unpatched | {run['method']} |", "| --- | --: | --: |"]
    return "\n".join([*lines, *_rows(one), ""])


def _rows(one: Measured) -> Iterator[str]:
    for name in one.method["metrics"]:
        yield f"| {name} | {_shown(one.baseline, name)} | {_shown(one.method, name)} |"


def _shown(run: Mapping[str, Any], name: str) -> str:
    value = run["metrics"].get(name)
    if value is None:
        return "undefined"
    unit = run.get("units", {}).get(name, "%")
    factor = 1 if name in run.get("units", {}) else 100
    bounds = run.get("intervals", {}).get(name)
    interval = f" ({factor * bounds[0]:.2f}–{factor * bounds[1]:.2f})" if bounds else ""
    return f"{factor * value:.2f} {unit}{interval}"
