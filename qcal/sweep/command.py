"""`qcal sweep`: the command."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from qcal.sweep.expansion import choose, expand
from qcal.sweep.local_engine import run_locally
from qcal.sweep.overview import SweepDescription
from qcal.sweep.ray_engine import RayOptions, import_ray, run_on_ray
from qcal.sweep.resolution import Run, check_data, resolve
from qcal.sweep.resources import Resources, choose_devices, divide
from qcal.sweep.run_process import Launch, command_line
from qcal.sweep.runner import Engine, Plan, plan, run_sweep
from qcal.sweep.sweep_file import read_sweep
from qcal.usage import CommandParser, UsageError

_LOCAL_OPTIONS = ("jobs", "threads", "devices", "jobs_per_device")
_RAY_OPTIONS = ("address", "cpus_per_run", "gpus_per_run", "retries")
_EXAMPLES = """examples:
  qcal sweep configs/sweeps/quickstart.yaml --dry-run          # what would be run
  qcal sweep configs/sweeps/quickstart.yaml --jobs 2           # again: goes on where it was
  qcal sweep configs/sweeps/dilemma.yaml --only '*,seed=0'     # a part; the rest another time
  qcal sweep configs/sweeps/dilemma.yaml --jobs-per-device 4   # four runs share each GPU
  qcal sweep configs/sweeps/cifar100.yaml --engine ray --address auto --gpus-per-run 0.5
"""


def main(arguments: Sequence[str]) -> int:
    """Run a sweep.

    Args:
        arguments: What stands after `sweep`.

    Returns:
        0 if every run is finished, 1 if one failed, 130 if the user stopped it.

    Raises:
        UsageError: Something is wrong with the arguments, the sweep file or a run's config; nothing was started.
        SystemExit: From `--help` and from arguments that cannot be parsed.
    """
    options = make_parser().parse_args(arguments)
    try:
        return _run(options, arguments)
    except KeyboardInterrupt:
        # While runs go on the engine answers Ctrl-C: this is the time before.
        print("Stopped before any run was started.", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    _check_engine(options)
    if options.engine == "ray":
        import_ray()
    sweep = read_sweep(options.file, configs=options.config, overrides=options.set)
    whole = expand(sweep)
    planned = choose(whole, options.only)
    console = Console()
    part = f" of {len(whole)}" if options.only else ""
    console.print(f"Checking {len(planned)}{part} runs ...", highlight=False)
    runs = resolve(planned, group=sweep.name)
    from qcal.cli.run import RUNS  # here, because it brings Lightning along, which `--help` need not wait for

    # Absolute, because a cluster's nodes need not share the working folder.
    folder = Path(options.dir or Path(RUNS) / sweep.name).absolute()
    others = {run.name for run in whole} - {run.name for run in planned}
    todo = plan(runs, folder, rerun_changed=options.rerun_changed, others=others)
    engine, jobs = _make_engine(options, todo)
    if options.dry_run:
        _print_plan(todo, console)
        return 0
    check_data(todo.todo())
    description = SweepDescription(sweep.name, str(options.file), options.engine, jobs, ["qcal", "sweep", *arguments])
    return run_sweep(todo, engine, description, console)


def make_parser() -> argparse.ArgumentParser:
    """The arguments of `qcal sweep`."""
    parser = CommandParser(
        prog="qcal sweep",
        description="Run every combination of a sweep file, each in a process and a folder of its own. "
        "Run again, it goes on: what is finished is skipped, what broke resumes from its last checkpoint.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", help="the sweep file, or a packaged one such as sweeps/quickstart.yaml")
    parser.add_argument("--dir", help="folder of the sweep; runs/NAME, where NAME is the sweep's")
    parser.add_argument(
        "-c", "--config", action="append", default=[], metavar="CONFIG", help="config laid over the bases of every run"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override for every run")
    parser.add_argument(
        "--only", action="append", default=[], metavar="PATTERN", help="runs of such names alone: 'resnet20,*,seed=0'"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the runs, start none")
    parser.add_argument("--rerun-changed", action="store_true", help="start runs anew whose config has changed")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds to stop in after Ctrl-C; 30")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    local = parser.add_argument_group("on this machine")
    local.add_argument("--jobs", type=int, help="runs at a time; one per place on a device, or one per CPU")
    local.add_argument("--threads", type=int, help="CPU threads of each run; the CPUs divided by the jobs")
    local.add_argument("--devices", help="`auto`, `none`, or GPUs such as 0,2; auto")
    local.add_argument("--jobs-per-device", type=int, help="runs that share a GPU; 1")
    ray = parser.add_argument_group("on Ray")
    ray.add_argument("--address", help="the cluster: `auto` or HOST:PORT; without it Ray is started here")
    ray.add_argument("--cpus-per-run", type=int, help="CPUs, and threads, of each run; 1")
    ray.add_argument("--gpus-per-run", type=float, help="GPUs of each run, 0.25 for a quarter; 0")
    ray.add_argument("--retries", type=int, help="how often a run is started again that a lost node held; 3")
    return parser


def _make_engine(options: argparse.Namespace, todo: Plan) -> tuple[Engine, int | None]:
    launch = Launch(rerun_changed=options.rerun_changed)
    if options.engine == "ray":
        given = {
            "address": options.address,
            "cpus": options.cpus_per_run,
            "gpus": options.gpus_per_run,
            "retries": options.retries,
        }
        asked = RayOptions(**{name: value for name, value in given.items() if value is not None})
        return partial(run_on_ray, options=asked, launch=launch, grace=options.grace), None
    resources = _divide(options, len(todo.todo()))
    return partial(run_locally, resources=resources, launch=launch, grace=options.grace), len(resources.slots)


def _check_engine(options: argparse.Namespace) -> None:
    """An option of the other engine would change nothing: it is a mistake."""
    others = _LOCAL_OPTIONS if options.engine == "ray" else _RAY_OPTIONS
    for name in others:
        if getattr(options, name) is not None:
            fix = "Leave it out" if options.engine == "ray" else "Add `--engine ray`"
            raise UsageError(f"`--{name.replace('_', '-')}` is not for `--engine {options.engine}`. {fix}.")


def _divide(options: argparse.Namespace, num_runs: int) -> Resources:
    import torch  # here, after the parser has imported it: `--help` need not

    # What a scheduler or `taskset` left to this process, not what the machine has.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_gpus = torch.cuda.device_count()
    devices = choose_devices(options.devices or "auto", os.environ, num_gpus)
    jobs_per_device = 1 if options.jobs_per_device is None else options.jobs_per_device
    jobs = options.jobs
    if jobs is None:
        # No more than there are runs, so that the last ones are not short of threads.
        jobs = max(1, min(len(devices) * jobs_per_device or cpus, num_runs))
    return divide(
        jobs=jobs,
        threads=options.threads,
        # Without GPUs there is nothing to hide from the runs.
        devices=devices if num_gpus else None,
        jobs_per_device=jobs_per_device,
        cpus=cpus,
        limit=os.environ.get("OMP_NUM_THREADS", ""),
    )


def _print_plan(todo: Plan, console: Console) -> None:
    def tell(run: Run) -> str:
        command = command_line(run, todo.folder / run.name, "fit", ["qcal"])
        return f"{todo.actions[run.name]:8} {shlex.join(command)}"

    for run in todo.runs:
        console.print(tell(run), highlight=False, markup=False, soft_wrap=True)
