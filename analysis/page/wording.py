"""What columns and metrics are called on the page: words that a reader knows; files keep the names."""

from __future__ import annotations

METRICS: dict[str, str] = {
    "accuracy": "right answers",
    "precision": "precision",
    "recall": "of what is there, found (recall)",
    "f1": "F1 of precision and recall",
    "yes_ratio": "answers that are yes",
    "hallucination_rate": "absent objects that got a yes",
    "auc": "present ranked before absent (AUC)",
    "chair_s": "captions with a made-up object",
    "chair_i": "mentions that are made up",
    "chair_sentence": "sentences with a made-up object",
    "length": "words per caption",
    "chair": "nouns that are made up",
    "cover": "of what is there, covered",
    "hal": "texts with a made-up noun",
    "cog": "nouns that people make up too",
    "amber_score": "AMBER score",
    "cider": "CIDEr",
    "rouge_l": "ROUGE-L",
    **{f"bleu_{order}": f"BLEU-{order}" for order in range(1, 5)},
    "a_acc": "right answers",
    "q_acc": "questions right on every figure",
    "f_acc": "figures with every question right",
    "easy": "right on original figures",
    "hard": "right on edited figures",
    "yes_bias": "yes more often than true",
    "fp_ratio": "wrong answers that are a yes",
    "overall": "mean of the three accuracies",
    "safety": "absent objects denied",
    "utility": "present objects confirmed",
    "over_refusal": "present objects denied",
    "perception": "perception, sum of scores",
    "cognition": "cognition, sum of scores",
    "hallucination_subset": "existence to colour, sum of scores",
    "total": "all questions",
    "rec": "recognition",
    "ocr": "text in the image",
    "know": "knowledge",
    "gen": "writing",
    "spat": "places in space",
    "math": "arithmetic",
}
"""Name of a metric → words for it; fractions are followed by ", %"."""

_COLUMNS: dict[str, str] = {
    "row": "method",
    "metric": "what is measured",
    "difference": "change",
    "p_holm": "p holm, corrected",
    "survives": "survives the correction",
    "wrong→right": "wrong to right",
    "right→wrong": "right to wrong",
    "change": "change",
    "recall_change": "change of recall",
    "words_change": "change of words per caption",
    "mentions_change": "change of made-up mentions per caption",
    "same_length_change": "at the same length, made-up mentions left",
    "by_length_change": "by length alone",
    "words_before": "words per caption, plain",
    "words_after": "words per caption, method",
    "within": "within the plain lengths",
    "exponent": "exponent of length",
    "frontier": "of trivial changes",
    "trivial": "nearest trivial change",
    "rate": "rate",
    "rate_change": "rate, minus that change's",
    "beaten": "beaten, of resamples",
    "quality_metric": "quality is",
    "latency_ms": "milliseconds per answer",
    "latency_ratio": "time, × the plain model",
    "pareto": "nothing beats it",
    "yes_no_tasks": "yes/no tasks",
    "false_positive_rate": "absent objects that got a yes (0 to 1)",
    "true_positive_rate": "present objects found (0 to 1)",
    "auc_change": "change of AUC",
    "yes_ratio_change": "change of the share of yes",
    "accuracy_change": "change of accuracy",
    "matched_accuracy_change": "change of accuracy at the same share of yes",
    "cut": "divided by",
    "by": "divided by",
    "bin": "part",
    "kind": "kind",
    "entropy": "entropy (nats)",
    "accuracy_gain": "right answers won",
    "hallucination_change": "change of hallucination rate",
    "lowest": "questions in the lowest part",
    "highest": "questions in the highest part",
    "factor": "setting",
    "reference": "is the reference",
    "baseline": "plain model",
    "mean": "mean (nats)",
    "r": "correlation r",
    "odds_ratio": "odds ratio",
    "deviation": "one standard deviation is",
    "growth": "growth of norms",
}
_PLAIN = (
    "model", "task", "method", "samples", "questions", "captions", "images", "p", "quality", "reading", "value",
    "wrong", "scope", "covariate", "layer", "fixed", "broken", "traded", "changed", "ungraded", "unchanged",
)  # fmt: skip
_DIFFERENCES = ("change", "difference", "gain")  # in percentage points
_NAMED = ("metric", "quality_metric")  # columns whose cells are names of metrics
_LAST = {"acc": "right answers", "acc_plus": "images with both right", "precision": "precision", "recall": "recall"}


def column_words(name: str) -> str | None:
    """Words for a column, a metric among them; None for a name that has none, such as one of a task's own parts."""
    if name in _PLAIN:
        return name
    if name in METRICS or name in _COLUMNS:
        return _COLUMNS.get(name) or METRICS[name]
    if name.endswith("_change"):
        return f"change of {name.removesuffix('_change').replace('_', ' ')}"
    whole = max((metric for metric in METRICS if name.startswith(f"{metric}_")), key=len, default=None)
    if whole is not None:
        return f"{METRICS[whole].partition(' (')[0]}, {name.removeprefix(f'{whole}_').replace('_', ' ')}"
    for last, words in sorted(_LAST.items(), key=lambda one: -len(one[0])):
        if name.endswith(f"_{last}"):
            return f"{name.removesuffix(f'_{last}').replace('_', ' ')}, {words}"
    return None


def shown_name(name: str, *, percent: bool = False) -> str:
    """A column's head: its words, else its name without underscores; and the unit of what is shown times a hundred."""
    words = column_words(name) or name.replace("_", " ")
    if not percent:
        return words
    return f"{words}, points" if name.endswith(_DIFFERENCES) else f"{words}, %"


def shown_text(column: str, text: str) -> str:
    """A cell of a column: of those that name a metric, its words."""
    return METRICS.get(text, text) if column in _NAMED else text
