"""Ways from a part of the batch to the logits that a loss read, in the order in which they are worth trying."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from qcal.callbacks.batches import as_labels, most_probable
from qcal.callbacks.changes import split
from qcal.callbacks.images_to_logits import FLATTEN, SELF, Way
from qcal.callbacks.observation import Argument, Call, Observation
from qcal.callbacks.watchable import is_same, is_same_memory

_LONGEST = 4


def ways_to(observation: Observation, logits: Tensor) -> list[Way]:
    """Ways to a tensor that was seen, each once.

    First the calls that read a part of the batch and returned it, the innermost before those around it: what those do
    to images or logits besides shows in the numbers. Then calls in sequence, and calls in which it was made without
    being returned.
    """
    calls = observation.calls
    makers = makers_of(observation, logits)
    ways = [way for index in reversed(makers) for way in fed_by_batch(observation, calls[index])]
    ways += [way for index in makers for way in _sequences(observation, calls[index], ())]
    ways += [way for index in makers[:1] for way in made_inside(observation, index)]
    return list(dict.fromkeys(ways))


def makers_of(observation: Observation, logits: Tensor) -> list[int]:
    """Indices of the calls that returned a tensor, outermost first: the very one, else one with the same numbers.

    The numbers alone do not tell a network from its moving average, which begins as its copy.
    """
    calls = observation.calls
    made = [index for index, call in enumerate(calls) if any(is_same_memory(logits, output) for output in call.outputs)]
    made = made or [
        index for index, call in enumerate(calls) if any(is_same(logits, output) for output in call.outputs)
    ]
    return sorted(made, key=lambda index: (len(calls[index].ancestors), index))


def unseen(observation: Observation, logits: Tensor) -> list[str]:
    """Submodules around those that returned a tensor, or ran at all, that no hook saw: called as `self.net.forward(x)`.

    Returns:
        Their dotted names, the innermost first.
    """
    calls = observation.calls
    inside = [calls[index].name for index in makers_of(observation, logits)] or [call.name for call in calls]
    around = {".".join(name.split(".")[:depth]) for name in inside for depth in range(1, name.count(".") + 1)}
    return sorted(around - {call.name for call in calls}, key=lambda name: (-name.count("."), name))


def whole_module(observation: Observation) -> list[Way]:
    """The LightningModule itself with each part of the batch that can be images.

    It may have been called as `self.forward(x)`, which no hook sees.
    """
    images = [path for path, leaf in observation.leaves.items() if leaf.ndim >= 2 and as_labels(leaf) is None]
    return [Way((SELF,), path) for path in images]


def fed_by_batch(observation: Observation, call: Call) -> Iterator[Way]:
    """The call itself, if its images are a part of the batch."""
    for argument in call.arguments:
        if argument.leaf is not None and _is_images(observation, argument):
            keyword = argument.place if isinstance(argument.place, str) else ""
            if argument.place == 0 and argument.flat:
                yield Way((FLATTEN, call.name or SELF), argument.leaf)
            elif argument.place == 0 or keyword:
                yield Way((call.name or SELF,), argument.leaf, keyword, argument.inside, call.options)


def made_inside(observation: Observation, index: int) -> Iterator[Way]:
    """The calls around one, outermost first, with the output of the one taken."""
    call = observation.calls[index]
    for outer in call.ancestors:
        for way in fed_by_batch(observation, observation.calls[outer]):
            yield replace(way, made_by=call.name)


def outermost(observation: Observation) -> list[Call]:
    """Calls with a part of the batch as images that are in no other such call and returned what can be logits."""
    fed = [i for i, call in enumerate(observation.calls) if any(fed_by_batch(observation, call))]
    return [
        observation.calls[i]
        for i in fed
        if observation.calls[i].outputs and not set(observation.calls[i].ancestors) & set(fed)
    ]


def is_read_on(observation: Observation, call: Call) -> bool:
    """Whether what a call returned went into a later one, so that it is features, not logits."""
    index = next(i for i, other in enumerate(observation.calls) if other is call)
    later = observation.calls[index + 1 :]
    return any(argument.producer == index for other in later for argument in other.arguments)


def unread(observation: Observation) -> list[Tensor]:
    """What calls of the step itself returned that can be logits and that went into no later one."""
    calls = [call for call in observation.calls if not call.ancestors and not call.reads_labels]
    return [output for call in calls if not is_read_on(observation, call) for output in call.outputs]


def path_of_labels(observation: Observation, target: Tensor | None, usual: str | None) -> str | None:
    """Where in the batch the labels are that a loss read; the usual place where it is not known what it read.

    Args:
        observation: With the parts of the batch.
        target: What the loss read: class indices, or rows made of them, one-hot or smoothed.
        usual: Where labels usually are in such a batch.
    """
    if target is None:
        return usual
    labels = as_labels(target)
    if labels is None and (target.ndim != 2 or target.shape[1] == 1):
        return None
    labels = target.argmax(dim=1) if labels is None else labels
    leaves = {path: most_probable(leaf) for path, leaf in observation.leaves.items() if leaf.ndim <= 2}
    same = [path for path, leaf in leaves.items() if leaf is not None and is_same(labels, leaf)]
    memory = [path for path in same if observation.leaves[path].data_ptr() == target.data_ptr()]
    if len(memory or same) == 1:
        return (memory or same)[0]
    return usual if usual in same else None


def _sequences(observation: Observation, call: Call, later: tuple[str, ...]) -> Iterator[Way]:
    """Calls of which each got what the one before it returned, back to a part of the batch."""
    if len(later) >= _LONGEST:
        return
    if later:
        for first in fed_by_batch(observation, call):
            yield replace(first, steps=(*first.steps, *later))
    for argument in call.arguments:
        if argument.place == 0 and argument.producer is not None:
            steps = ((FLATTEN,) if argument.flat else ()) + (call.name or SELF, *later)
            yield from _sequences(observation, observation.calls[argument.producer], steps)


def _is_images(observation: Observation, argument: Argument) -> bool:
    leaf = observation.leaves[split(argument.leaf or "")[0]]
    return leaf.ndim >= 2 and (leaf.is_floating_point() or leaf.ndim > 2)
