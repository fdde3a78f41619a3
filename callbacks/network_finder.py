"""Find the network, its images and its labels in the first batch that a trainer evaluates, and keep what was found."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from qcal.callbacks.attachment import Attachment, build_network
from qcal.callbacks.batches import (
    BatchReader,
    custom_image_reader,
    custom_reader,
    image_reader,
    import_function,
    leaves,
    reader,
)
from qcal.callbacks.changes import split
from qcal.callbacks.chosen_weights import ChosenWeights
from qcal.callbacks.images_to_logits import SELF
from qcal.callbacks.observation import Observation
from qcal.callbacks.search import Search
from qcal.callbacks.watch import Watch
from qcal.callbacks.wishes import NotFoundError, Wishes

_IMAGES, _TARGET = "batch_to_inputs(batch)[0]", "batch_to_inputs(batch)[1]"


class NetworkFinder:
    """Watches one batch, then answers which network it was; see `PostTrainingQuantization` for the arguments.

    Args:
        network: Submodules in sequence, joined by `+`.
        logits: Submodule, or function (or its dotted path), that gives the logits.
        batch_to_inputs: Function (or its dotted path) from a batch to `(images, target)`.

    Attributes:
        attachment: What was found; None before.
        failure: Why nothing was found; None before, or when something was.
    """

    def __init__(
        self,
        network: str | None = None,
        logits: Callable[[Any], Any] | str | None = None,
        batch_to_inputs: Callable[[Any], Any] | str | None = None,
    ) -> None:
        self.network, self.logits = network, logits
        # Any: results of a user's function, checked when it is called.
        self.batch_to_inputs: Callable[[Any], Any] | None = (
            import_function(batch_to_inputs) if isinstance(batch_to_inputs, str) else batch_to_inputs
        )
        self.attachment: Attachment | None = None
        self.failure: NotFoundError | None = None
        self._watch: Watch | None = None
        self._is_news = False

    def reset(self) -> None:
        """Forget what was found: another module may come."""
        self.stop()
        self.attachment = self.failure = None

    @property
    def is_done(self) -> bool:
        """Whether a batch was watched, with whatever result."""
        return self.attachment is not None or self.failure is not None

    def start(self, pl_module: nn.Module, batch: Any, *, is_discarded: bool) -> None:
        """Watch the step that comes, unless one was watched before.

        Args:
            pl_module: The user's module.
            batch: What the step gets. Any: whatever the loader gives.
            is_discarded: Whether nothing of the step is kept; see `Watch`.
        """
        if self.is_done or self._watch is not None:
            return
        try:
            self._watch = Watch(pl_module, self._parts(batch), is_discarded=is_discarded)
            self._watch.start()
        except (
            Exception
        ) as error:  # of a user's `batch_to_inputs`, or of a module or batch never seen here: not the step's
            self.stop()
            of = "Reading the batch" if self.batch_to_inputs is None else "`batch_to_inputs`"
            self._fail(NotFoundError(f"{of} failed on the first batch with {type(error).__name__}: {error}"))

    def finish(
        self,
        pl_module: nn.Module,
        batch: Any,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> bool:
        """The step is over: take the hooks away and look at what was seen. Any: see `start`.

        Returns:
            Whether there is news: something was found, or it is now known that nothing is.
        """
        observation = self.stop()
        if observation is not None:
            self._search(pl_module, observation, batch, context)
        is_news, self._is_news = self._is_news, False
        return is_news

    def stop(self) -> Observation | None:
        """Take the hooks away; what was seen, or None if nothing was watched."""
        watch, self._watch = self._watch, None
        return watch.stop() if watch is not None else None

    def assume(self, pl_module: nn.Module, batch: Any) -> None:
        """Nothing could be watched: take the usual places and the whole module, and try them. Any: see `start`."""
        observation = Observation(self._parts(batch))
        self._search(pl_module, observation, batch, nullcontext, network=self.network or SELF)

    def adopt(self, attachment: Attachment | None) -> None:
        """Take what another process found in its batch, so that all measure the same network; None changes nothing."""
        if attachment is not None:
            self.attachment, self.failure = attachment, None

    def build(self, pl_module: nn.Module, weights: ChosenWeights | None = None) -> nn.Module:
        """A copy of the network, images to logits, with other weights if they are given."""
        return build_network(pl_module, self._found(), self._wishes(pl_module).function, weights)

    def reader(self) -> BatchReader:
        """From a batch to images and labels."""
        attachment = self._found()
        if self.batch_to_inputs is None:
            return reader(attachment.way.input, attachment.target)
        return custom_reader(self.batch_to_inputs, changes=split(attachment.way.input)[1])

    def image_reader(self) -> BatchReader:
        """From a batch to images alone, for what needs no labels: training batches may hold others, or none."""
        attachment = self._found()
        if self.batch_to_inputs is None:
            return image_reader(attachment.way.input)
        return custom_image_reader(self.batch_to_inputs, changes=split(attachment.way.input)[1])

    def _found(self) -> Attachment:
        if self.attachment is None:
            raise NotFoundError(
                str(self.failure or "No batch has been looked at. Call `assume` or watch a step first.")
            )
        return self.attachment

    def _search(
        self,
        pl_module: nn.Module,
        observation: Observation,
        batch: Any,
        context: Callable[[], AbstractContextManager[Any]],
        network: str | None = None,
    ) -> None:
        try:
            wishes = self._wishes(pl_module, network)
            self.attachment = Search(pl_module, observation, batch, wishes, context).run()
            self._is_news = True
        except NotFoundError as error:
            self._fail(error)
        except Exception as error:  # a stranger's module can fail in any way when it is copied or run again
            self._fail(NotFoundError(f"Looking for the network failed with {type(error).__name__}: {error}"))

    def _fail(self, failure: NotFoundError) -> None:
        # In words alone: a traceback holds the tensors of its frames.
        self.failure, self._is_news = NotFoundError(str(failure)), True

    def _parts(self, batch: Any) -> dict[str, Tensor]:
        if self.batch_to_inputs is None:
            return leaves(batch)
        failure: Exception | None = None
        with isolate_rng():
            try:
                images, target = custom_reader(self.batch_to_inputs)(batch)
            except Exception as error:  # raised below, where the random state has been given back
                failure = error
        if failure is not None:
            raise failure
        return {_IMAGES: images, _TARGET: target}

    def _wishes(self, pl_module: nn.Module, network: str | None = None) -> Wishes:
        network, reads_batch = network or self.network, self.batch_to_inputs is not None
        if self.logits is None:
            return Wishes(network, reads_batch=reads_batch)
        if isinstance(self.logits, str):
            if self.logits in dict(pl_module.named_modules()):
                return Wishes(network, made_by=self.logits, reads_batch=reads_batch)
            return Wishes(network, "", import_function(self.logits), self.logits, reads_batch)
        name = getattr(self.logits, "__name__", type(self.logits).__name__)
        return Wishes(network, "", self.logits, name, reads_batch)
