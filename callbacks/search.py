"""Find the network in what a watch saw: try the ways to the logits until one gives what the loss read."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from qcal.callbacks.attachment import Attachment, Output, classify, take_logits
from qcal.callbacks.batches import FLOAT, describe, read, unreadable, usual_paths, walk
from qcal.callbacks.choices import depends_on_labels, of_the_batch, of_trained_networks, that_predict
from qcal.callbacks.copies import copy_parts
from qcal.callbacks.images_to_logits import SELF, ImagesToLogits, Way
from qcal.callbacks.observation import Observation, Reading
from qcal.callbacks.watchable import agrees, can_be_logits, is_same
from qcal.callbacks.ways import fed_by_batch, made_inside, outermost, path_of_labels, ways_to, whole_module
from qcal.callbacks.wishes import OVERRIDE, NotFoundError, Wishes


class Search:
    """Looks for the network of one watched step.

    Args:
        pl_module: The user's module, as it was in the step; unchanged.
        observation: What was seen.
        batch: As the step got it.
        wishes: What the user said.
        context: Precision that the step ran in.
    """

    def __init__(
        self,
        pl_module: nn.Module,
        observation: Observation,
        batch: Any,  # whatever the loader gives
        wishes: Wishes,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.pl_module, self.observation, self.batch, self.wishes = pl_module, observation, batch, wishes
        self._context = context
        self._failures: list[str] = []
        self._refusal: NotFoundError | None = None

    def run(self) -> Attachment:
        """The first way that gives what a loss read; without a loss, the only one there is.

        Raises:
            NotFoundError: None does, or what is found are probabilities, or the labels are not in the batch.
        """
        if self.wishes.network is not None:
            return self._wished(self.wishes.network)
        readings = self.observation.readings
        sure = [reading for reading in readings if reading.sure]
        unsure = [reading for reading in readings if not reading.sure]
        found = self._first_reproduced(sure)
        if found is None and all(depends_on_labels(one, self.observation) for one in sure):
            found = self._first_reproduced(unsure)
        if found is None and not sure and not self._refusal:
            found = self._only_one()
        if found is not None:
            return found
        if self._refusal is not None:
            raise self._refusal
        self._check_outputs(sure)
        raise NotFoundError(self._nothing())

    def _first_reproduced(self, readings: list[Reading]) -> Attachment | None:
        """What the first of the readings that count leads to; None if none of them leads anywhere."""
        readings = of_the_batch(self._of_the_wished(readings), self._labels)
        self._check_one_task(readings)
        readings = that_predict(readings, self.observation)
        readings = of_trained_networks(readings, self.observation, self.pl_module)
        for reading in readings:
            found = self._reproduced(reading)
            if found is not None:
                self._check_one_network(found.way, readings)
                return found
        return None

    def _check_outputs(self, readings: list[Reading]) -> None:
        """Nothing was found, and the reason may be that probabilities went through the hands of the step."""
        for reading in readings:
            self._check_output(reading.logits, reading.by, f"What {reading.by} read")
        for call in outermost(self.observation):
            for output in call.outputs:
                if output.ndim == 2 and output.shape[1] > 1:
                    self._check_output(output, "", call.name or SELF)

    def _of_the_wished(self, readings: list[Reading]) -> list[Reading]:
        """Those that read what the named submodule made, if there are any."""
        made = self._seen_from(self.wishes.makes_logits)
        return [one for one in readings if any(is_same(one.logits, output) for output in made)] or readings

    def _seen_from(self, name: str) -> list[Tensor]:
        """What a submodule returned in the step."""
        calls = [call for call in self.observation.calls if (call.name or SELF) == name]
        return [output for call in calls for output in call.outputs]

    def _check_one_task(self, readings: list[Reading]) -> None:
        targets = {path for reading in readings if (path := self._labels(reading)) is not None}
        if len(targets) > 1:
            raise NotFoundError(
                f"Losses read several labels ({', '.join(sorted(targets))}), so that there are several predictions to "
                "choose from. Pass `logits=`, the submodule that makes the logits to study, or `network=` and "
                "`batch_to_inputs=`."
            )

    def _check_one_network(self, way: Way, readings: list[Reading]) -> None:
        """Losses on several outputs of one network are the business of its training; several networks are a choice."""
        each = [ways_to(self.observation, reading.logits) for reading in readings]
        rivals = [ways[0] for ways in each if ways and way.steps not in [other.steps for other in ways]]
        modules = dict.fromkeys(str(one) for one in (way, *rivals))
        if len(modules) > 1 and not self.wishes.made_by and self.wishes.function is None:
            raise NotFoundError(
                f"Losses read the logits of several networks ({', '.join(modules)}). Pass `network=`, the one to study."
            )

    def _wished(self, network: str) -> Attachment:
        """The network the user named, with input and labels as they were seen or as they usually are."""
        steps = tuple(network.split("+"))
        calls = [call for call in self.observation.calls if (call.name or SELF) == steps[0]]
        fed = [way for call in calls for way in fed_by_batch(self.observation, call)]
        if calls and not fed and not self.wishes.reads_batch:
            raise NotFoundError(unreadable(self.batch, f"{steps[0]} was called with something that is no part of it"))
        images, _ = self._usual() or (None, None)
        target, path = self._wished_labels(), fed[-1].input if fed else images
        if path is None or target is None:
            raise NotFoundError(unreadable(self.batch, "nothing in it has a usual name or place"))
        way = replace(fed[-1] if fed else Way((), path), steps=steps, made_by=self.wishes.made_by)
        by = next((one.by for one in self._of_the_wished(self.observation.readings)), "")
        found = self._taken(way, by, target, f"`network={network!r}` was passed")
        self._check_as_seen(way)
        return found

    def _wished_labels(self) -> str | None:
        readings = [one for one in self._of_the_wished(self.observation.readings) if one.target is not None]
        self._check_one_task(readings)
        targets = [path for one in readings if (path := self._labels(one)) is not None]
        if readings and not targets and not self.wishes.reads_batch:
            raise NotFoundError(unreadable(self.batch, f"{readings[0].by} read labels that are no part of it"))
        _, usual = self._usual() or (None, None)
        return targets[0] if targets else usual

    def _check_as_seen(self, way: Way) -> None:
        """A named network must give again what it gave in the step, unless the user says what it is given."""
        seen = self._seen_from(self.wishes.makes_logits)
        if not seen or self.wishes.reads_batch:
            return
        again = [part for _, part in walk(self._output(way, self._images(way), plain=True)) if isinstance(part, Tensor)]
        if not any(agrees(part, output) for part in again for output in seen):
            raise NotFoundError(
                unreadable(self.batch, f"{way} gave something else in the step than it gives for {way.input}")
            )

    def _reproduced(self, reading: Reading, *, found_by: str = "") -> Attachment | None:
        """A way that computes what was read, from the batch, with its labels; None if there is none."""
        target = self._labels(reading)
        by = found_by or f"found by watching {reading.by} in the first batch"
        for way in self._ways(reading.logits):
            if self.wishes.function is not None or self.wishes.made_by:
                key: str | None = None
            else:
                key = self._key(way, reading.logits)
                if key is None:
                    continue
            if target is None:
                self._failures.append(f"{reading.by} read labels that are no part of the batch")
                return None
            try:
                if key is None:
                    return self._taken(way, reading.by, target, by)
                return self._attachment(way, key, reading.logits, reading.by, target, by)
            except NotFoundError as error:
                self._refusal = self._refusal or error
                return None
        return None

    def _ways(self, logits: Tensor) -> Iterator[Way]:
        if not self.wishes.made_by:
            yield from ways_to(self.observation, logits)
            yield from whole_module(self.observation)
            return
        made = [i for i, call in enumerate(self.observation.calls) if call.name == self.wishes.made_by]
        for index in made[-1:]:
            yield from made_inside(self.observation, index)
            for output in self.observation.calls[index].outputs:
                yield from ways_to(self.observation, output)
        yield from (replace(way, made_by=self.wishes.made_by) for way in whole_module(self.observation))

    def _only_one(self) -> Attachment | None:
        """Without a loss: the call that gets images and returns something like logits, if there is one."""
        usual, calls = self._usual(), outermost(self.observation)
        if usual is None or len({call.name for call in calls}) > 1:
            return None
        if self.observation.is_blind:
            by = "nothing can be watched in a compiled module, so that the usual was tried"
            return self._taken(Way((SELF,), usual[0], made_by=self.wishes.made_by), "", usual[1], by)
        by = "no loss was recognised, but this is the only network that read the images"
        for call in calls[-1:]:
            if len(call.outputs) == 1:
                return self._reproduced(Reading("", call.outputs[0], None, sure=False), found_by=by)
            for way in fed_by_batch(self.observation, call):
                return self._taken(replace(way, made_by=self.wishes.made_by), "", usual[1], by)
        return None

    def _taken(self, way: Way, read_by: str, target: str, found_by: str) -> Attachment:
        """The way, with the logits taken from where they usually are in its output."""
        images = self._images(way)
        output = self._output(way, images)
        if isinstance(output, Exception):
            raise NotFoundError(f"{way} failed: {_first_line(output)}. {OVERRIDE}") from output
        try:
            key = take_logits(output, len(images))
        except ValueError as error:
            raise NotFoundError(f"{way}: {error}") from error
        return self._attachment(way, key, read(output, key), read_by, target, found_by)

    def _output(self, way: Way, images: Tensor, *, plain: bool = False) -> Any:
        """What a way returns; the exception where a stranger's module raises one: it is not called like this.

        `plain` leaves the user's function out.
        """
        function = None if plain else self.wishes.function
        with self._quietly():
            try:
                return ImagesToLogits(self._copy(way, images), way, function=function).output(images)
            except Exception as error:
                return error

    def _key(self, way: Way, logits: Tensor) -> str | None:
        """Where in the output of a way the logits are that were read; None if they are not there."""
        output = self._output(way, self._images(way))
        if isinstance(output, Exception):
            self._failures.append(f"{way} failed: {_first_line(output)}")
            return None
        for path, part in walk(output):
            if isinstance(part, Tensor) and can_be_logits(part) and agrees(part, logits):
                return path
        self._failures.append(f"{way} returned something else when it was run again")
        return None

    def _attachment(self, way: Way, key: str, logits: Tensor, read_by: str, target: str, found_by: str) -> Attachment:
        read_by = "" if self.wishes.function is not None else read_by
        output = self._check_output(logits, read_by, str(way))
        return Attachment(
            way=way,
            target=target,
            logits_key=key,
            function=self.wishes.function_name,
            output=output,
            num_classes=2 if output == "binary_logits" else logits.shape[1],
            found_by=found_by,
        )

    @staticmethod
    def _check_output(logits: Tensor, read_by: str, name: str) -> Output:
        try:
            return classify(logits, read_by)
        except ValueError as error:
            raise NotFoundError(f"{name}: {error}") from error

    def _copy(self, way: Way, images: Tensor) -> nn.Module:
        root = copy_parts(self.pl_module, way).eval()
        # Changes nothing where the step has just run; after training the module is elsewhere, or in half precision.
        return root.to(images.device, images.dtype) if images.is_floating_point() else root.to(images.device)

    def _images(self, way: Way) -> Tensor:
        """As they were before the step; a copy, because the network may write to it."""
        path = way.input.removesuffix(FLOAT)
        images = self.observation.originals.get(path, self.observation.leaves[path]).clone()
        return images.float() if way.input.endswith(FLOAT) else images

    def _usual(self) -> tuple[str, str] | None:
        if self.wishes.reads_batch:
            images, target = self.observation.leaves
            return images, target
        return usual_paths(self.batch)

    def _labels(self, reading: Reading) -> str | None:
        usual = self._usual()
        return path_of_labels(self.observation, reading.target, usual[1] if usual else None)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """As the step ran, but without a trace in gradients and random numbers. Nothing may be raised inside."""
        with isolate_rng(), torch.no_grad(), self._context():
            yield

    def _nothing(self) -> str:
        """What was seen, and the arguments to pass."""
        seen = [f"{reading.by} read {tuple(reading.logits.shape)}" for reading in self.observation.readings]
        seen += self.observation.remarks
        made = [f"{c.name or SELF} ({c.kind})" for c in outermost(self.observation)]
        return (
            f"No network was found that turns a part of the batch into what the loss read. The batch is "
            f"{describe(self.batch)}; losses: {', '.join(dict.fromkeys(seen)) or 'none seen'}; submodules that read "
            f"images: {', '.join(dict.fromkeys(made)) or 'none'}; tried: {'; '.join(self._failures[:4]) or 'nothing'}. "
            f"{OVERRIDE}"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
