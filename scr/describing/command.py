"""`python -m scr.describe photos/ --model M --method scr,purified --output described/`: describe a folder of photos.

One folder, one page: `descriptions.jsonl`, `descriptions.csv`, and `index.html` with pictures beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command.guard import DONE, FAILED, guarded
from ..command.parser import Parser
from ..command.types import key_value, names, positive
from ..errors import ConfigError
from ..files import write_text
from .gallery.page import write_page
from .gallery.photos import Photo, find_photos
from .gallery.records import Records
from .gallery.table import as_csv
from .gallery.working import describe_missing

if TYPE_CHECKING:
    from ..patching.combination import CombinedConfig
    from .cluster import Cluster

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

PROMPT = "Please describe this image in detail."
"""What is asked where no prompt is given: CHAIR's."""

_EPILOG = """examples:
  python -m scr.describe photos/
  python -m scr.describe photos/ --model lab/smol --method scr,purified --output described/
  python -m scr.describe kitchen.jpg street.png --prompt "What is on the table?" --method vcd --gen-kwarg do_sample=true

The unpatched model always comes first. Run again, it describes what is not described yet: new photos, new methods, what
was interrupted, what could not be read; other processes may do so at the same time. Then open DIR/index.html, mark what
is there, save marks.json, and ask `python -m analysis.marks DIR marks.json` whether a method helps.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 if photos were described, 1 if none could be or the machine failed, 2 for an argument or input that cannot be
        used, 130 if interrupted.
    """
    return guarded(
        lambda: _run(build_parser().parse_args(argv)),
        "interrupted; what was described is kept and is on the page, and the same command goes on from there",
    )


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m scr.describe",
        description="Describe photos, with and without methods, and say which words may be made up: a page of them.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("photos", type=Path, nargs="+", help="folders of photos, or files")
    add("--model", default="lab/llava", metavar="NAME", help="lab name, local folder or hub id (%(default)s)")
    add("--method", type=names, default=(), metavar="NAME[,NAME]",
        help="methods, each beside the unpatched model (none); A+B is both, one inside the other")  # fmt: skip
    add("--method-arg", type=key_value, action="append", default=[], metavar="NAME.K=V", help="field of a method")
    add("--adapter", type=names, default=(), metavar="NAME[,NAME]",
        help="lab/refusal, a folder, a hub id: each alone and with each method (none)")  # fmt: skip
    add("--prompt", type=str, default=PROMPT, metavar="TEXT", help="what is asked (%(default)s)")
    add("--output", type=Path, default=Path("described"), metavar="DIR", help="where all goes (%(default)s)")
    add("--calibration", metavar="NAME",
        help="what scores doubts: a name, a file, or 'none' (the model's own, where there is one)")  # fmt: skip
    add("--max-new-tokens", type=positive, default=128, metavar="N", help="where texts are cut off (%(default)s)")
    add("--gen-kwarg", type=key_value, action="append", default=[], metavar="K=V",
        help="argument of generate, which is greedy otherwise")  # fmt: skip
    add("--batch-size", type=positive, default=8, metavar="N", help="photos at a time (%(default)s)")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="of the model (float32 on a CPU)")  # fmt: skip
    add("--ray", action="store_true",
        help="on Ray, an actor for each GPU or each --cpus cores; other processes wait for its photos, which may be a "
        "table: one .parquet or .jsonl of image, path, bytes")  # fmt: skip
    add("--cpus", type=positive, metavar="N", help="with --ray: cores of an actor, where there is no GPU (1)")
    add("--address", metavar="ADDRESS", help="with --ray: of a cluster that runs (one of this machine)")
    add("--device", default="auto", help="without --ray: cpu, cuda, or auto (a GPU if there is one)")
    add("--model-args", metavar="K=V[,K=V]", help="as lm-eval has it: pretrained=NAME,dtype=..., in place of the flags")
    return parser


def _run(options: argparse.Namespace) -> int:
    _check_where(options)
    if not options.ray:
        return _describe(options)
    from .cluster import connected

    with connected(options.address, options.cpus or 1) as cluster:
        return _describe(options, cluster)


def _check_where(options: argparse.Namespace) -> None:
    """Refuse what would not change where the work is done."""
    for flag, value in (("--address", options.address), ("--cpus", options.cpus)):
        if value is not None and not options.ray:
            raise ConfigError(
                f"{flag} without --ray: got {value}; expected --ray beside it. Add --ray, or leave it out."
            )
    if options.device != "auto" and options.ray:
        raise ConfigError(
            f"--device beside --ray: got {options.device!r}; expected none, as actors take the cluster's GPUs, or its "
            "cores where it has none. Leave --device out."
        )


def _describe(options: argparse.Namespace, cluster: Cluster | None = None) -> int:
    # Whatever can be refused is refused before anything heavy is loaded.
    photos = (cluster.find_photos if cluster else find_photos)(options.photos, without=options.output)
    from torch import device

    from ..checkpoints.chosen import chosen_dtype, find_device, find_model, load_chosen
    from ..checkpoints.settings import settings_beside
    from ..patching.combination import check_beams
    from .asking import Asker, conditions
    from .doubts.scores import chosen_calibration

    location, revision = find_model(options.model)
    configs = configurations(options.method, dict(options.method_arg), settings_beside(Path(location)))
    wanted = conditions(configs, _adapters(options, revision))
    generation = {"do_sample": False, "max_new_tokens": options.max_new_tokens, **dict(options.gen_kwarg)}
    check_beams([part for config in configs.values() for part in config.parts], generation)
    calibration = chosen_calibration(options.calibration, options.model)
    # The actors' GPUs need not be where the command is started.
    where = device(cluster.device) if cluster else find_device(options.device)
    settings = {
        "model": options.model,
        "dtype": chosen_dtype(options.model, options.dtype, where),
        "prompt": options.prompt,
        "generation": generation,
        "calibration": None if calibration is None else f"{calibration.name}@{calibration.digest}",
        "methods": {name: one.to_dict() for name, one in wanted.items()},
    }
    records = Records(options.output)
    records.check(settings if revision is None else settings | {"revision": revision})
    records.check_photos(photos)
    asked = (options.prompt, wanted, generation, calibration)
    if cluster:
        revision = cluster.revision(options.model)
        describe = functools.partial(cluster.describe_missing, model=(options.model, settings["dtype"]), asked=asked)
    else:
        _say(f"loading {options.model} in {settings['dtype']}")
        model, processor, revision = load_chosen(options.model, settings["dtype"], options.device)
        describe = functools.partial(describe_missing, describe=Asker(model, processor, *asked).rows)
    if calibration and (caveat := calibration.caveat(options.model, revision, options.prompt, options.adapter)):
        _say(caveat)
    # Actors hold no photos: all are held for them.
    with records.alone() if cluster else contextlib.nullcontext():
        settings = records.begin(settings | {"revision": revision})
        try:
            describe(records, photos, list(wanted), batch_size=options.batch_size, report=_say)
        finally:
            rows = _publish(records, photos, settings)
    failed = {row["image"] for row in rows if row["error"] is not None}
    if failed:
        _say(f"{len(failed)} photos could not be described, {min(failed)!r} among them: the page says why")
    return FAILED if len(failed) == len({row["image"] for row in rows}) else DONE


def configurations(
    methods: Sequence[str], arguments: Mapping[str, Any], beside: Mapping[str, Any] | None = None
) -> dict[str, CombinedConfig]:
    """The methods' configurations by name, that of the unpatched model before the others.

    Args:
        methods: names, "+" between the parts of a combination.
        arguments: "FIELD" of all methods, "NAME.FIELD" of one.
        beside: what `scr.json` beside the checkpoint holds; of methods that take it, for fields that were not given.

    Raises:
        ConfigError: for an unknown method or field, a value out of range, or a field of a method that is not asked for.
    """
    from ..methods import get_method
    from ..patching.baseline import BASELINE
    from ..patching.combination import CombinedConfig, fields_by_part, method_parts

    parts = {name.lower(): method_parts(name) for name in (BASELINE, *methods)}
    given = fields_by_part(list(dict.fromkeys(part for one in parts.values() for part in one)), arguments)
    taken = {part: get_method(part).settings_of(beside or {}) for part in given}
    made = {part: get_method(part).configure({**taken[part], **fields}) for part, fields in given.items()}
    return {name: CombinedConfig(parts={part: made[part] for part in own}) for name, own in parts.items()}


def _adapters(options: argparse.Namespace, revision: str | None) -> list[Any]:
    """Those asked for, none of which says that it was trained on another model."""
    from ..adapters import check_base, find_adapter

    found = [find_adapter(name) for name in options.adapter]
    for one in found:
        check_base(one, options.model, revision)
    return found


def _publish(records: Records, photos: Sequence[Photo], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write the table and the page of all that is described; the rows."""
    from .gallery.copies import copied

    paths = {photo.name: photo for photo in photos}

    def copy(name: str) -> dict[str, Any] | None:
        return copied(paths.get(name, Photo(name, records.folder / name)), records.folder)

    with records.publishing():
        rows = records.sort([photo.name for photo in photos], settings["methods"])
        write_text(records.folder / "descriptions.csv", as_csv(rows))
        page = write_page(records.folder, settings, rows, copy)
    print(f"{page}: {len({row['image'] for row in rows})} photos, {len(rows)} descriptions")
    return rows


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
