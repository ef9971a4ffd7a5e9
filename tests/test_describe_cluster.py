"""`python -m scr.describe --ray` on a cluster of this machine: one process's rows, also where an actor is killed."""

import json
import os
import signal
import sys
from pathlib import Path
from shutil import copytree

import pytest
from PIL import Image

from scr import ConfigError
from scr.describing import cluster
from scr.describing.cluster import Cluster, Describer, connected
from scr.describing.command import main
from scr.describing.gallery.page import PAGE
from scr.describing.gallery.records import ROWS_FILE

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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("one_thread")
def test_a_table_of_pictures_makes_the_rows_of_their_folder(photos, alone, watched, tmp_path, capsys):
    import pyarrow
    import pyarrow.parquet

    (watched / "killed").touch()
    names = sorted(path.name for path in photos.iterdir())
    table = {"image": names, "bytes": [(photos / name).read_bytes() for name in names]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "photos.parquet")
    out = tmp_path / "described"
    copytree(alone, out)
    lines = (out / ROWS_FILE).read_text().splitlines(keepends=True)
    (out / ROWS_FILE).write_text("".join(lines[:1] + lines[2:6]))
    cores = str(len(os.sched_getaffinity(0)))  # an actor that takes all of them, and reading still goes on
    assert main([str(tmp_path / "photos.parquet"), "--output", str(out), "--ray", "--cpus", cores, *QUICK]) == 0
    assert rows_of(out) == rows_of(alone), "what was missing is added"
    assert len(list(watched.iterdir())) == 2, "one actor, and the mark above"
    with connected(None, 1) as found:
        rows = [{"path": "a.png"}, {"path": "/b.png", "image": "b"}]
        (tmp_path / "photos.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        first, second = found.find_photos([tmp_path / "photos.jsonl"], tmp_path)
        assert (first.name, first.path) == ("a.png", Path("a.png").absolute())
        assert tuple(second) == ("b", Path("/b.png"))
        (tmp_path / "other.jsonl").write_text('{"file": "a"}\n')
        (tmp_path / "twice.jsonl").write_text('{"path": "a"}\n{"path": "a"}\n')
        for given, said in (
            (["other.jsonl"], "a table of something else"),
            (["twice.jsonl"], "two photos have one name"),
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
    assert actor({})["row"][0].startswith('{"refused": "')

    class Refused:
        """A data set whose one batch is a refusal."""

        def map_batches(self, *arguments, **options):
            assert (options["num_cpus"], options["concurrency"]) == (4, 2)
            return self

        def iter_batches(self, **options):
            yield {"row": ['{"refused": "no: got that; expected this. Do it."}']}

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
