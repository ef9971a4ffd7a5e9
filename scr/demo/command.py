"""`python -m scr.demo`: a page on this machine, on which a picture is dropped and methods are compared.

The page is the standard library's server's, and needs no package: gradio caps Pillow below the version that this
project is tested with.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..command.guard import guarded
from ..command.parser import Parser
from ..command.types import natural, positive

# torch is imported below, in the functions that need it, so that --help and a mistyped flag answer at once.

_EPILOG = """examples:
  python -m scr.demo
  python -m scr.demo --model llava-hf/llava-1.5-7b-hf --dtype float16 --port 0

It listens on this machine alone. With --host 0.0.0.0 everybody who reaches the port can use the model: there is no
password. A picture is kept while it is described, and not longer.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        130 once it is interrupted, which is how it ends; 2 for an argument that cannot be used, 1 where the machine
        failed.
    """
    return guarded(lambda: _run(build_parser().parse_args(argv)), "interrupted; the page is closed")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="python -m scr.demo",
        description="Open a page to try the methods on: a picture, a question, and the answers side by side.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--model", default="lab/llava", metavar="NAME", help="hub id, local folder, or lab/... name (%(default)s)")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (%(default)s: this machine alone)")
    add("--port", type=natural, default=7860, metavar="N", help="0 takes any that is free (%(default)s)")
    add("--max-new-tokens", type=positive, default=128, metavar="N", help="where answers are cut off (%(default)s)")
    add("--calibration", metavar="NAME",
        help="what scores doubts: a name, a file, or 'none' (the model's own, where there is one)")  # fmt: skip
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="of the model (float32 on a CPU)")  # fmt: skip
    add("--device", default="auto", help="cpu, cuda, or auto (a GPU if there is one)")
    return parser


def _run(options: argparse.Namespace) -> None:
    from .serving import bind

    with bind(options.host, options.port) as server:  # before the model: a port that is taken is said at once
        from ..checkpoints.chosen import load_chosen, locate
        from ..checkpoints.settings import settings_beside
        from ..describing.describe import PROMPT
        from ..describing.doubts.scores import chosen_calibration
        from .answering import Answering

        calibration = chosen_calibration(options.calibration, options.model)
        model, processor, revision = load_chosen(options.model, options.dtype, options.device)
        if calibration and (caveat := calibration.caveat(options.model, revision, PROMPT)):
            print(caveat, file=sys.stderr, flush=True)
        server.answering = Answering(
            model,
            processor,
            name=options.model,
            prompt=PROMPT,
            calibration=calibration,
            generation={"max_new_tokens": options.max_new_tokens, "do_sample": False},
            beside=settings_beside(locate(options.model)),
        )
        print(f"{options.model} is at {server.address}   (Ctrl-C ends it)", flush=True)
        server.serve_forever()
