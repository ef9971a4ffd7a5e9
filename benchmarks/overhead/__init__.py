"""What a method costs: `python -m benchmarks.overhead`."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, as `__main__` has it; the exit status."""
    from .__main__ import main as run  # what `python -m` is about to run must not have been imported

    return run(argv)
