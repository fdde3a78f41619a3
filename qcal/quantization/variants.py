"""The network of a plan in its two variants: as it was prepared, and equalized.

Equalization changes what passes each quantizer, so the equalized network has ranges of its own. They are gathered while
the same images pass, each batch through one network after the other, so that images are read once for every setting.
"""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

from torch import Tensor, nn

from qcal.quantization.equalization import EqualizedPair, equalize
from qcal.quantization.images import ImageReader
from qcal.quantization.network import PreparedNetwork, graph_of
from qcal.quantization.observers import RangeObserver
from qcal.quantization.observers_in_parts import PartObserver, go_to
from qcal.quantization.placement import Placement
from qcal.quantization.setting import Setting

log = logging.getLogger(__name__)


class Variants:
    """Both networks of a plan; the equalized one is made when it is first asked for.

    Args:
        network: The prepared network, float tensors bound.
        placement: What was placed in it.
        reader: Brings images to it.

    Attributes:
        plain: The network as it was prepared.
        pairs: The layers that equalization scaled; empty before the equalized network is made.
    """

    def __init__(self, network: nn.Module, placement: Placement, reader: ImageReader) -> None:
        self.plain = PreparedNetwork(network, placement, reader)
        self.pairs: tuple[EqualizedPair, ...] = ()
        self._equalized: PreparedNetwork | None = None
        self._reader = reader

    @property
    def equalized(self) -> PreparedNetwork:
        """The network with the ranges of neighbouring layers' weights shared out between them.

        Raises:
            TypeError: the network has no graph; settings that need one are to be refused before.
        """
        if self._equalized is None:
            self._equalized = self._equalize()
        return self._equalized

    @property
    def equalized_statistics(self) -> Mapping[str, RangeObserver]:
        """What passed each quantizer of the equalized network, by its name; empty if nothing was seen there."""
        return {} if self._equalized is None else self._equalized.simulator.observers

    def of(self, setting: Setting) -> PreparedNetwork:
        """The network that a setting starts from."""
        return self.equalized if setting.equalization else self.plain

    def observe(
        self, batches: Iterable[Tensor], *, equalized: bool, only: Callable[[int], bool] | None = None
    ) -> tuple[dict[str, RangeObserver], dict[str, RangeObserver]]:
        """What passes each quantizer while both float networks read these batches in one pass.

        Args:
            batches: Images (N, ...) as the reader returns them.
            equalized: Whether the equalized network reads them, too.
            only: Whether the batch at a position, from 0, is run at all; None runs every one.

        Returns:
            Statistics of the plain and of the equalized network, by the names of the quantizers; the latter are empty
            unless `equalized`. With `only` they are `PartObserver`s.

        Raises:
            ValueError: NaN or infinity in an activation; the message names where.
        """
        networks = (self.plain, self.equalized) if equalized else (self.plain,)
        with ExitStack() as stack:
            kind = RangeObserver if only is None else PartObserver
            seen = [stack.enter_context(network.observed(kind)) for network in networks]
            for position, x in enumerate(batches):
                if only is None or only(position):
                    for network, observers in zip(networks, seen, strict=True):
                        go_to(position, observers)
                        network.simulator.network(x)
        return seen[0], seen[1] if equalized else {}

    def forget(self) -> None:
        """Drop what weight methods made in either: the sample they looked at has changed."""
        self.plain.forget()
        if self._equalized is not None:
            self._equalized.forget()

    def to(self, reader: ImageReader) -> "Variants":
        """The same on the device of `reader`, with statistics and what weight methods made."""
        moved = copy.copy(self)
        moved._reader, moved.plain = reader, self.plain.to(reader)
        moved._equalized = None if self._equalized is None else self._equalized.to(reader)
        return moved

    def _equalize(self) -> PreparedNetwork:
        placement = self.plain.placement
        graph, self.pairs = equalize(graph_of(self.plain.simulator.network), placement)
        if not self.pairs:
            log.warning(
                "Equalization found no two layers of which the second alone reads the first: it changes nothing."
            )
        return PreparedNetwork(graph, placement.in_copy(graph), self._reader)
