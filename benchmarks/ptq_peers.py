"""The grid of `ptq_grid.py` in qcal and in its peers, each the way a user of that library would do it.

A job gets the network, the images for range estimation and those to classify, and the settings; it does everything and
says how long each part took. All use min-max ranges, a scale for each channel of the weights, and unsigned activations.

- `qcal`: one export, one observation pass, every batch at all settings.
- `pt2e` (torchao): one export; then for each setting observers, observation, conversion to fake quantization, and a
  pass. What it observes cannot be carried to another setting. ResNets need `strict=True`: else the calls of one ReLU
  module come out as one, and PT2E refuses the graph.
- `fx` (`torch.ao.quantization.quantize_fx`, deprecated, still in torch 2.15): likewise, converted to the reference
  form, which simulates. It does not clamp weights to fewer than 8 bits, so its figures are of time only.
"""

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from qcal.quantization import Setting, prepare

DYNAMIC_BATCH = ({0: torch.export.Dim.DYNAMIC},)


@dataclass
class Clock:
    """Seconds of wall and of processor time, summed by the name of the part."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of a with block to a part."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu


@dataclass(frozen=True)
class Work:
    """What every library is given."""

    network: nn.Module
    range_images: Tensor
    images: Tensor
    settings: Sequence[Setting]
    batch_size: int

    def batches(self, images: Tensor) -> Iterable[Tensor]:
        """Images cut into batches."""
        return torch.split(images, self.batch_size)


Job = Callable[[Work, Clock], None]


def qcal_job(work: Work, clock: Clock) -> None:
    """Prepare once, observe once, run each batch at every setting."""
    with clock.part("prepare"):
        plan = prepare(work.network, work.images[:2])
    with clock.part("observe"):
        plan.observe(work.batches(work.range_images))
    with clock.part("evaluate"):
        for x in work.batches(work.images):
            plan.run_batch(work.settings, x)


@torch.no_grad()
def pt2e_job(work: Work, clock: Clock) -> None:
    """Export once; for each setting prepare, observe, convert, run."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    with clock.part("prepare"):
        exported = torch.export.export(work.network, (work.images[:2],), dynamic_shapes=DYNAMIC_BATCH, strict=True)
        graph = exported.module()
    for setting in work.settings:
        with clock.part("prepare"):
            prepared = prepare_pt2e(copy.deepcopy(graph), _pt2e_quantizer(setting))
        if not any("activation_post_process" in name for name, _ in prepared.named_modules()):
            raise RuntimeError("PT2E inserted no quantizer; this would time floats. Take torch 2.12 or later.")
        with clock.part("observe"):
            _run(prepared, work.batches(work.range_images))
        with clock.part("prepare"):
            converted = convert_pt2e(prepared)
        with clock.part("evaluate"):
            _run(converted, work.batches(work.images))


@torch.no_grad()
def fx_job(work: Work, clock: Clock) -> None:
    """For each setting trace and prepare, observe, convert, run."""
    from torch.ao.quantization import QConfigMapping
    from torch.ao.quantization.quantize_fx import convert_to_reference_fx, prepare_fx

    for setting in work.settings:
        with clock.part("prepare"):
            mapping = QConfigMapping().set_global(_fx_qconfig(setting))
            prepared = prepare_fx(copy.deepcopy(work.network), mapping, (work.images[:2],))
        with clock.part("observe"):
            _run(prepared, work.batches(work.range_images))
        with clock.part("prepare"):
            converted = convert_to_reference_fx(prepared)
        with clock.part("evaluate"):
            _run(converted, work.batches(work.images))


def float_job(work: Work, clock: Clock) -> None:
    """The unit of all figures: the eager network, as it is, on the images, and on those for range estimation."""
    with torch.inference_mode():
        with clock.part("images"):
            _run(work.network, work.batches(work.images))
        with clock.part("range images"):
            _run(work.network, work.batches(work.range_images))


def available() -> tuple[dict[str, Job], list[str]]:
    """The jobs that can run here, and a line for each that cannot."""
    jobs, missing = {"qcal": qcal_job}, []
    if find_spec("torchao") is None:
        missing.append("pt2e: left out, torchao is not installed (`uv run --group oracle`)")
    else:
        jobs["pt2e"] = pt2e_job
    if find_spec("torch.ao.quantization.quantize_fx") is None:
        missing.append("fx: left out, this torch has no torch.ao.quantization.quantize_fx any more")
    else:
        jobs["fx"] = fx_job
    return jobs, missing


def versions() -> str:
    """The releases that are compared."""
    found = []
    for package in ("torch", "torchvision", "torchao"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def silence() -> None:
    """Drop the peers' warnings that they are deprecated: they are what is measured."""
    warnings.filterwarnings("ignore", module="torch.*")
    warnings.filterwarnings("ignore", message=".*torch.ao.quantization is deprecated")
    warnings.filterwarnings("ignore", message=".*quantized tensor creation functions")


def _run(network: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> None:
    for x in batches:
        network(x)


def _pt2e_quantizer(setting: Setting) -> object:
    from torchao.quantization.pt2e import observer
    from torchao.quantization.pt2e.quantizer import QuantizationSpec
    from torchao.quantization.pt2e.quantizer.utils import QuantizationConfig
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

    weight_levels, activation_levels = _levels(setting)
    activation = QuantizationSpec(
        dtype=torch.uint8,
        observer_or_fake_quant_ctr=observer.MinMaxObserver,
        quant_min=0,
        quant_max=activation_levels - 1,
        qscheme=torch.per_tensor_affine,
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        observer_or_fake_quant_ctr=observer.PerChannelMinMaxObserver,
        quant_min=-weight_levels // 2,
        quant_max=weight_levels // 2 - 1,
        qscheme=torch.per_channel_symmetric,
        ch_axis=0,
    )
    return X86InductorQuantizer().set_global(QuantizationConfig(activation, activation, weight, None))


def _fx_qconfig(setting: Setting) -> object:
    from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver, QConfig

    weight_levels, activation_levels = _levels(setting)
    activation = MinMaxObserver.with_args(
        dtype=torch.quint8, qscheme=torch.per_tensor_affine, quant_min=0, quant_max=activation_levels - 1
    )
    weight = PerChannelMinMaxObserver.with_args(
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
        quant_min=-weight_levels // 2,
        quant_max=weight_levels // 2 - 1,
    )
    return QConfig(activation=activation, weight=weight)


def _levels(setting: Setting) -> tuple[int, int]:
    """Levels of weights and of activations."""
    weight, activation = setting.weight_bits, setting.activation_bits
    if weight is None or activation is None or setting != Setting(weight, activation):
        raise SystemExit(f"The peers take plain settings such as w4a8, got {setting}. Add `--libraries qcal`.")
    return 1 << weight, 1 << activation
