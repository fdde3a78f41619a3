"""Find the network in what a watch saw: try the ways to the logits until one gives what the loss read."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from qcal.callbacks.attachment import Attachment, Output, classify, take_logits
from qcal.callbacks.batches import FLOAT, as_labels, most_probable, read, unreadable, usual_paths, walk
from qcal.callbacks.changes import split
from qcal.callbacks.choices import (
    depends_on_labels,
    is_scripted,
    of_one_call,
    of_the_batch,
    of_trained_networks,
    that_predict,
)
from qcal.callbacks.copies import has_foreign_hooks, with_hooks
from qcal.callbacks.images_to_logits import SELF, Way
from qcal.callbacks.observation import Observation, Reading
from qcal.callbacks.refusals import nothing_found
from qcal.callbacks.rerun import Rerun, first_line
from qcal.callbacks.watchable import agrees, has_forward, is_same
from qcal.callbacks.ways import (
    fed_by_batch,
    is_read_on,
    made_inside,
    outermost,
    path_of_labels,
    unread,
    unseen,
    ways_to,
    whole_module,
)
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
        self._rerun = Rerun(pl_module, observation, wishes.function, context)
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
        raise NotFoundError(nothing_found(self.observation, self.batch, self._failures))

    def _first_reproduced(self, readings: list[Reading]) -> Attachment | None:
        """What the first of the readings that count leads to; None if none of them leads anywhere."""
        readings = of_the_batch(self._of_the_wished(readings), self._labels)
        self._check_one_task(readings)
        readings = that_predict(readings, self.observation)
        readings = of_trained_networks(readings, self.observation, self.pl_module)
        for reading in readings:
            found = self._reproduced(reading)
            if found is not None:
                self._check_one_network(
                    found.way, [one for one in readings if not of_one_call(one, reading, self.observation)]
                )
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
        self._check_as_seen(found.way)
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
        again = [part for _, part in walk(self._rerun.output(way, plain=True)) if isinstance(part, Tensor)]
        if not any(agrees(part, output) for part in again for output in seen):
            raise NotFoundError(
                unreadable(self.batch, f"{way} gave something else in the step than it gives for {way.input}")
            )

    def _reproduced(self, reading: Reading, *, found_by: str = "") -> Attachment | None:
        """A way that computes what was read, from the batch, with its labels; None if there is none."""
        target = self._labels(reading)
        by = found_by or f"found by watching {reading.by} in the first batch"
        for way in with_hooks(self._ways(reading.logits), self.pl_module):
            if self.wishes.function is not None or self.wishes.made_by:
                key: str | None = None
            else:
                key, why = self._rerun.place(way, reading.logits)
                if key is None:
                    self._failures.append(why)
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
            ways = ways_to(self.observation, logits)
            if has_forward(self.pl_module):
                ways += whole_module(self.observation)
            # What reads the batch as it is comes first: the smaller network lacks what `forward` does to images.
            yield from sorted(ways, key=lambda way: split(way.input)[1] not in ("", FLOAT))
            for name in unseen(self.observation, logits):
                if has_forward(self.pl_module.get_submodule(name)):
                    yield from (replace(way, steps=(name,)) for way in whole_module(self.observation))
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
        if calls and is_read_on(self.observation, calls[-1]):
            outputs = unread(self.observation)
            reading = Reading("", outputs[0], None, sure=False) if len(outputs) == 1 else None
            return None if reading is None else self._reproduced(reading, found_by=by)
        for call in calls[-1:]:
            if len(call.outputs) == 1:
                return self._reproduced(Reading("", call.outputs[0], None, sure=False), found_by=by)
            for way in fed_by_batch(self.observation, call):
                return self._taken(replace(way, made_by=self.wishes.made_by), "", usual[1], by)
        return None

    def _taken(self, way: Way, read_by: str, target: str, found_by: str) -> Attachment:
        """The way, with the logits taken from where they usually are in its output."""
        way = replace(way, hooks=has_foreign_hooks(self.pl_module))  # nothing shows whether they matter
        output = self._rerun.output(way)
        if isinstance(output, Exception):
            raise NotFoundError(f"{way} failed: {first_line(output)}. {OVERRIDE}") from output
        try:
            key = take_logits(output, len(self._rerun.images(way)))
        except ValueError as error:
            raise NotFoundError(f"{way}: {error}") from error
        return self._attachment(way, key, read(output, key), read_by, target, found_by)

    def _attachment(self, way: Way, key: str, logits: Tensor, read_by: str, target: str, found_by: str) -> Attachment:
        read_by = "" if self.wishes.function is not None else read_by
        output = self._check_output(logits, read_by, str(way))
        if is_scripted(self.pl_module, way):
            raise NotFoundError(f"{way} holds TorchScript, which cannot be quantized. Script it when it is trained.")
        self._check_labels(target, 2 if output == "binary_logits" else logits.shape[1], str(way))
        return Attachment(
            way=way,
            target=target,
            logits_key=key,
            function=self.wishes.function_name,
            output=output,
            num_classes=2 if output == "binary_logits" else logits.shape[1],
            found_by=found_by + self._how_labelled(target),
        )

    def _how_labelled(self, target: str) -> str:
        is_plain = as_labels(self.observation.leaves[target]) is not None
        return "" if is_plain else "; labels are the most probable class of each row"

    def _check_labels(self, target: str, num_classes: int, name: str) -> None:
        """Labels beyond the classes: it is another network, or other labels."""
        labels = most_probable(self.observation.leaves[target])
        odd = [] if labels is None else labels[(labels < 0) | (labels >= num_classes)].tolist()
        if odd:
            raise NotFoundError(
                f"{name} gives {num_classes} logits a row, but {target} holds the label {odd[0]}. {OVERRIDE}"
            )

    @staticmethod
    def _check_output(logits: Tensor, read_by: str, name: str) -> Output:
        try:
            return classify(logits, read_by)
        except ValueError as error:
            raise NotFoundError(f"{name}: {error}") from error

    def _usual(self) -> tuple[str, str] | None:
        if self.wishes.reads_batch:
            images, target = self.observation.leaves
            return images, target
        return usual_paths(self.batch)

    def _labels(self, reading: Reading) -> str | None:
        usual = self._usual()
        return path_of_labels(self.observation, reading.target, usual[1] if usual else None)
