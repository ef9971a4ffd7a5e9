"""`score`: the same answers as lmms-eval's samples and as VLMEvalKit's tables have the scores of the official form."""

from __future__ import annotations

import json
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_files import write_amber
from tables_by_hand import column, write_table
from test_hallusionbench import QUESTIONS as HALLUSION
from test_score_chair import CATEGORIES
from test_score_pope import QUESTIONS as POPE

from benchmarks import score
from benchmarks.tasks.harnesses import FORMS, answer_rows, said_to_lmms_eval, texts_of
from benchmarks.tasks.mme.rule import TASK_NAMES
from benchmarks.tasks.spreadsheet import SUFFIXES, read_table
from scr import DataFileError

ASKED = "\nAnswer the question using a single word or phrase."
SAID = ("Yes.", "no", "No, there is none", "Yes")


def sample(number, said, target, asked="", **kept):
    """A line of lmms-eval's samples: the question's row is gone, what the task keeps for each metric is there."""
    return {
        "doc_id": number,
        "target": str(target),
        "filtered_resps": said,
        "token_counts": [{"output_tokens": 2}],
        "doc_hash": "0",
        **kept,
        "input": asked,
    }


@pytest.fixture
def write(tmp_path):
    def to(name, rows):
        path = tmp_path / name
        if path.suffix in SUFFIXES:
            return write_table(path, rows)
        path.write_text("\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows))
        return path

    return to


@pytest.fixture
def run(capsys):
    def command(*arguments):
        status = score.main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert status == (2 if err else 0), err
        return json.loads(out) if status == 0 else err

    return command


def pope_samples(questions=POPE, said=SAID):
    return [
        sample(
            number,
            text,
            row["label"],
            row["text"] + ASKED,
            pope_accuracy={"question_id": str(row["question_id"]), "score": 1.0, "prediction": text.lower()},
        )
        for number, (row, text) in enumerate(zip(questions, said, strict=True))
    ]


def pope_table(said=SAID, category="adversarial", **more):
    return [
        {
            "index": row["question_id"],
            "question": row["text"],
            "answer": row["label"].title(),
            "category": category,
            "image_path": row["image"],
            "prediction": text,
            **more,
        }
        for row, text in zip(POPE, said, strict=True)
    ]


@pytest.fixture
def pope(run, write):
    """Scores of POPE's answers; by the official form where none is given."""
    questions = write("coco_pope_adversarial.json", POPE)
    official = [{"question_id": row["question_id"], "text": text} for row, text in zip(POPE, SAID, strict=True)]

    def scored(*arguments, name="answers.jsonl", rows=official):
        given = arguments or ("--questions", questions)
        return run("pope", *given, "--answers", write(name, rows))

    return scored


def test_pope(pope):
    expected = pope()
    assert expected["intervals"]
    assert pope(rows=pope_samples()[::-1]) == expected
    for suffix in SUFFIXES:
        # Another split asks question 1 too, and others of its own.
        rows = [{**row, "category": "popular,adversarial"} if row["index"] == 1 else row for row in pope_table()]
        rows += pope_table(category="popular", index="of another split")[1:]
        assert pope("--split", "adversarial", name=f"m_POPE{suffix}", rows=rows) == expected
    assert pope("--split", "adversarial", name="m_POPE.json", rows=pope_table()) == expected


def test_popes_samples_of_all_splits_are_those_of_the_questions_that_are_given(pope):
    expected = pope()
    other = [{**row, "text": "Is there a bus in the image?"} if row["label"] == "no" else row for row in POPE]
    assert pope(rows=pope_samples(other) + pope_samples()) == expected
    both = pope(rows=pope_samples(other, ("No", *SAID[1:])) + pope_samples())
    assert "1 ids answered twice: '1'" in both
    assert "4 ids missing" in pope(rows=pope_samples(other) * 2) or "2 ids missing" in pope(
        rows=pope_samples(other) * 2
    )
    assert "answers another question" in pope(rows=pope_samples(other))


def test_pope_without_the_names_of_images_has_no_intervals(pope):
    rows = pope_table()
    for row in rows:
        del row["image_path"]
    found = pope("--split", "adversarial", name="m_POPE.xlsx", rows=rows)
    assert (found["metrics"], found["intervals"]) == (pope()["metrics"], {})


@pytest.mark.parametrize(
    ("arguments", "name", "rows", "message"),
    [
        ((), "a.jsonl", [{**one, "target": "no"} for one in pope_samples()], "the true answer 'no' to question_id 1"),
        ((), "a.jsonl", [{**one, "filtered_resps": ["a", "b"]} for one in pope_samples()], "without repeats"),
        ((), "a.xlsx", pope_table(), "has questions of its own"),
        (("--split", "random"), "a.xlsx", pope_table(), r"got splits ['adversarial'] and --split random"),
        (("--split", "random"), "a.jsonl", pope_samples(), "got --split with --questions"),
        (("--rule", "pope"), "a.xlsx", [*pope_table(), *pope_table(category="random")], "the index '1' twice"),
        (("--rule", "pope"), "a.xlsx", pope_table(answer="maybe"), "got the answer 'maybe'"),
        (("--rule", "pope"), "a.xlsx", [*pope_table()[:3], pope_table(index=9, category="random")[3]], "splits ["),
    ],
)
def test_answers_of_pope_that_cannot_be_used(pope, arguments, name, rows, message):
    assert message in pope(*arguments, name=name, rows=rows)


def test_mme(run, write, tmp_path):
    said = ["Yes", "no.", "YES", "Yes", "Not sure", ""]
    answers = [
        (name, f"{name}/{number // 2}.png", "Yes" if number % 2 else "No", text)
        for name in TASK_NAMES
        for number, text in enumerate(said)
    ]
    (tmp_path / "results").mkdir()
    for name in TASK_NAMES:
        lines = ("\t".join((image, "?", true, text)) for task, image, true, text in answers if task == name)
        (tmp_path / "results" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    expected = run("mme", "--results", tmp_path / "results", "--pairing", "image")
    assert 0 < expected["metrics"]["perception"] < 2000
    samples = [
        sample(number, text, true, mme_perception_score={"question_id": image, "category": task, "score": 0.0})
        for number, (task, image, true, text) in enumerate(answers[::-1])
    ]
    assert run("mme", "--results", write("mme.jsonl", samples)) == expected
    names = ("category", "image_path", "answer", "prediction")
    table = [{"index": number, **dict(zip(names, row, strict=True))} for number, row in enumerate(answers)]
    for suffix in SUFFIXES:
        assert run("mme", "--results", write(f"m_MME{suffix}", table)) == expected
    some = write("some.xlsx", table[:6])
    assert "got no answers to 13 of 14 tasks: count, " in run("mme", "--results", some)
    assert run("mme", "--results", some, "--allow-missing")["counts"]["missing_tasks"] == 13
    assert "some.xlsx, existence: an image has no pair" in run("mme", "--results", write("some.xlsx", table[1:]))
    assert FORMS in run("mme", "--results", write("other.jsonl", [{"question_id": 1}]))
    wrong = [{**table[0], "category": "existense"}]
    assert "got task 'existense'" in run("mme", "--results", write("wrong.tsv", wrong))


@pytest.mark.parametrize("rule", ["words", "strict"])
def test_hallusionbench(run, write, rule):
    questions = write("HallusionBench.json", HALLUSION)
    said = ["yes", "No", "Yes it is", "yes", "no", "it is not known"]
    official = [{**row, "model_prediction": text} for row, text in zip(HALLUSION, said, strict=True)]
    arguments = ("hallusionbench", "--questions", questions, "--rule", rule, "--answers")
    expected = run(*arguments, write("answers.json", official))
    samples = [sample(number, row["model_prediction"], "?", aAcc=row) for number, row in enumerate(official)]
    assert run(*arguments, write("hallusion.jsonl", samples)) == expected
    names = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
    table = [
        {"index": "_".join(row[name] for name in names), "prediction": row["model_prediction"]} for row in official
    ]
    for suffix in SUFFIXES:
        assert run(*arguments, write(f"m_HallusionBench{suffix}", table)) == expected
    assert "'figure_id'" in run(*arguments, write("x.xlsx", [{"index": "VD_map_1_0", "prediction": "yes"}]))


def test_amber(run, write, tmp_path):
    data = write_amber(tmp_path / "amber")
    annotations = json.loads((data / "annotations.json").read_text())
    queries = json.loads((data / "query" / "query_all.json").read_text())
    said = {row["id"]: text for row, text in zip(queries, ("Yes", "No", "no") * 7, strict=True)}
    asked = [row for row in queries if row["query"] != "Describe this image."]
    arguments = ("amber", "--data", data, "--similarity", "exact", "--responses")
    official = [{"id": row["id"], "response": said[row["id"]]} for row in asked]
    expected = run(*arguments, write("responses.json", official))
    table = [
        {
            "index": number,
            "category": "?",
            "image_path": f"images/{row['image']}",
            "question": row["query"],
            "prediction": said[row["id"]],
        }
        for number, row in enumerate(asked[::-1])
    ]
    for suffix in SUFFIXES:
        assert run(*arguments, write(f"m_AMBER{suffix}", table)) == expected
    assert "once too often" in run(*arguments, write("twice.xlsx", [*table, table[0]]))
    assert "expected a question of" in run(*arguments, write("x.tsv", [{**table[0], "question": "Why?"}]))
    lines = [sample(row["id"] - 1, "A dog.", row["truth"], amber_chair={"chair_num": 1}) for row in annotations[:3]]
    rows = answer_rows(write("amber_g.jsonl", lines))
    assert [said_to_lmms_eval(row, tmp_path, 1) for row in rows] == ["A dog."] * 3
    lines[1]["target"] = "['cat']"
    assert "amber_g.jsonl, row 2: got objects ['cat'] in row 1" in run(*arguments, write("amber_g.jsonl", lines))
    lines[1]["target"] = "__import__('os')"
    assert "row 2: got objects __import__" in run(*arguments, write("amber_g.jsonl", lines))


def test_ambers_descriptions(test_data, run, write, tmp_path, monkeypatch):
    monkeypatch.setattr("nltk.data.path", [str(test_data / "nltk")])
    data = write_amber(tmp_path / "amber")
    annotations = json.loads((data / "annotations.json").read_text())[:3]
    texts = ["A dog on a lawn.", "A ball and a cat.", "Grass."]
    arguments = ("amber", "--data", data, "--similarity", "exact", "--responses")
    official = [{"id": row["id"], "response": text} for row, text in zip(annotations, texts, strict=True)]
    expected = run(*arguments, write("responses.json", official))
    lines = [
        sample(row["id"] - 1, text, row["truth"], amber_chair={"chair_num": 1})
        for row, text in zip(annotations, texts, strict=True)
    ]
    assert run(*arguments, write("amber_g.jsonl", lines[::-1])) == expected


def test_captions_beside_their_references(run, write):
    references = {"7": ["a dog runs", "the dog"], "12": ["a red cup on a table"], "13": ["two cats sleep"]}
    said = {"7": "a dog", "12": "a cup on the table", "13": "=two dogs"}
    expected = run("caption", "--references", write("r.json", references), "--captions", write("c.json", said))
    lines = [
        sample(number, said[name], texts, coco_CIDEr={"answer": texts, "pred": said[name], "image_id": int(name)})
        for number, (name, texts) in enumerate(references.items())
    ]
    samples = write("coco2014_cap_val.jsonl", lines)
    assert run("caption", "--references", samples, "--captions", samples) == expected
    assert run("caption", "--references", write("r.json", references), "--captions", samples) == expected
    table = [{"index": int(name), "answer": str(texts), "prediction": said[name]} for name, texts in references.items()]
    for suffix in SUFFIXES:
        path = write(f"m_COCO_VAL{suffix}", table)
        assert run("caption", "--references", path, "--captions", path) == expected
    (one,) = lines[:1]
    alone = write("one.jsonl", [one])
    assert run("caption", "--references", alone, "--captions", alone)["counts"]["captions"] == 1
    without = write("test.jsonl", [sample(0, "a dog", [], coco_passthrough={"pred": ["a dog"], "image_id": 7})])
    assert "row 1: got no references" in run("caption", "--references", without, "--captions", without)
    code = write("code.tsv", [{**table[0], "answer": "__import__('os').getcwd()"}])
    assert "row 1: got no references" in run("caption", "--references", code, "--captions", code)


def test_chair(run, write, tmp_path):
    (tmp_path / "annotations").mkdir()
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    found = [{"image_id": 1, "category_id": 1}, {"image_id": 2, "category_id": 2}]
    said = [{"image_id": 1, "caption": "A dog"}, {"image_id": 2, "caption": "A cup"}]
    write("annotations/instances.json", {"images": images, "annotations": found, "categories": CATEGORIES})
    write("annotations/captions.json", {"images": images, "annotations": said})
    captions = [{"image_id": 1, "caption": "A dog and a cat."}, {"image_id": 2, "caption": "A cup."}]
    arguments = ("chair", "--annotations", tmp_path / "annotations", "--captions")
    expected = run(*arguments, write("captions.json", captions))
    assert expected["counts"]["hallucinated_mentions"] == 1
    for metric in ("coco_cap_chair_i", "coco_CIDEr"):
        lines = [
            sample(n, row["caption"], "?", **{metric: {"image_id": row["image_id"]}}) for n, row in enumerate(captions)
        ]
        assert run(*arguments, write("chair.jsonl", lines)) == expected


def test_cells_of_a_workbook(tmp_path):
    rows = [
        {"index": 1, "prediction": " Yes,\n& <no>\t_x0041_", "wide": "=1+1", "empty": ""},
        dict.fromkeys("abcd", ""),
    ]
    expected = {"index": "1", "prediction": " Yes,\n& <no>\tA", "wide": "=1+1", "empty": ""}
    assert read_table(write_table(tmp_path / "a.xlsx", rows)) == [expected]
    many = {column(number): number for number in range(60)}
    assert read_table(write_table(tmp_path / "b.xlsx", [many])) == [{name: str(value) for name, value in many.items()}]
    texts = (
        '<row><c t="inlineStr"><is><r><t>pre</t></r><r><t>diction</t></r></is></c><c t="str"><v>index</v></c></row>'
        '<row><c r="B2"><v>2.5</v></c></row><row/>'
    )
    sheet = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{}</worksheet>'
    with zipfile.ZipFile(tmp_path / "c.xlsx", "w") as file:
        file.writestr("xl/worksheets/sheet1.xml", sheet.format(texts))
    (row,) = read_table(tmp_path / "c.xlsx")
    assert row == {"prediction": "", "index": "2.5"}
    assert texts_of(row, ("index",), tmp_path, 1) == ["2.5"]
    assert read_table(write_table(tmp_path / "d.tsv", [{"index": 1, "prediction": 'a "b"\n\tc'}])) == [
        {"index": "1", "prediction": 'a "b"\n\tc'}
    ]


def test_files_that_are_no_tables(tmp_path):
    whole = write_table(tmp_path / "whole.xlsx", [{"index": 1, "prediction": "yes"}]).read_bytes()
    sheet = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><row>{}</row></worksheet>'
    broken = {"empty.xlsx": b"", "cut.xlsx": whole[: len(whole) // 2], "text.xlsx": b"index,prediction", "e.tsv": b""}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    for number, cells in enumerate(
        ('<c t="s"><v>5</v></c>', '<c r="ZZZZ1"><v>1</v></c>', '<c r="a1"><v>1</v></c>', "<c><v>1</v></c>" * 2, "<c>")
    ):
        with zipfile.ZipFile(tmp_path / f"sheet{number}.xlsx", "w") as file:
            file.writestr("xl/worksheets/sheet1.xml", sheet.format(cells))
    with zipfile.ZipFile(tmp_path / "no_sheet.xlsx", "w") as file:
        file.writestr("other", "")
    paths = [path for path in tmp_path.iterdir() if path.name != "whole.xlsx"]
    assert len(paths) == 10
    for path in paths:
        with pytest.raises(DataFileError, match=r"is no table|has no columns"):
            read_table(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.binary(max_size=6), st.sampled_from(SUFFIXES))
def test_any_damage_is_rows_or_one_error(tmp_path, place, damage, suffix):
    path = write_table(tmp_path / f"a{suffix}", [{"index": 1, "prediction": "yes"}])
    content = path.read_bytes()
    path.write_bytes(content[:place] + damage + content[place + len(damage) :])
    try:
        rows = read_table(path)
    except DataFileError:
        return
    assert all(isinstance(cell, str) for row in rows for cell in row.values())
