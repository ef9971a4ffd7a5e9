"""The two records as JSON: names, order, round trips, and what is refused."""

from __future__ import annotations

import json
import math

import pytest

from benchmarks.records import (
    READABLE,
    SCHEMA,
    RecordError,
    RunRecord,
    SampleRecord,
    computed_otherwise,
    first_images,
)

RUN_FIELDS = (
    "schema status error created finished command model revision family dtype device attention method config "
    "config_given prompt adapter adapter_overlap task task_version rule ability data_sha256 limit seed generation "
    "batch_size world_size commit dirty packages metrics counts intervals reasons units readout timing"
).split()
SAMPLE_FIELDS = (
    "id image prompt target output answer outcome found margin readout new_tokens prefill_ms decode_ms trace error"
).split()

FOUND = {
    "mentions": [{"word": "dogs", "start": 4, "end": 8, "node": "dog"}],
    "hallucinated": [],
    "grounded": ["dog"],
    "missed": ["cat"],
}


def run_record(**changes):
    fields = {
        "status": "finished",
        "created": "2026-01-01T00:00:00Z",
        "command": "python -m benchmarks.run",
        "model": "lab/llava",
        "dtype": "float32",
        "device": "cpu",
        "method": "scr",
        "task": "chair",
        "task_version": 1,
        "rule": "chair",
        "data_sha256": "00",
        "seed": 0,
        "batch_size": 4,
    }
    return RunRecord(**{**fields, **changes})


def sample_record(**changes):
    return SampleRecord(**{"id": "1-1", "image": "1.jpg", "prompt": "?", "target": "yes", "output": "Yes", **changes})


def test_field_names_and_their_order_are_the_format():
    assert list(run_record().to_dict()) == RUN_FIELDS
    assert list(sample_record().to_dict()) == SAMPLE_FIELDS


def test_a_round_trip_through_json_keeps_everything():
    run = run_record(
        metrics={"chair_i": 0.1, "recall": None},
        counts={"captions": 3},
        intervals={"chair_i": [0.0, 0.2]},
        reasons={"recall": "no objects"},
        units={"length": "words"},
        dirty=False,
        limit=7,
    )
    assert RunRecord.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    sample = sample_record(
        target=["cat", "dog"],
        output="Two dogs.",
        found=FOUND,
        margin=-1.25,
        readout={"token": 5, "text": "No", "mass": 0.75},
        trace={"entropy": 0.5, "grids": [[24, 24]]},
    )
    assert SampleRecord.from_dict(json.loads(json.dumps(sample.to_dict()))) == sample


def test_defaults_are_not_shared():
    one, other = run_record(), run_record()
    one.metrics["recall"] = 1.0
    assert other.metrics == {}


def test_numbers_that_json_does_not_know_become_null():
    record = sample_record(margin=math.nan, prefill_ms=math.inf, trace={"entropy": [1.0, math.nan, (-math.inf,)]})
    data = record.to_dict()
    assert data["margin"] is None
    assert data["prefill_ms"] is None
    assert data["trace"] == {"entropy": [1.0, None, [None]]}
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, None, "1"])
def test_another_schema_is_refused_with_what_to_do(schema):
    data = {**run_record().to_dict(), "schema": schema, "brand_new_field": 1}
    with pytest.raises(RecordError, match=f"got schema {schema!r}; expected 1 or 2 or {SCHEMA}.*--overwrite"):
        RunRecord.from_dict(data)


def test_records_of_the_schema_before_are_read_and_lack_what_it_lacked():
    assert READABLE == (1, 2, SCHEMA)
    run = {**run_record().to_dict(), "schema": 2}
    del run["readout"]
    assert (RunRecord.from_dict(run).schema, RunRecord.from_dict(run).readout) == (2, None)
    assert RunRecord.from_dict({**run, "schema": 1}).schema == 1
    sample = sample_record().to_dict()
    del sample["readout"]
    assert SampleRecord.from_dict(sample).readout is None
    del sample["found"]
    assert SampleRecord.from_dict(sample).found is None


@pytest.mark.parametrize(
    "change",
    [
        {"mentions": None},
        {"mentions": [["dogs", 4, 8, "dog"]]},
        {"mentions": [{"word": "dogs", "start": 3, "end": 8, "node": "dog"}]},
        {"mentions": [{"word": "dogs", "start": 4.0, "end": 8, "node": "dog"}]},
        {"mentions": [{"word": "", "start": -1, "end": -1, "node": "dog"}]},
        {"hallucinated": "dog"},
        {"missed": [1]},
        {"more": []},
    ],
    ids=str,
)
def test_a_grade_that_does_not_fit_its_caption_is_refused(change):
    data = {**sample_record(output="Two dogs.").to_dict(), "found": {**FOUND, **change}}
    with pytest.raises(RecordError, match=r"(does not fit it|of another type): got .*; expected .*\. Run it again"):
        SampleRecord.from_dict(data)


def test_missing_and_unknown_fields_are_named():
    data = sample_record().to_dict()
    del data["target"]
    data["tarqet"] = "yes"
    with pytest.raises(RecordError, match=r"missing \['target'\], unknown \['tarqet'\]"):
        SampleRecord.from_dict(data)
    data = run_record().to_dict()
    del data["rule"]
    with pytest.raises(RecordError, match=r"missing \['rule'\]"):
        RunRecord.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_something_else_than_an_object_is_refused(data):
    for kind in (RunRecord, SampleRecord):
        with pytest.raises(RecordError, match="expected a JSON object"):
            kind.from_dict(data)


def test_a_sample_whose_output_is_no_text_is_refused():
    with pytest.raises(RecordError, match="'output' of a SampleRecord is of another type: got None"):
        SampleRecord.from_dict({**sample_record().to_dict(), "output": None})


def test_a_record_error_is_a_value_error():
    assert issubclass(RecordError, ValueError)


def test_the_first_images_are_those_recorded_first():
    records = [
        SampleRecord(id=str(row), image=image, prompt="?", target="yes", output="") for row, image in enumerate("babca")
    ]
    assert [one.id for one in first_images(records, 2)] == ["0", "1", "2", "4"]
    assert first_images(records, None) == first_images(records, 9) == records


def test_what_was_not_computed_alike_is_told():
    one = run_record(batch_size=7, attention="eager", device="cuda:1: NVIDIA H200")
    same = run_record(batch_size=7, attention="eager", device="cuda:0: NVIDIA H200")
    assert computed_otherwise(one, same) == ""
    other = run_record(batch_size=50, attention="sdpa", device="cpu, 4 threads")
    assert computed_otherwise(one, other) == "batches of 7 against 50, eager against sdpa, NVIDIA H200 against cpu"
    assert computed_otherwise(other, run_record(batch_size=50, device="cpu, 1 threads")) == ""
