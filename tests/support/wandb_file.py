"""Read an offline Weights & Biases run back from its file.

The file is a LevelDB log (32 KiB blocks of checksummed fragments) of protocol buffers behind a seven-byte header.
"""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_HEADER = 7
_BLOCK = 32768
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class WandbRun:
    """What a run holds. Any: values are whatever was logged."""

    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    project: str = ""
    id: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    """By name, or by pattern: `step_metric`, and `options` and `summary` as wandb's own messages."""
    artifacts: list[Any] = field(default_factory=list)
    """wandb's own messages, in the order they were logged."""
    exit_code: int = 0
    finished: bool = False


def read_run(folder: Path, wait: float = 10.0) -> WandbRun:
    """The one run below `folder`; waits up to `wait` seconds for its last record, which is written after "
    "`finish` returns."""
    (file,) = folder.rglob("run-*.wandb")
    deadline = time.monotonic() + wait
    run = _parse(file.read_bytes())
    while not run.finished and time.monotonic() < deadline:
        time.sleep(0.05)
        run = _parse(file.read_bytes())
    assert run.finished, f"{file} has no exit record"
    return run


def _parse(content: bytes) -> WandbRun:
    run = WandbRun()
    for frame in _frames(content):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # made at import time by protobuf
        record.ParseFromString(frame)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name, run.project, run.id = record.run.display_name, record.run.project, record.run.run_id
            run.group, run.job_type, run.tags = record.run.run_group, record.run.job_type, list(record.run.tags)
            _update(run.config, record.run.config.update)
        elif kind == "config":
            _update(run.config, record.config.update)
        elif kind == "history":
            run.history.append(_update({}, record.history.item))
        elif kind == "summary":
            _update(run.summary, record.summary.update)
            for item in record.summary.remove:
                run.summary.pop(".".join(item.nested_key) or item.key, None)
        elif kind == "metric":
            run.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
        elif kind == "exit":
            run.finished, run.exit_code = True, record.exit.exit_code
    return run


def _update(into: dict[str, Any], items: Any) -> dict[str, Any]:
    """Any: a repeated field of whichever item message."""
    for item in items:
        *outer, last = list(item.nested_key) or [item.key]
        place = into
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return into


def _frames(content: bytes) -> Iterator[bytes]:
    position, part = _HEADER, b""
    while position + 7 <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if kind == 0:
            return
        data = content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind == _FULL:
            yield data
        elif kind == _FIRST:
            part = data
        elif kind == _MIDDLE:
            part += data
        else:
            yield part + data
