"""Which of several readings of logits counts: one with labels of the batch, of a trained network, that predicts."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from qcal.callbacks.images_to_logits import FLATTEN, SELF, Way, has_module
from qcal.callbacks.observation import Observation, Reading
from qcal.callbacks.watchable import is_same, is_same_memory
from qcal.callbacks.ways import makers_of, ways_to


def of_the_batch(readings: Sequence[Reading], labels: Callable[[Reading], str | None]) -> list[Reading]:
    """Without losses on made-up labels (a discriminator's, a contrastive loss's), if others read those of the batch."""
    if not any(labels(one) for one in readings if one.target is not None):
        return list(readings)
    return [one for one in readings if one.target is None or labels(one) is not None]


def that_predict(readings: Sequence[Reading], observation: Observation) -> list[Reading]:
    """Those whose logits a metric or `argmax` read too, if that is true of some: auxiliary heads only train."""
    for same in (is_same_memory, is_same):
        found = [one for one in readings if any(same(one.logits, other) for other in observation.predictions)]
        if found:
            return found
    return list(readings)


def of_trained_networks(readings: Sequence[Reading], observation: Observation, pl_module: nn.Module) -> list[Reading]:
    """Without those of a teacher: a frozen network of another architecture than one that is trained.

    One of the same architecture may be a moving average of the trained one, and which of the two counts is a choice.
    """
    ways = [(one, next(iter(ways_to(observation, one.logits)), None)) for one in readings]
    trained = [way for _, way in ways if way is not None and _is_trained(pl_module, way)]
    shapes = [_shapes(pl_module, way) for way in trained]
    return [
        one for one, way in ways if way is None or not trained or way in trained or _shapes(pl_module, way) in shapes
    ]


def depends_on_labels(reading: Reading, observation: Observation) -> bool:
    """Whether a call that returned these logits was given labels, as a margin head is."""
    return any(observation.calls[index].reads_labels for index in makers_of(observation, reading.logits))


def of_one_call(one: Reading, other: Reading, observation: Observation) -> bool:
    """Whether the innermost call that made the logits of one is that of the other, or around it, or in it."""
    made = [makers_of(observation, each.logits)[-1:] for each in (one, other)]
    around = [{*each, *(index for i in each for index in observation.calls[i].ancestors)} for each in made]
    return one is other or bool(around[0] & {*made[1]} or around[1] & {*made[0]})


def is_scripted(pl_module: nn.Module, way: Way) -> bool:
    """Whether there is TorchScript in the modules of a way."""
    parts = (part for module in _modules(pl_module, way) for part in module.modules())
    return any(isinstance(part, torch.jit.ScriptModule) for part in parts)


def _modules(pl_module: nn.Module, way: Way) -> list[nn.Module]:
    names = [step for step in way.steps if step != FLATTEN or has_module(pl_module, step)]
    return [pl_module if name == SELF else pl_module.get_submodule(name) for name in names]


def _is_trained(pl_module: nn.Module, way: Way) -> bool:
    return any(weight.requires_grad for module in _modules(pl_module, way) for weight in module.parameters())


def _shapes(pl_module: nn.Module, way: Way) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for module in _modules(pl_module, way) for weight in module.parameters()]
