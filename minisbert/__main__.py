"""`python -m minisbert ...` is the command `minisbert ...`."""

import sys

from minisbert.commands import main

if __name__ == "__main__":
    sys.exit(main())
