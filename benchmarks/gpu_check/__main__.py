"""`python -m benchmarks.gpu_check`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
