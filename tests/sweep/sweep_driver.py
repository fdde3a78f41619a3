"""A sweep of fake runs as a process of its own, to be stopped from outside.

python -m tests.sweep.sweep_driver FOLDER JOBS GRACE DO NAME...
"""

import sys
from pathlib import Path

from qcal.sweep.local_engine import run_locally
from qcal.sweep.resources import Resources
from tests.sweep.fakes import Journal, fake_run, launch, overview


def main() -> None:
    folder, jobs, grace, do, *names = sys.argv[1:]
    journal = Journal(Path(folder) / "journal")
    runs = [fake_run(name, journal, do=do, epochs=1000, seconds=0.05) for name in names]
    states, listener = overview(runs, Path(folder) / "sweep")
    resources = Resources((None,) * int(jobs), 1)
    came_to_end = run_locally(runs, states, resources=resources, launch=launch(Path(folder)), grace=float(grace))
    print("\n".join(listener.lines))
    sys.exit(0 if came_to_end else 130)


if __name__ == "__main__":
    main()
