"""`python -m captune`."""

import sys

from captune.cli import main

if __name__ == "__main__":
    sys.exit(main())
