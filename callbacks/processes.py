"""The processes of a run on several devices: what they share out, agree on and gather. With one, nothing is sent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import nn

from qcal.callbacks.loaders import Share

Value = TypeVar("Value")

_WHOLE_MODEL = ("SingleDeviceStrategy", "DDPStrategy", "SingleDeviceXLAStrategy")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: Of this one.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def share(self) -> Share:
        """The batches this process reads."""
        return Share(self.rank, self.size)

    def together(self, function: Callable[[], Value]) -> Value:
        """Call a function in every process; if it fails in one it fails in all, so that none waits for ever.

        Raises:
            Exception: What it raised here.
            RuntimeError: It failed in another process; the message says where and how.
        """
        result: list[Value] = []
        failure: Exception | None = None
        try:
            result.append(function())
        except Exception as error:  # whatever it is: the others must be told
            failure = error
        told = self.gather_everywhere(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        failed = [f"rank {rank}: {message}" for rank, message in enumerate(told) if message is not None]
        if failed:
            raise RuntimeError(f"It failed in another process of the run. {'; '.join(failed)}")
        return result[0]

    def gather_everywhere(self, value: Value) -> list[Value]:
        """The value of every process, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def gather(self, value: Value) -> Sequence[Value]:
        """The value of every process in rank 0; nothing in the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        torch.distributed.gather_object(value, values, dst=0)
        return values or []

    def from_first(self, value: Value) -> Value:
        """Rank 0's value, in every process."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def share_weights(self, network: nn.Module) -> None:
        """Give every process rank 0's weights and buffers: running statistics differ where each saw its own images."""
        if self.size > 1:
            for tensor in network.state_dict().values():
                whole = tensor.contiguous()
                torch.distributed.broadcast(whole, src=0)
                tensor.copy_(whole)


def processes_of(trainer: Trainer, asking: str = "PostTrainingQuantization") -> Processes:
    """Of a trainer whose strategy keeps the whole network on each device.

    Args:
        trainer: At any time after its strategy is there.
        asking: Name of the callback, for the message.

    Raises:
        MisconfigurationException: It cuts the network into parts.
    """
    strategy = type(trainer.strategy)
    if not any(kind.__name__ in _WHOLE_MODEL for kind in strategy.__mro__):
        raise MisconfigurationException(
            f"{asking} needs the whole network on each device, got {strategy.__name__}, which may "
            "divide it. Train without the callback, then run it in `Trainer(devices=1).test(..., ckpt_path=...)`."
        )
    return Processes(trainer.global_rank, trainer.world_size)
