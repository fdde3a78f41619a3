"""What each way of rounding weights does to accuracy, on a residual and on a depthwise network.

The residual network is the paper's ResNet20 for CIFAR-100 with its authors' weights (`--weights`, `--data`: see the
arguments); 1,024 training images give the ranges and teach the methods, accuracy is over all 10,000 test images.

The depthwise network is a small MobileNetV2, trained here on the embedded digits, once for each of `--seeds`. One
scale for a whole weight tensor fails where channels of a layer differ in size by orders of magnitude, as folding batch
norm leaves them in ImageNet's MobileNetV2 after days of training (Nagel et al. 2019, figure 2). So short a training
leaves no such spread. So the trained network is rewritten into one that computes the same, bit for bit: in each block,
the outputs of a convolution are multiplied by factors from 10^-`--spread` to 1, powers of two that are evenly spread
over the channels in random order, and the weights of the next convolution are divided by them. That needs
f(s x) = s f(x), which ReLU has and ReLU6 has not: the network has ReLU in its place from the start, as in the paper.

    python benchmarks/weight_methods.py depthwise
    python benchmarks/weight_methods.py residual --data cifar100 --weights resnet20.pt --settings w4a8 w4a8-bc
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import MobileNetV2
from torchvision.models.mobilenetv2 import InvertedResidual

from qcal.data import Digits
from qcal.data.images import normalize
from qcal.data.roles import PoolName
from qcal.models import CifarResNet, load_weights
from qcal.quantization import AdaRoundOptions, prepare

RESIDUAL_SETTINGS: tuple[str, ...] = (
    "float",
    "w4a8",
    "w4a8-bc",
    "w4a8-ada",
    "w4a8-full",
    "w4a8-full-bc",
    "w4a8-wmse",
    "w4a8-wmse-bc",
    "w4a8-pt",
    "w4a8-pt-cle",
    "w4a8-pt-bc",
    "w4a8-pt-cle-bc",
)
DEPTHWISE_SETTINGS: tuple[str, ...] = (
    "float",
    "w8a8",
    "w8a8-cle",
    "w8afp-pt",
    "w8a8-pt",
    "w8a8-pt-bc",
    "w8a8-pt-cle",
    "w8a8-pt-cle-bc",
    "w6a8-pt-cle",
)


class Study:
    """A network at many settings, and how often each is right.

    Args:
        network: In eval mode.
        teaching: Images for ranges and methods.
        images: Test images.
        target: Their classes.
        options: How AdaRound learns.
    """

    def __init__(
        self,
        network: nn.Module,
        teaching: Tensor,
        images: Tensor,
        target: Tensor,
        options: AdaRoundOptions | None = None,
    ) -> None:
        self.images = images
        self._target = target
        self._plan = prepare(network, images[:2])
        self._plan.adaround_options = options or AdaRoundOptions()
        self._plan.observe(teaching, equalized=True, sample_size=len(teaching))

    def accuracy(self, setting: str) -> float:
        """Share of the test images that are classified right at a setting."""
        return (self._plan.run(setting, self.images).argmax(1) == self._target).double().mean().item()


def residual_study(weights: Path, data: Path, options: AdaRoundOptions) -> Study:
    """The paper's network; `data` holds cifar100_train_0.npz and cifar100_test.npz: x (N, 32, 32, 3) uint8, y (N,)."""
    network = CifarResNet(depth=20, num_classes=100)
    load_weights(network, weights)
    teaching, _ = _cifar(data / "cifar100_train_0.npz", 1024)
    images, target = _cifar(data / "cifar100_test.npz")
    return Study(network.eval(), teaching, images, target, options)


def _cifar(path: Path, count: int | None = None) -> tuple[Tensor, Tensor]:
    arrays = np.load(path)
    x = torch.from_numpy(arrays["x"][:count]).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.5071, 0.4867, 0.4408]), torch.tensor([0.2675, 0.2565, 0.2761])
    return (x - mean[:, None, None]) / std[:, None, None], torch.from_numpy(arrays["y"][:count])


def depthwise_study(seed: int, *, epochs: int = 20, spread: float = 2.0) -> Study:
    """A small MobileNetV2, trained on noisy digits, whose channels differ in size by orders of magnitude.

    Args:
        seed: Of the initial weights, the order of the images and the order of the channels.
        epochs: How long it trains.
        spread: How many orders of magnitude there are between the channels of a layer.
    """
    (train, train_target), (test, test_target) = _digits("train"), _digits("test")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = small_mobilenet()
        _train(network, train, train_target, epochs)
        spread_channels(network, spread)
    return Study(network.eval(), train, test, test_target)


def small_mobilenet() -> MobileNetV2:
    """Four inverted residual blocks, ReLU in the place of ReLU6."""
    blocks = [[1, 8, 1, 1], [4, 16, 2, 2], [4, 24, 2, 1]]
    network = MobileNetV2(num_classes=10, inverted_residual_setting=blocks, dropout=0.0)
    for parent in list(network.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.ReLU6):
                setattr(parent, name, nn.ReLU(inplace=True))
    return network


@torch.no_grad()
def spread_channels(network: MobileNetV2, spread: float) -> None:
    """Give the channels between a block's convolutions sizes from 10^-spread to 1; see the head of this file."""
    for block in network.modules():
        if not isinstance(block, InvertedResidual):
            continue
        norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
        convs = [module for module in block.modules() if isinstance(module, nn.Conv2d)]
        for norm, reader in zip(norms[:-1], convs[1:], strict=True):
            channels = len(norm.weight)
            exponents = -spread * math.log2(10) * torch.linspace(0, 1, channels)[torch.randperm(channels)]
            factors = 2.0 ** exponents.round()
            norm.weight.mul_(factors)
            norm.bias.mul_(factors)
            reader.weight.div_(factors.reshape(-1, 1, 1, 1) if reader.groups == channels else factors[:, None, None])


def _digits(name: PoolName) -> tuple[Tensor, Tensor]:
    """All images of a pool, normalised, enlarged to 16 x 16 and with three channels, and their classes."""
    data = Digits()
    pool = data.pool(name)
    x = normalize(pool.read(torch.arange(len(pool.y))), mean=data.mean, std=data.std)
    return F.interpolate(x, scale_factor=2).expand(-1, 3, -1, -1).contiguous(), pool.y


def _train(network: nn.Module, images: Tensor, target: Tensor, epochs: int, batch: int = 64) -> None:
    """SGD with Nesterov momentum and one cycle of the learning rate."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    steps = len(images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * steps)
    network.train()
    for _ in range(epochs):
        for drawn in torch.split(torch.randperm(len(images)), batch)[:steps]:
            loss = F.cross_entropy(network(images[drawn]), target[drawn])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=["residual", "depthwise"])
    parser.add_argument("--settings", nargs="+", help="short forms of settings; by default those of the docs")
    parser.add_argument("--weights", type=Path, help="state dict of the ResNet20, for residual")
    parser.add_argument("--data", type=Path, help="folder of cifar100_train_0.npz and cifar100_test.npz, for residual")
    parser.add_argument("--iterations", type=int, default=10_000, help="AdaRound's steps a layer")
    parser.add_argument(
        "--learning-rate", type=float, default=1e-3, help="AdaRound's; times ten for a tenth of the steps"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the depthwise networks")
    parser.add_argument("--spread", type=float, default=2.0, help="orders of magnitude between channels, for depthwise")
    parser.add_argument("--threads", type=int, default=2, help="torch's CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.network == "residual":
        if arguments.weights is None or arguments.data is None:
            parser.error("residual needs --weights and --data")
        options = AdaRoundOptions(arguments.iterations, learning_rate=arguments.learning_rate)
        studies = {"accuracy in %": residual_study(arguments.weights, arguments.data, options)}
        settings = RESIDUAL_SETTINGS
    else:
        studies = {f"seed {seed}": depthwise_study(seed, spread=arguments.spread) for seed in arguments.seeds}
        settings = DEPTHWISE_SETTINGS
    report(studies, arguments.settings or settings, arguments.threads)


def report(studies: dict[str, Study], settings: Sequence[str], threads: int) -> None:
    """Print a table: a line for each setting, a column for each study."""
    print(f"torch {torch.__version__}, {threads} threads, {len(next(iter(studies.values())).images)} test images")
    print(f"| setting | {' | '.join(studies)} | seconds |\n|---{'|---' * len(studies)}|---|")
    for name in settings:
        start = time.perf_counter()
        cells = [f"{100 * study.accuracy(name):.2f}" for study in studies.values()]
        print(f"| `{name}` | {' | '.join(cells)} | {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
