"""`python -m scr`: the commands of this project."""

import sys

from .command.table import main

if __name__ == "__main__":
    sys.exit(main())
