"""Train, quantize, compare: `python train.py fit --help`."""

import sys

from qcal.cli import main

if __name__ == "__main__":
    sys.exit(main())
