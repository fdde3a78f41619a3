"""What to say where no network was found: what was seen, the likely reason, and the argument to pass."""

from collections.abc import Sequence
from typing import Any

from qcal.callbacks.batches import as_labels, describe
from qcal.callbacks.changes import split
from qcal.callbacks.images_to_logits import SELF
from qcal.callbacks.observation import Call, Observation
from qcal.callbacks.ways import makers_of, outermost
from qcal.callbacks.wishes import OVERRIDE


def nothing_found(observation: Observation, batch: Any, failures: Sequence[str]) -> str:
    """The message (Any: a batch is whatever the loader gives).

    Args:
        observation: What was seen.
        batch: That it was seen on.
        failures: Why each way that was tried is none.
    """
    reason = _reason(observation)
    seen = [f"{reading.by} read {tuple(reading.logits.shape)}" for reading in observation.readings]
    seen += observation.remarks
    made = [f"{call.name or SELF} ({call.kind})" for call in outermost(observation)]
    tried = list(dict.fromkeys(failures))[:4]
    return (
        f"No network was found that turns a part of the batch into what the loss read. {reason}The batch is "
        f"{describe(batch)}; losses: {', '.join(dict.fromkeys(seen)) or 'none seen'}; submodules that read images: "
        f"{', '.join(dict.fromkeys(made)) or 'none'}; tried: {'; '.join(tried) or 'nothing'}. {OVERRIDE}"
    )


def _reason(observation: Observation) -> str:
    """The likely reason, if one shows: a network with more inputs than images, or none that made the logits."""
    made = [makers_of(observation, one.logits) for one in observation.readings]
    if made and not any(made) and observation.calls:
        return (
            "No submodule returned what the loss read: the step computed it. Let `forward` compute it, so that it is "
            "part of the network. "
        )
    for index in [index for each in made for index in each]:
        call = observation.calls[index]
        name, inputs = call.name or SELF, _inputs(observation, call)
        if len(inputs) > 1:
            return (
                f"{name} reads several parts of the batch ({', '.join(inputs)}), but only a network of one input can "
                "be quantized: name a part of it that takes images alone. "
            )
        if call.reads_labels:
            return (
                f"{name} is given labels and gives other scores without them, as a margin head does, but a network in "
                "use has no labels: call it without them in `validation_step`, or name what makes its scores. "
            )
        if not call.ancestors and not any(
            argument.leaf or argument.producer is not None for argument in call.arguments
        ):
            return (
                f"{name} was called with something that the step computed: let a submodule or `forward` compute it, or "
                "say with `batch_to_inputs=` what it is. "
            )
    return ""


def _inputs(observation: Observation, call: Call) -> list[str]:
    """Paths of the parts of the batch that a call read and that are no labels."""
    paths = dict.fromkeys(argument.leaf for argument in call.arguments if argument.leaf is not None)
    leaves = {path: observation.leaves.get(split(path)[0]) for path in paths}
    return [path for path, leaf in leaves.items() if leaf is not None and leaf.ndim > 0 and as_labels(leaf) is None]
