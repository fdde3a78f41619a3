"""Stands in for `python -m qcal`: writes what a run writes, and does what `--fake.do` says.

It takes no part in the tests' imports: it is started as a program, with the standard library alone.
"""

import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    subcommand, *rest = sys.argv[1:]
    given = dict(part.removeprefix("--").partition("=")[::2] for part in rest)
    folder = Path(given["run.dir"])
    journal = Path(given["fake.journal"])
    do = given.get("fake.do", "")
    checkpoint = Path(given["ckpt_path"]) if "ckpt_path" in given else None
    first = int(checkpoint.read_text()) if checkpoint else 0

    def note(what: str) -> None:
        with journal.open("a") as file:
            file.write(f"{given['run.name']} {what} {os.getpid()} {time.time():.3f}\n")

    note(f"{subcommand}@{first}")
    if do == "ignore_sigint":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if do == "crash_at_once":
        sys.exit("qcal: error: `gamma` must be a number in [0, inf), got -1.")
    if do == "full_disk":
        with Path("/dev/full").open("w") as full:
            full.write("x" * 100_000)
    if subcommand == "test":
        write_record(Path(given["ptq.output_dir"]))
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    last = int(given.get("fake.epochs", "2"))
    with (folder / "metrics.csv").open("w", buffering=1) as metrics:
        metrics.write("epoch,step,val/accuracy\n")
        try:
            for epoch in range(first, last):
                time.sleep(float(given.get("fake.seconds", "0")))
                metrics.write(f"{epoch},{epoch},0.5\n")
                # Whole or not at all, as the real one.
                (folder / "new.ckpt").write_text(str(epoch + 1))
                (folder / "new.ckpt").replace(folder / "checkpoints" / "last.ckpt")
                if do == "crash_once" and first == 0:
                    raise RuntimeError("CUDA out of memory")
                if do == "crash_at_study" and epoch == last - 1:
                    (folder / "ptq").mkdir()
                    (folder / "ptq" / "logits.npz").write_text("half")
                    raise RuntimeError("it broke in the study")
        except KeyboardInterrupt:
            note("interrupted")
            sys.exit(1)
    if last > first and do != "no_record":
        write_record(folder / "ptq")
    note("end")


def write_record(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.json").write_text('{"schema_version": 1}')


if __name__ == "__main__":
    main()
