"""How long a grid of quantization settings takes, in float passes of the same network; beside torchao's PT2E and FX.

The whole job: prepare the network, estimate ranges on 1,024 training images, and classify the test images at every
setting. Its unit is one pass of the eager network, in float and in its own layout, over the same test images in batches
of the same size; the observation's unit is such a pass over the images it sees. Each of `--repeats` rounds runs the
float passes and then every library, so that a change of clock speed between rounds cancels in the ratios, whose median
is printed; one short round comes first, to load and warm up. Wall time counts; processor time, which other programs on
the machine disturb less, is printed beside it.

    uv run --group oracle python benchmarks/ptq_grid.py --threads 2
    python benchmarks/ptq_grid.py --network mobilenet_v2 --image-size 64 --images 500 --libraries qcal

What each library does is in `ptq_peers.py`. A library that is not installed is named and left out.
"""

import argparse
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ptq_peers import Clock, Work, available, float_job, silence, versions
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from qcal.models import CifarResNet, load_weights
from qcal.quantization import Setting

SETTINGS = ("w8a8", "w6a8", "w5a8", "w4a8", "w3a8")
RANGE_IMAGES = 1024
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
WARM_UP_IMAGES = 64


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    silence()
    jobs, missing = available()
    chosen = {name: job for name, job in jobs.items() if name in arguments.libraries}
    work = make_work(arguments)
    print(f"{versions()}; {processor()}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    print(*missing, sep="\n", end="\n" if missing else "")

    all_jobs = {"float": float_job, **chosen}
    rounds: list[dict[str, Clock]] = []
    warm_up = Work(
        work.network, work.range_images[:WARM_UP_IMAGES], work.images[:WARM_UP_IMAGES], work.settings, work.batch_size
    )
    for turn in range(arguments.repeats + 1):
        clocks = {name: Clock() for name in all_jobs}
        for name, job in all_jobs.items():
            job(warm_up if turn == 0 else work, clocks[name])
        if turn > 0:
            rounds.append(clocks)
        else:
            first = {name: clock.wall["prepare"] for name, clock in clocks.items() if "prepare" in clock.wall}
    report(rounds, work)
    print("In a new process the first preparation also loads: " + ", ".join(f"{n} {t:.1f} s" for n, t in first.items()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("resnet20", "resnet56", "mobilenet_v2"), default="resnet20")
    parser.add_argument("--images", type=int, default=2000, help="test images")
    parser.add_argument("--image-size", type=int, default=32, help="of the random images for mobilenet_v2")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="short forms, such as w4a8")
    parser.add_argument("--libraries", nargs="+", default=("qcal", "pt2e", "fx"), choices=("qcal", "pt2e", "fx"))
    parser.add_argument("--batch-size", type=int, default=256, help="of everything")
    parser.add_argument("--threads", type=int, default=2, help="torch's CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians are printed")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="CIFAR-100 and trained weights")
    return parser.parse_args()


def make_work(arguments: argparse.Namespace) -> Work:
    """The network and the images, real ones if they are there; says which."""
    depth = {"resnet20": 20, "resnet56": 56}.get(arguments.network)
    torch.manual_seed(0)
    network: nn.Module = mobilenet_v2(num_classes=100) if depth is None else CifarResNet(depth, num_classes=100)
    weights, train, test = (
        arguments.data / name
        for name in (f"xia2021_{arguments.network}_cifar100.pt", "cifar100_train_0.npz", "cifar100_test.npz")
    )
    if depth is not None and all(path.is_file() for path in (weights, train, test)):
        load_weights(network, weights)
        range_images, images = cifar(train, RANGE_IMAGES), cifar(test, arguments.images)
        source = "trained weights, CIFAR-100 images"
    else:
        size = arguments.image_size if depth is None else 32
        range_images, images = (torch.randn(count, 3, size, size) for count in (RANGE_IMAGES, arguments.images))
        source = "random weights, random images" + ("" if depth is None else f" (no data in {arguments.data})")
    settings = [Setting.parse(text) for text in arguments.settings]
    print(
        f"{arguments.network}, {source}: {len(images)} of {tuple(images.shape[1:])}, ranges from {len(range_images)}, "
        f"batches of {arguments.batch_size}; {' '.join(map(str, settings))}"
    )
    return Work(network.eval(), range_images, images, settings, arguments.batch_size)


def cifar(path: Path, count: int) -> Tensor:
    """The first `count` images of a file, (N, 3, 32, 32), normalised as the weights expect them."""
    with np.load(path) as arrays:
        x = torch.from_numpy(arrays["x"][:count]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((x - mean) / std).contiguous()


def report(rounds: Sequence[dict[str, Clock]], work: Work) -> None:
    """Print a line for each library: medians over rounds, in float passes."""
    seconds = statistics.median(clocks["float"].wall["images"] for clocks in rounds)
    print(f"one float pass: {seconds:.2f} s; below, float passes of wall time (of processor time)\n")
    print(f"{'':6} {'whole job':>15} {'prepare':>15} {'observe':>15} {'a setting':>15} {'against qcal':>15}")
    for name in rounds[0]:
        if name == "float":
            continue
        columns = [
            ratio(rounds, name, ("prepare", "observe", "evaluate"), "images"),
            ratio(rounds, name, ("prepare",), "images"),
            ratio(rounds, name, ("observe",), "range images"),
            ratio(rounds, name, ("evaluate",), "images", divisor=len(work.settings)),
        ]
        against = relative(rounds, name) if "qcal" in rounds[0] else ""
        print(f"{name:6} {' '.join(f'{column:>15}' for column in columns)} {against:>15}")
    print("\nObservation is in float passes of the images observed; peers observe once for each setting.")


def ratio(rounds: Sequence[dict[str, Clock]], name: str, parts: Sequence[str], unit: str, divisor: int = 1) -> str:
    """Median over rounds of parts of a job over a float pass of the same round."""
    values = [
        statistics.median(
            sum(getattr(clocks[name], kind)[part] for part in parts) / getattr(clocks["float"], kind)[unit] / divisor
            for clocks in rounds
        )
        for kind in ("wall", "cpu")
    ]
    return "{:.2f} ({:.2f})".format(*values)


def relative(rounds: Sequence[dict[str, Clock]], name: str) -> str:
    """Median over rounds of a whole job over that of qcal."""
    values = [
        statistics.median(
            sum(getattr(clocks[name], kind).values()) / sum(getattr(clocks["qcal"], kind).values()) for clocks in rounds
        )
        for kind in ("wall", "cpu")
    ]
    return "{:.2f} ({:.2f})".format(*values)


def processor() -> str:
    """The model of the processor, as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
