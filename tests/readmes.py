"""What the READMEs take from elsewhere: `python tests/readmes.py` writes it into them anew.

A block stands between `<!-- NAME -->` and `<!-- end -->`. Tables come from the registries and the recorded results,
sentences with numbers from the results alone. tests/test_readme.py fails where a page is not what this would write.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import scr  # noqa: E402  of this checkout, also where another is installed
from benchmarks.lab import comparison  # noqa: E402
from benchmarks.tasks import SCORERS, TASKS, load_scorer, load_task  # noqa: E402

LAB = ROOT / "benchmarks" / "lab"
PAGES = ("README.md", "scr/README.md", "scr/adapters/README.md", "benchmarks/README.md", "benchmarks/lab/README.md")
PAGES = (*PAGES, "benchmarks/overhead/README.md", "benchmarks/lab/FINDINGS.md", "analysis/README.md")
_BLOCK = re.compile(r"<!-- (?P<name>[^>]+) -->\n(?:(?!<!--).)*<!-- end -->", re.DOTALL)


def rendered(page: str) -> str:
    """The page with all of its blocks made anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return _BLOCK.sub(lambda found: f"<!-- {found['name']} -->\n\n{block(found['name'])}\n\n<!-- end -->", text)


def block(name: str) -> str:
    """The content of a block by its name.

    "KIND: TASK" for tables of results, "settings: NAME" for a search, "entropy: MODELS" for correlations.
    """
    kind, _, rest = name.partition(": ")
    makers = {"methods": methods, "families": families, "tasks": tasks, "scorers": scorers}
    makers |= {"findings": findings, "families of the lab": families_of_the_lab}
    named = {"settings": settings, "entropy": entropy}
    if kind in named:
        return named[kind](rest)
    return makers[kind]() if kind in makers else comparison.as_markdown(results(kind), rest)


def results(name: str) -> dict[str, Any]:
    """The recorded results of a comparison that was declared under this name."""
    return json.loads(comparison.RESULTS.joinpath(f"{name}.json").read_text(encoding="utf-8"))


def settings(name: str) -> str:
    """What a search of SCR's settings found: a row for blocks and K, and under each scale AUC, HR and recall."""
    found = results(name)
    scales = sorted({one["scale"] for one in found["results"]})
    rows: dict[tuple[str, str], list[str]] = {}
    for one in found["results"]:
        first, end = one["layers"]
        rows.setdefault((f"{first}–{end - 1}", str(one["num_sources"])), []).append(_traded(one))
    head = ("blocks", "K", *(f"λ {scale}" for scale in scales))
    without = _traded({name: found[f"{name}_without"] for name in ("auc", "hallucination_rate", "recall")})
    return _table(
        head, [*((*key, *cells) for key, cells in rows.items()), ("none", "", without, *([""] * (len(scales) - 1)))]
    )


def _traded(metrics: dict[str, float]) -> str:
    return " · ".join(comparison._number(name, metrics[name]) for name in ("auc", "hallucination_rate", "recall"))


def methods() -> str:
    """Every method of the table."""
    entries = [scr.get_method(name) for name in scr.list_methods()]
    rows = ((f"`{one.name}`", one.summary, ", ".join(one.requires), one.paper) for one in entries)
    return _table(("name", "what it does", "acts on", "source"), rows)


def families() -> str:
    """Every family of the table."""
    rows = []
    for name in scr.list_families():
        one = scr.get_family(name)
        blocks = (f"{part.start}–{part.stop - 1}" for part in (one.edit_layers, one.attention_layers))
        rows.append((f"`{name}`", one.summary, ", ".join(f"`{kind}`" for kind in one.model_types), *blocks))
    return _table(("name", "what it is", "`config.model_type`", "blocks edited", "attention read"), rows)


def tasks() -> str:
    """Every task of the table."""
    loaded = ((name, load_task(name)) for name in TASKS)
    rows = (
        (f"`{name}`", one.kind.replace("_", "/"), f"`{one.rule}`", str(one.version), one.paper) for name, one in loaded
    )
    return _table(("name", "kind", "rule", "version", "source"), rows)


def scorers() -> str:
    """Every scorer of the table, with the rules that it offers."""
    rows = []
    for name in SCORERS:
        scorer, parser = load_scorer(name), argparse.ArgumentParser()
        scorer.add_arguments(parser)
        rules = next((action.choices for action in parser._actions if action.dest == "rule"), None)
        rows.append((f"`{name}`", ", ".join(f"`{rule}`" for rule in rules or ()) or "–", scorer.summary))
    return _table(("benchmark", "rules", "what it is, and what it was checked against"), rows)


def families_of_the_lab() -> str:
    """The default command on each of the lab's models, with and without SCR; rates in %."""
    recorded = json.loads((LAB / "findings" / "families.json").read_text(encoding="utf-8"))
    columns = {
        f"pope_{split}": ("accuracy", "hallucination_rate", "auc") for split in ("random", "popular", "adversarial")
    }
    columns["chair"] = ("chair_s", "chair_i")
    head = [
        "",
        "",
        *(
            f"{task.removeprefix('pope_')}: {comparison._HEADS.get(one, one)}"
            for task in columns
            for one in columns[task]
        ),
    ]
    rows = []
    for model, by_method in recorded["models"].items():
        for method, by_task in by_method.items():
            cells = (
                comparison._number(one, by_task[task]["metrics"][one]) for task in columns for one in columns[task]
            )
            rows.append((f"`{model}`", f"`{method}`", *cells))
    return _table(head, rows)


def entropy(models: str) -> str:
    """Correlations of entropies with hallucination, by model; of those that files are called by."""
    before = "" if models == "small" else f"{models}_"
    kinds = {
        "entropy": "attention entropy",
        "credit_entropy_gradients": "credit entropy, by gradients",
        "credit_entropy_norms": "credit entropy, by norms",
    }
    found = {kind: _correlations(f"{before}{kind}") for kind in kinds}
    scopes = list(found["entropy"])
    return _table(("", *kinds.values()), ((scope, *(found[kind][scope] for kind in kinds)) for scope in scopes))


def findings() -> str:
    """README's few sentences on what was found, with their numbers."""
    seeds = list(results("comparison")["models"].values())
    (lab,) = results("adapters")["models"].values()
    first, hard = seeds[0], "pope_adversarial"
    asked = [first["none"][task]["counts"]["n"] for task in first["none"] if task.startswith("pope")]
    changed = [first["scr"][task]["changes"][0] for task in first["scr"] if task.startswith("pope")]

    def over(row: str, metric: str, task: str = hard) -> str:
        return _signed(metric, *(one[row][task]["differences"][metric][0] for one in seeds))

    def accuracy(row: str) -> list[float]:
        return [one[row][hard]["metrics"]["accuracy"] for one in seeds]

    def refusal(metric: str, task: str) -> str:
        return _signed(metric, lab["refusal"][task]["differences"][metric][0])

    smol = {
        row: one for name in ("", "_control") for row, one in results(f"smol_adapters{name}")["models"]["7"].items()
    }

    def adapted(row: str, metric: str, task: str) -> str:
        return _signed(metric, smol[row][task]["differences"][metric][0])

    greedy = _signed(
        "accuracy", *(one - other for one, other in zip(accuracy("none"), accuracy("sampled: none"), strict=True))
    )
    sentences = (
        *of_smol(),
        f"**SCR does nothing** on `lab/llava`: {sum(changed)} of {sum(asked):,} answers changes; adversarial AUC "
        f"{over('scr', 'auc')} over three trainings. Its controls do as little.",
        f"**Greedy yes/no answers get no better under contrast**: adversarial AUC {over('vcd', 'auc')} (`vcd`), "
        f"{over('purified', 'auc')} (`purified`).",
        f"**Captions under contrast name fewer objects, absent and present ones**: CHAIR-i "
        f"{over('vcd', 'chair_i', 'chair')}, recall {over('vcd', 'recall', 'chair')} (`vcd`).",
        f"**Under sampling the published gains are there**: adversarial accuracy "
        f"{over('sampled: vcd', 'accuracy')} (`vcd`); greedy decoding without a method gains {greedy}.",
        f"**A refusal adapter denies absent objects** (leading questions: HR "
        f"{refusal('hallucination_rate', 'sycophancy')}, utility {refusal('utility', 'sycophancy')}) and forgets "
        f"how to caption (CHAIR-i {refusal('chair_i', 'chair')}). On `lab/smol`, of 64 rows: HR "
        f"{adapted('refusal', 'hallucination_rate', 'sycophancy')}, utility "
        f"{adapted('refusal', 'utility', 'sycophancy')}, captions' recall {adapted('refusal', 'recall', 'chair')}; a "
        f"SEED-style one of 200 rows: CHAIR-i {adapted('seed', 'chair_i', 'chair')}, recall "
        f"{adapted('seed', 'recall', 'chair')}, adversarial HR {adapted('seed', 'hallucination_rate', hard)}; the "
        f"same rows without its distillation: {adapted('answers alone', 'chair_i', 'chair')}, "
        f"{adapted('answers alone', 'recall', 'chair')}, {adapted('answers alone', 'hallucination_rate', hard)}.",
        "**Low attention entropy does not go with hallucination**: Pearson's r "
        f"{_correlations('entropy')['within models']} within the small models, "
        f"{_correlations('smol_entropy')['lab/smol']} on `lab/smol`.",
    )
    return "\n".join(textwrap.fill(f"* {one}", 120, subsequent_indent="  ") for one in sentences)


def below_zero(differences: dict[str, list[float]], metric: str) -> bool:
    """Whether the interval of a difference lies below zero."""
    high = differences[metric][2] if metric in differences else None  # undefined where nothing is named
    return high is not None and high < 0


def of_smol() -> tuple[str, ...]:
    """What the comparison on lab/smol says of its rows, those that ran."""
    rows = results("smol")["models"]["7"]
    hard = {name: one["pope_adversarial"] for name, one in rows.items() if "pope_adversarial" in one}
    moved = {name: one["differences"]["auc"] for name, one in hard.items() if name != "none"}
    better = [name for name, (_, low, _) in moved.items() if low > 0]
    most = sorted(moved, key=lambda name: -abs(moved[name][0]))[:5]
    listed = ", ".join(f"`{name}` {_signed('auc', moved[name][0])}" for name in most)
    before, changed = hard["none"], hard["scr"]["changes"][0]
    captions = {
        name: one["chair"]["differences"] for name, one in rows.items() if "differences" in one.get("chair", {})
    }
    kept = [one for one in captions if below_zero(captions[one], "chair_i") and not below_zero(captions[one], "recall")]
    kept.sort(key=lambda name: captions[name]["chair_i"][0])
    truer = ", ".join(f"`{one}` {_signed('chair_i', captions[one]['chair_i'][0])}" for one in kept)

    def told(row: str, task: str, metric: str) -> str:
        return comparison._difference(metric, rows[row][task]["differences"][metric])

    return (
        f"**On `lab/smol`, SmolLM2 looking at drawings, {len(better) or 'none'} of {len(moved)} rows raises the AUC of "
        f"adversarial questions**, {comparison._number('auc', before['metrics']['auc'])}, with an interval above zero; "
        f"the five largest differences: {listed}. Most have the plausibility constraint, which ties margins of sure "
        f"answers: alone (`plausibility_only`) it has {_signed('auc', moved['plausibility_only'][0])}, and changes "
        f"{hard['plausibility_only']['changes'][0] or 'no'} answer.",
        f"**SCR at the paper's values** changes {changed} of {before['counts']['n']} of these answers: HR "
        f"{told('scr', 'pope_adversarial', 'hallucination_rate')}, AUC {told('scr', 'pope_adversarial', 'auc')}. "
        "Stronger, it says no more often, to what is there as to what is not.",
        f"**Some make its captions truer**: CHAIR-i with an interval below zero, and recall without: {truer}. "
        "Answers to questions get no better by any of them.",
    )


def _signed(metric: str, *values: float) -> str:
    return ", ".join(comparison._number(metric, value, "+") for value in values)


def _correlations(name: str) -> dict[str, str]:
    """Scope → Pearson's r with its interval."""
    with (LAB / "findings" / f"{name}_correlation.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "Pearson"]
    return {
        row["scope"]: "{:+.2f} ({:+.2f} … {:+.2f})".format(*(float(row[key]) for key in ("r", "r_low", "r_high")))
        for row in rows
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write every page anew."""
    for page in PAGES:
        (ROOT / page).write_text(rendered(page), encoding="utf-8")


if __name__ == "__main__":
    main()
