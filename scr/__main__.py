"""`python -m scr`: the commands of this project."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main())
