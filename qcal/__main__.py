"""`python -m qcal` does what `qcal` does."""

import sys

from qcal.cli import main

sys.exit(main())
