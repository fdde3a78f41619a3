"""The robustness study: one network, its float logits and its logits at every setting of a grid."""

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qcal.quantization import PlacementName, Plan, Setting, prepare

Batches = Iterable[tuple[Tensor, Tensor]]
Progress = Callable[[str, int, int], None]

METHOD_IMAGES = 1024
"""Images that weight methods look at, as many as Nagel et al. 2020 use."""


@dataclass(frozen=True)
class Study:
    """What a study gathered, before any figure is made of it; see `run_study`.

    Attributes:
        target: `(N,)` int64 labels, on the CPU, in the order of the batches.
        float_logits: `(N, C)` float32 of the network as it was given.
        quant_logits: Per setting, `(N, C)` float32, in the order of the grid.
        placement: Which tensors and layers were quantized and what stayed in float, as plain values (Any: JSON). It is
            part of what was measured; see `Plan.describe_placement`.
        range_images: Images the activation ranges were estimated from; 0 when no setting needed them.
        seconds: Wall time of each part: `prepare`, `observe`, `weights` (of weight methods), `evaluate`.
    """

    target: Tensor
    float_logits: Tensor
    quant_logits: dict[Setting, Tensor]
    placement: dict[str, Any]
    range_images: int
    seconds: dict[str, float] = field(default_factory=dict)


def run_study(
    network: nn.Module,
    settings: Sequence[Setting],
    *,
    data: Batches,
    range_estimation: Batches,
    placement: PlacementName = "graph",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Study:
    """Quantize a copy of a network at every setting and gather all logits in one pass over the data.

    The copy is in evaluation mode and float32; `network` itself is not touched. Each batch is read once and run in
    float and at every setting.

    Args:
        network: Maps images `(N, ...)` to logits `(N, C)`.
        settings: The grid; duplicates are run once.
        data: Batches `(images, target)` to compare on, in a fixed order.
        range_estimation: Batches `(images, target)` from the training set, without augmentation; read once.
            When no setting looks at images only the first batch is read, as the example the network is traced
            with.
        placement: Which tensors are quantized; see `qcal.quantization.prepare`.
        device: Where to run.
        progress: Called as `progress(stage, done, total)` with stage `observe`, `adaround` or `evaluate`; total is 0
            where the length is not known.

    Returns:
        The logits and where they come from, as a `Study`.

    Raises:
        ValueError: No setting, no data, images that are not finite, or a network that cannot be traced or quantized;
            the message says which.

    Example:
        >>> images, target = torch.randn(8, 1, 6, 6), torch.arange(8) % 2
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> batches = [(images, target)]
        >>> study = run_study(network, [Setting.parse("w8a8")], data=batches, range_estimation=batches)
        >>> study.float_logits.shape, [str(setting) for setting in study.quant_logits]
        (torch.Size([8, 2]), ['w8a8'])
    """
    if not settings:
        raise ValueError(
            "`settings` must name at least one point of the grid, got none. Pass for example ['w8a8', 'w4a8']."
        )
    # inference_mode(False): a test loop calls from inside inference mode, where graphs cannot be traced.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
        network = copy.deepcopy(network).to(device=device, dtype=torch.float32).eval()
        plan, range_images, seconds = _prepare(network, settings, range_estimation, placement, device, progress)
        begin = time.perf_counter()
        target, float_logits, quant_logits = _evaluate(network, plan, settings, data, device, progress)
        seconds["evaluate"] = time.perf_counter() - begin
    return Study(target, float_logits, quant_logits, plan.describe_placement(), range_images, seconds)


def _prepare(
    network: nn.Module,
    settings: Sequence[Setting],
    range_estimation: Batches,
    placement: PlacementName,
    device: torch.device | str,
    progress: Progress | None,
) -> tuple[Plan, int, dict[str, float]]:
    begin = time.perf_counter()
    batches = iter(range_estimation)
    first = next(batches, None)
    if first is None:
        raise ValueError(
            "`range_estimation` gave no batch. Pass a loader over training images; a few hundred images are enough."
        )
    plan = prepare(network, first[0][:2].to(device), placement=placement)
    seconds, seen = {"prepare": time.perf_counter() - begin}, 0

    def images() -> Iterable[Tensor]:
        nonlocal seen
        total, done = _length(range_estimation), 0
        batch: tuple[Tensor, Tensor] | None = first
        while batch is not None:
            yield batch[0].to(device)
            seen += len(batch[0])
            done += 1
            if progress:
                progress("observe", done, total)
            batch = next(batches, None)

    begin = time.perf_counter()
    if any(setting.needs_images for setting in settings):
        methods = any(setting.has_weight_method for setting in settings)
        plan.observe(images(), sample_size=METHOD_IMAGES if methods else 0)
    seconds["observe"] = time.perf_counter() - begin
    begin = time.perf_counter()
    plan.make_ready(settings, progress=progress)
    seconds["weights"] = time.perf_counter() - begin
    return plan, seen, seconds


def _evaluate(
    network: nn.Module,
    plan: Plan,
    settings: Sequence[Setting],
    data: Batches,
    device: torch.device | str,
    progress: Progress | None,
) -> tuple[Tensor, Tensor, dict[Setting, Tensor]]:
    targets: list[Tensor] = []
    float_parts: list[Tensor] = []
    quant_parts: dict[Setting, list[Tensor]] = {setting: [] for setting in settings}
    total = _length(data)
    for done, (images, target) in enumerate(data, start=1):
        images = images.to(device)
        targets.append(target.cpu())
        float_parts.append(network(images.clone()).cpu())  # a forward may write to its input
        for setting, logits in plan.run_batch(list(quant_parts), images).items():
            quant_parts[setting].append(logits.cpu())
        if progress:
            progress("evaluate", done, total)
    if not targets:
        raise ValueError("`data` gave no batch. Pass a loader with at least one image.")
    return (
        torch.cat(targets),
        torch.cat(float_parts),
        {setting: torch.cat(parts) for setting, parts in quant_parts.items()},
    )


def _length(batches: Batches) -> int:
    """Number of batches, 0 where it is not known before they are read."""
    try:
        return len(batches)  # type: ignore[arg-type]  # a loader may have a length or not
    except TypeError:
        return 0
