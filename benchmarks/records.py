"""What a run leaves behind: one `RunRecord`, and one `SampleRecord` per question or caption.

These two types are the contract between running, scoring and showing. Field names and their order are the file format;
a change of meaning raises `SCHEMA`. Only the standard library is needed to read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypedDict

from scr import BASELINE as BASELINE
from scr.fields import FieldError, read_fields, wrong_names
from scr.files import json_value

SCHEMA: int = 3
"""Version of the two formats. Raised to 2 when samples got `found`, to 3 when they got `readout`."""

READABLE: tuple[int, ...] = (1, 2, SCHEMA)
"""Versions that `RunRecord.from_dict` reads, all others it refuses. What a version lacks is None, and never guessed."""

DIAGNOSTICS: dict[str, str] = {"entropy": "entropy", "credit": "credit_entropy_norms"}
"""What `--diagnostics` may name → the key of a trace that is there, perhaps null, where it was asked for."""


class RecordError(ValueError):
    """A record or a file of records is not what it should be."""


class Mention(TypedDict):
    """A place where a caption names an object: the word as written, which is `output[start:end]`, and the object."""

    word: str
    start: int
    end: int
    node: str


class Found(TypedDict):
    """What the task's own rule finds in a caption; objects by the rule's word for them, its node.

    Attributes:
        mentions: all that the rule counts, in the order of the text, repetitions kept.
        hallucinated: the objects among them that are not in the image, sorted, each once. A mention is hallucinated
            where its node stands here.
        grounded: the objects in the image that are mentioned, sorted.
        missed: those that are not. Grounded and missed are what the image holds, as often as the annotations name it.
    """

    mentions: list[Mention]
    hallucinated: list[str]
    grounded: list[str]
    missed: list[str]


class Readout(TypedDict):
    """How a yes/no answer begins, at the logits that its margin is read from: after all that a method made of them.

    Attributes:
        token: id of the likeliest first token.
        text: that token in words.
        mass: probability of the ids that the margin reads, spellings of yes and of no, among all first tokens.
    """

    token: int
    text: str
    mass: float


class FirstTokenCount(TypedDict):
    """How many answers of a run a token was the likeliest first one of."""

    token: int
    text: str
    count: int


class ReadoutAudit(TypedDict):
    """What a run's margins are read from, and whether its answers begin with it.

    Attributes:
        yes: ids that a margin reads a yes over.
        no: likewise.
        answers: how many samples have a readout; all that follows is about them.
        argmax: the likeliest first tokens, the most frequent first.
        won: how often one of the margin's ids was the likeliest.
        mass: mean probability of the margin's ids; None without answers.
        warning: why margins say little of the answers; None where they do not.
    """

    yes: list[int]
    no: list[int]
    answers: int
    argmax: list[FirstTokenCount]
    won: int
    mass: float | None
    warning: str | None


def hallucinated_mentions(found: Found) -> list[Mention]:
    """The mentions of objects that are not in the image."""
    absent = set(found["hallucinated"])
    return [mention for mention in found["mentions"] if mention["node"] in absent]


@dataclass(kw_only=True)
class SampleRecord:
    """One question or caption with what the model said; a line of `samples.jsonl`.

    Attributes:
        id: name of the sample, unique within its task.
        image: name of its image. Samples that share it are no independent observations: intervals resample images.
        prompt: the text that the model was asked, prompt variant included.
        target: what is right, any JSON value: "yes" or "no", for CHAIR the object names in the image.
        output: what the model said, raw.
        answer: the parsed answer; None is unparsed, which is counted and never guessed.
        outcome: "tp", "fp", "tn" or "fn" of a yes/no answer ("yes" is the positive class).
        found: the objects that a caption names and misses; None where the task looks for none, where there is no
            output, and in records of schema 1, which `benchmarks.run --rescore` completes.
        margin: logit of yes minus logit of no at the first answer token (yes/no tasks).
        readout: what the answer begins with there, and how much of it the margin reads; None where there is no margin
            to be read, and in records of schema 1 and 2.
        new_tokens: number of generated tokens.
        prefill_ms: milliseconds of the sample's prefill.
        decode_ms: milliseconds of all that came after it.
        trace: what `--diagnostics` found out about a sample with an image. Keys are there as far as they were asked
            for and apply, null where undefined; floats have 6 significant digits.
            grids: [[height, width], ...] in patches; maps run over the patches of all grids, row-major.
            whole: of several grids the index of that which shows the whole picture; null where none is known to.
            attention: the map A of the text's attention to the patches; of the model as it is, without edits.
            entropy, entropy_normalized: of A, in nats, and as a fraction of that of equal weights.
            sources, neighbors, owners: what a method that redistributes did with it, see `scr.Trace`.
            norm_ratio: sum of the patches' norms with its edits, divided by the sum without.
            layers: blocks after which credit was measured, the method's edits in place.
            credit: credit of the patches after the last of them, for the first token of the output.
            credit_entropy_norms, credit_entropy_gradients: entropy in nats of the patches' norms there, and of credit.
            norm_credit_r: Pearson correlation of norms with credit, one per block.
            norm_growth: sum of the norms after each block, divided by that before the first.
            object: of the object that is asked about, where it is annotated, the largest instance: "area", its share
            of the image, and "border", the distance of its box from the image's border as a share of the shorter side.
            objects: number of object categories in the image.
        error: why there is no output.
    """

    id: str
    image: str
    prompt: str
    target: Any
    output: str
    answer: str | None = None
    outcome: str | None = None
    found: Found | None = None
    margin: float | None = None
    readout: Readout | None = None
    new_tokens: int | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    trace: dict[str, Any] | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, in field order; NaN and infinities become null."""
        return _to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The record that `to_dict` gave.

        Raises:
            RecordError: for missing or unknown fields, a value of another type, or a `found` that does not fit the
                output.
        """
        record = cls(**_fields_of(cls, data))
        if record.found is not None:
            _check_places(record.found, record.output)
        return record


@dataclass(kw_only=True)
class RunRecord:
    """One model, method and task: how it was run and what came out; `run.json`.

    The metrics are a cache: they can be computed again from the samples.

    Attributes:
        schema: version of the formats in which the run and all of its samples were written.
        status: "running", "finished" or "failed".
        error: why it failed.
        created: when the run was started first, ISO 8601 in UTC.
        finished: when it was finished.
        command: the command line.
        model: the model's name as given: a hub id, a folder, or "lab/...".
        revision: commit or digest of the weights.
        family: name of the model family.
        dtype: number format of the weights.
        device: device in words.
        attention: the model's attention implementation.
        method: name of the method, "none" for the baseline.
        config: the method's effective configuration.
        config_given: the part of it that the user gave.
        prompt: the prompt variant.
        adapter: name and digest of an adapter.
        adapter_overlap: how many of the images asked about it was trained on; null where it does not say.
        task: name of the task.
        task_version: its version.
        rule: the rule that parsed the answers.
        ability: name of the metric that measures general ability; None where the task is about something else, and in
            records that do not say it yet, which `benchmarks.run --rescore` completes.
        data_sha256: digest of the annotations.
        limit: number of images asked for; None for all.
        seed: seed of questions and methods.
        generation: arguments of `generate`.
        batch_size: samples per batch.
        world_size: number of processes.
        commit: commit of this project, None outside of a checkout.
        dirty: whether the checkout had changes.
        packages: versions, name → version.
        metrics: name → value, None where undefined. Fractions (0–1) unless `units` says otherwise; unrounded.
        counts: name → integer.
        intervals: name → [low, high], 95 %.
        reasons: name → why a metric is None.
        units: name → unit, for metrics that are not fractions.
        readout: what the margins are read from, and whether answers begin with it; None where none was read.
        timing: milliseconds and ratios with their spread over batches, as
            `benchmarks.asking.speed.summarize_timing` has them.
    """

    schema: int = SCHEMA
    status: str
    error: str | None = None
    created: str
    finished: str | None = None
    command: str
    model: str
    revision: str | None = None
    family: str | None = None
    dtype: str
    device: str
    attention: str | None = None
    method: str
    config: dict[str, Any] = field(default_factory=dict)
    config_given: dict[str, Any] = field(default_factory=dict)
    prompt: str = "default"
    adapter: str | None = None
    adapter_overlap: int | None = None
    task: str
    task_version: int
    rule: str
    ability: str | None = None
    data_sha256: str
    limit: int | None = None
    seed: int
    generation: dict[str, Any] = field(default_factory=dict)
    batch_size: int
    world_size: int = 1
    commit: str | None = None
    dirty: bool | None = None
    packages: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    readout: ReadoutAudit | None = None
    timing: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, in field order; NaN and infinities become null."""
        return _to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The record that `to_dict` gave.

        Raises:
            RecordError: for another schema, missing or unknown fields, or a value of another type.
        """
        # The schema comes first: in another version every other complaint would be a riddle.
        schema = data.get("schema") if isinstance(data, Mapping) else None
        if isinstance(data, Mapping) and (type(schema) is not int or schema not in READABLE):
            readable = " or ".join(map(str, READABLE))
            raise RecordError(
                f"the run was recorded in another format: got schema {schema!r}; expected {readable}. "
                "Read it with the version of scr-vlm that wrote it, or run it again with --overwrite."
            )
        return cls(**_fields_of(cls, data))


def computed_otherwise(one: RunRecord, other: RunRecord) -> str:
    """In what two runs were not computed alike, as "batches of 7 against 50"; empty where in nothing that is recorded.

    None of it is a setting of the answers, but in another order of sums a near-tie can flip.
    """
    told = [(f"batches of {one.batch_size}", str(other.batch_size))] if one.batch_size != other.batch_size else []
    for mine, theirs in ((one.attention, other.attention), (_hardware(one), _hardware(other))):
        if mine is not None and theirs is not None and mine != theirs:
            told.append((mine, theirs))
    return ", ".join(f"{mine} against {theirs}" for mine, theirs in told)


def _hardware(run: RunRecord) -> str:
    """The device without its number, and without the threads, which are another machine's business."""
    name = run.device.partition(", ")[0]
    return name.partition(": ")[2] or name


def first_images(records: Sequence[SampleRecord], limit: int | None) -> list[SampleRecord]:
    """The records of the first `limit` images, in the order in which the images were recorded; None means all.

    A folder may hold more than its run: an interrupted longer one leaves records that a finished shorter one is not of.
    """
    images = dict.fromkeys(record.image for record in records)
    wanted = set(list(images)[:limit])
    return [record for record in records if record.image in wanted]


def _to_dict(record: SampleRecord | RunRecord) -> dict[str, Any]:
    return {entry.name: json_value(getattr(record, entry.name)) for entry in dataclasses.fields(record)}


def _fields_of(cls: type[SampleRecord] | type[RunRecord], data: object) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise RecordError(f"a {cls.__name__} is no object: got {data!r}; expected a JSON object. Run it again.")
    missing, unknown = wrong_names(cls, data)
    if missing or unknown:
        raise RecordError(
            f"a {cls.__name__} has wrong fields: got missing {missing}, unknown {unknown}; "
            f"expected {[entry.name for entry in dataclasses.fields(cls)]}. Run it again."
        )
    try:
        return read_fields(cls, data)
    except FieldError as error:
        raise RecordError(
            f"{error.name!r} of a {cls.__name__} is of another type: got {error.got}; expected {error.expected}. "
            "Run it again."
        ) from error


def _check_places(found: Found, output: str) -> None:
    for mention in found["mentions"]:
        start, end = mention["start"], mention["end"]
        if not 0 <= start <= end or output[start:end] != mention["word"]:
            raise RecordError(
                f"what was found in a caption does not fit it: got {str(mention)[:200]} in {output[:80]!r}; expected "
                "the word at its place in the output. Run it again."
            )
