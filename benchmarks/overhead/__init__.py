"""What a method costs: `python -m benchmarks.overhead`."""
