"""`python -m scr.describe`: describe a folder of photos. Imported, it is the function `scr.describe` and no module."""

import sys

if __name__ == "__main__":
    from .describing.command import main

    sys.exit(main())
else:
    from .describing.describe import describe

    # What an import puts into the package is found here, and else would be this module.
    sys.modules[__name__] = describe  # type: ignore[assignment]
