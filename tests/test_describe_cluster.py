"""`python -m scr.describe --ray` on a cluster of this machine: one process's rows, also where an actor is killed."""

import base64
import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from shutil import copytree, ignore_patterns
from types import SimpleNamespace

import pytest
from described import described, row
from PIL import Image

from scr import ConfigError
from scr.describing import cluster
from scr.describing.actor import COPY, REFUSED, Describer
from scr.describing.cluster import Cluster, connected
from scr.describing.command import main
from scr.describing.gallery import working
from scr.describing.gallery.copies import copied, has_copy, keep_copy
from scr.describing.gallery.page import PAGE
from scr.describing.gallery.photos import Photo
from scr.describing.gallery.records import ROWS_FILE, Records
from scr.describing.gallery.working import describe_missing
from scr.storing.locks import FolderInUseError

QUICK = ["--max-new-tokens", "8", "--batch-size", "1", "--calibration", "none", "--method", "scr"]
FOLDER = "WATCHED_ACTORS"


class Watched(Describer):
    """Notes which process describes; the first one is killed, as by a machine that runs out of memory."""

    def __call__(self, batch):
        folder = Path(os.environ[FOLDER])
        (folder / f"{os.getpid()}").touch()
        if not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with four photos, one of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    for number, colour in enumerate(("teal", "maroon", "olive")):
        Image.new("RGB", (96, 96), colour).save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    """What one process writes."""
    folder = tmp_path_factory.mktemp("alone") / "described"
    assert main([str(photos), "--output", str(folder), *QUICK]) == 0
    return folder


def rows_of(folder):
    """The lines, without what differs from run to run: times, and the last digits where threads share a sum."""

    def plain(value):
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items() if name != "milliseconds"}
        return [plain(one) for one in value] if isinstance(value, list) else rounded(value)

    def rounded(value):
        return pytest.approx(value, rel=1e-3, abs=1e-3) if isinstance(value, float) else value

    return [plain(json.loads(line)) for line in (folder / ROWS_FILE).read_text().splitlines()]


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A folder with a file for each actor."""
    pytest.importorskip("ray", reason="no ray: pip install -e '.[ray]'")
    (tmp_path / "actors").mkdir()
    monkeypatch.setenv(FOLDER, str(tmp_path / "actors"))
    here = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(here), str(here.parent))))  # an actor imports this file
    monkeypatch.setattr(cluster, "Describer", Watched)
    return tmp_path / "actors"


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.usefixtures("one_thread")
def test_two_actors_make_the_rows_of_one_process_though_one_is_killed(photos, alone, watched, tmp_path):
    out = tmp_path / "described"
    assert main([str(photos), "--output", str(out), "--ray", *QUICK]) == 0
    assert rows_of(out) == rows_of(alone)
    assert "4 photos described by lab/llava" in (out / PAGE).read_text()
    processes = {path.name for path in watched.iterdir()} - {"killed"}
    assert len(processes) >= 3, "two actors, and the one that was started in place of the first"
    assert str(os.getpid()) not in processes


@pytest.fixture
def held(photos):
    """The photos' names and their files."""
    return {path.name: path.read_bytes() for path in sorted(photos.iterdir())}


def copies_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("one_thread")
def test_a_table_of_pictures_makes_the_rows_and_the_page_of_their_folder(alone, held, watched, tmp_path):
    (watched / "killed").touch()
    rows = [{"image": name, "bytes": base64.b64encode(content).decode()} for name, content in held.items()]
    (tmp_path / "photos.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out = tmp_path / "described"
    assert main([str(tmp_path / "photos.jsonl"), "--output", str(out), "--ray", *QUICK]) == 0
    assert rows_of(out) == rows_of(alone)
    assert len(copies_of(alone)) == 3
    assert copies_of(out) == copies_of(alone)

    def shown(folder):
        return json.loads((folder / PAGE).read_text().split('id="gallery-data">')[1].split("</script>")[0])["photos"]

    assert [one.get("file") for one in shown(out)] == [one.get("file") for one in shown(alone)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("one_thread")
def test_a_later_run_adds_the_rows_and_copies_that_are_missing(alone, held, watched, tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    (watched / "killed").touch()
    # As `datasets` stores pictures.
    table = {"image": [{"bytes": content, "path": name} for name, content in held.items()]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "photos.parquet")
    out = tmp_path / "described"
    copytree(alone, out, ignore=ignore_patterns("pictures"))
    lines = (out / ROWS_FILE).read_text().splitlines(keepends=True)
    (out / ROWS_FILE).write_text("".join(lines[:1] + lines[2:6]))
    Image.new("RGB", (9, 9)).save(tmp_path / "0.png")  # of the same name and younger, but not in the table
    os.utime(tmp_path / "0.png", (2**32, 2**32))
    monkeypatch.chdir(tmp_path)
    cores = str(len(os.sched_getaffinity(0)))  # an actor that takes all of them, and reading still goes on
    assert main(["photos.parquet", "--output", str(out), "--ray", "--cpus", cores, *QUICK]) == 0
    assert rows_of(out) == rows_of(alone), "what was missing is added"
    assert copies_of(out) == copies_of(alone)
    assert len(list(watched.iterdir())) == 2, "one actor, and the mark above"


def write_rows(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("watched")
def test_tables_that_are_photos_and_others(alone, tmp_path):
    import pyarrow
    import pyarrow.parquet

    with connected(None, 1) as found:
        write_rows(tmp_path / "photos.jsonl", {"path": "/b.png", "image": "b"}, {"path": "a.png"})
        first, second = found.find_photos([tmp_path / "photos.jsonl"], tmp_path)
        assert (first.name, first.path) == ("a.png", Path("a.png").absolute())
        assert second == Photo("b", Path("/b.png"))
        write_rows(tmp_path / "held.jsonl", {"path": "0.png", "bytes": "AA=="})
        given = found.find_photos([tmp_path / "held.jsonl"], tmp_path)
        assert given == [Photo("0.png", tmp_path / "held.jsonl" / "0.png", hashlib.sha256(b"\0").hexdigest())]
        with pytest.raises(ConfigError, match=r"two photos have one name: got .*held.jsonl/0.png', but .*described' "):
            Records(alone).check_photos(given)
        write_rows(tmp_path / "other.jsonl", {"file": "a"})
        write_rows(tmp_path / "twice.jsonl", {"path": "a"}, {"path": "a"})
        write_rows(tmp_path / "number.jsonl", {"path": "a", "bytes": 3})
        write_rows(tmp_path / "nameless.jsonl", {"image": {"bytes": "AA==", "path": None}})
        (tmp_path / "empty.jsonl").touch()
        names = {"image": pyarrow.array(["a", "b"]).dictionary_encode(), "path": pyarrow.nulls(2)}
        pyarrow.parquet.write_table(pyarrow.table(names), tmp_path / "names.parquet")
        assert [photo.name for photo in found.find_photos([tmp_path / "names.parquet"], tmp_path)] == ["a", "b"]
        pyarrow.parquet.write_table(pyarrow.table({"image": [["a"], ["b"]]}), tmp_path / "lists.parquet")
        for given, said in (
            (["other.jsonl"], "a table of something else: got .* with .'file'.; expected"),
            (["empty.jsonl"], "a table of something else: got .* with ..; expected"),
            (["twice.jsonl"], "two photos have one name"),
            (["number.jsonl"], "a column of something else: got bytes of int64 in .*number.jsonl; expected bytes, or"),
            (
                ["lists.parquet"],
                "a column of something else: got image of list<.*>.* in .*; expected text, or a struct",
            ),
            (["nameless.jsonl"], "a photo without a name: got a row of .*nameless.jsonl"),
            (["gone.parquet"], "no such table"),
            (["photos.jsonl", "x.png"], "a table beside others"),
        ):
            with pytest.raises(ConfigError, match=said):
                found.find_photos([tmp_path / name for name in given], tmp_path)


def test_without_ray_it_says_what_to_install(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([str(photos), "--output", str(tmp_path / "out"), "--ray"]) == 2
    assert "--ray needs ray: got none installed; expected ray[data]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_an_actor_refuses_is_the_commands_error(photos):
    actor = Describer("lab/lava", "float32", "cpu", (), ["none"])
    assert json.loads(actor({})["row"][0]).keys() == {REFUSED}

    class Refused:
        """A data set whose one batch is a refusal."""

        def map_batches(self, *arguments, **options):
            assert (options["num_cpus"], options["concurrency"]) == (4, 2)
            return self

        def iter_batches(self, **options):
            yield {"row": ['{"refused": "no: got that; expected this. Do it."}'], "copy": [b""]}

    class Fake:
        """Ray, for as long as nothing is computed."""

        class data:
            """Its data sets."""

            from_items = staticmethod(lambda items: Refused())

        cluster_resources = staticmethod(lambda: {"CPU": 9.0})

    class Nothing:
        """Records of which all are missing."""

        missing = staticmethod(lambda names, methods: {name: methods for name in names})

    found = Cluster(Fake, 4)
    wanted = {"model": ("m", "float32"), "asked": (), "batch_size": 2, "report": lambda line: None}
    given = found.find_photos([photos], photos / "out")
    assert len(given) == 4
    with pytest.raises(ConfigError, match=r"no: got that"):
        found.describe_missing(Nothing, given, ["none"], **wanted)
    with pytest.raises(ConfigError, match="too few cores: got a cluster of 9; expected one more than --cpus"):
        Cluster(Fake, 9).describe_missing(Nothing, given, ["none"], **wanted)


@pytest.mark.usefixtures("one_thread")
def test_an_actor_makes_the_copies_of_what_its_batch_holds(photos, held, tmp_path):
    from scr.describing.asking import conditions
    from scr.describing.command import configurations

    asked = ("Describe.", conditions(configurations((), {}), []), {"do_sample": False, "max_new_tokens": 2}, None)
    actor = Describer("lab/llava", "float32", "cpu", asked, ["none"])
    names, lacking = ["0.png", "broken.jpg", "1.png", "2.png"], ['["none"]', '["none"]', "[]", '["none"]']
    contents, paths = [held["0.png"], held["broken.jpg"], held["1.png"], b""], ["", "", "", str(photos / "2.png")]
    made = actor({"image": names, "path": paths, "bytes": contents, "methods": lacking})
    rows = [json.loads(text) for text in made["row"]]
    assert [one.get("image") for one in rows] == [None, None, "0.png", "broken.jpg", "2.png"]
    assert [one["error"] is None for one in rows[2:]] == [True, False, True]
    for name, told, content in zip(("0.png", "1.png"), rows, made["copy"], strict=False):
        copy = copied(Photo(name, photos / name), tmp_path)
        assert (told, content) == ({COPY: copy["file"]}, (tmp_path / copy["file"]).read_bytes())
    assert made["copy"][2:] == [b""] * 3


def test_a_copy_is_kept_in_place_of_an_older_one(tmp_path):
    for size, suffix in ((8, ".png"), (300, ".jpg")):
        Image.new("RGB", (size, size)).save(tmp_path / "a.png")
        (tmp_path / suffix).mkdir()
        copy = copied(Photo("a.png", tmp_path / "a.png"), tmp_path / suffix)
        assert not has_copy("a.png", tmp_path / "out") or suffix == ".jpg"
        (tmp_path / "out").mkdir(exist_ok=True)
        keep_copy(copy["file"], (tmp_path / suffix / copy["file"]).read_bytes(), tmp_path / "out")
        assert has_copy("a.png", tmp_path / "out")
        assert copied(Photo("a.png", tmp_path / "gone"), tmp_path / "out") == {**copy, "size": [size, size]}


def clustered(monkeypatch, **resources):
    """Puts a cluster of these resources, on which nothing is computed, in place of Ray; returns what it is asked."""
    asked = []

    @contextlib.contextmanager
    def fake(address, cpus):
        found = Cluster(SimpleNamespace(cluster_resources=lambda: resources), cpus)
        monkeypatch.setattr(found, "describe_missing", lambda *_, model, **options: asked.append(model))
        yield found

    monkeypatch.setattr(cluster, "connected", fake)
    return asked


@pytest.mark.parametrize(("resources", "dtype"), [({"CPU": 4.0, "GPU": 2.0}, "bfloat16"), ({"CPU": 4.0}, "float32")])
def test_the_models_dtype_is_that_of_the_clusters_devices(resources, dtype, photos, tmp_path, monkeypatch):
    asked = clustered(monkeypatch, **resources)
    main([str(photos), "--output", str(tmp_path / "out"), "--ray", *QUICK])
    assert asked == [("lab/llava", dtype)]
    assert Cluster(SimpleNamespace(cluster_resources=lambda: resources), 1).device == (
        "cuda" if "GPU" in resources else "cpu"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--cpus", "2"], "--cpus without --ray: got 2; expected --ray beside it. Add --ray, or leave it out."),
        (["--address", "auto"], "--address without --ray: got auto; expected --ray beside it."),
        (["--ray", "--device", "cuda"], "--device beside --ray: got 'cuda'; expected none"),
        (["--ray", "--model-args", "device=cpu"], "--device beside --ray: got 'cpu'; expected none"),
    ],
)
def test_what_would_be_ignored_is_refused(given, said, photos, tmp_path, monkeypatch, capsys):
    asked = clustered(monkeypatch, CPU=4.0)
    assert main([str(photos), "--output", str(tmp_path / "out"), *QUICK, *given]) == 2
    assert said in capsys.readouterr().err
    assert not asked


def test_a_second_command_on_a_cluster_is_refused_and_changes_nothing(photos, tmp_path, monkeypatch, capsys):
    asked = clustered(monkeypatch, CPU=4.0)
    with Records(tmp_path / "out").alone():
        before = sorted(tmp_path.rglob("*"))
        assert main([str(photos), "--output", str(tmp_path / "out"), "--ray", *QUICK]) == 1
        assert sorted(tmp_path.rglob("*")) == before
    assert "another process writes to this folder" in capsys.readouterr().err
    assert not asked
    main([str(photos), "--output", str(tmp_path / "out"), "--ray", *QUICK])
    assert asked, "it is free again"


def test_one_process_waits_for_the_photos_of_a_cluster(tmp_path, monkeypatch):
    records, slept = described(tmp_path, []), []

    def ended(seconds):
        slept.append(seconds)
        Records(tmp_path).add([row("a", "Theirs.")])

    monkeypatch.setattr(working.time, "sleep", ended)
    with Records(tmp_path).alone():
        describe_missing(
            records, [Photo("a", Path("a"))], ["none"], lambda *_: pytest.fail("described twice"),
            batch_size=1, report=lambda line: None,
        )  # fmt: skip
    assert len(slept) == 1
    assert records.rows()["a", "none"]["text"] == "Theirs."


def test_a_cluster_waits_for_the_photos_of_one_process(tmp_path):
    records = described(tmp_path, [])
    entered = threading.Event()

    def alone():
        with Records(tmp_path).alone():
            entered.set()

    def others():
        with records.claimed(["b"], 1) as more:
            return more

    with records.claimed(["a"], 1) as mine:
        assert mine == ["a"]
        other = threading.Thread(target=alone)
        other.start()
        while other.is_alive() and others():  # until it begins to wait, from when on no other photo is taken
            time.sleep(0.01)
        with pytest.raises(FolderInUseError, match="another process writes"), Records(tmp_path).alone():
            pass
        assert not entered.wait(0.3)
    other.join(30)
    assert entered.is_set()
    with records.claimed(["a"], 1) as again:
        assert again == ["a"]
    assert not list(tmp_path.glob(".claim*"))
