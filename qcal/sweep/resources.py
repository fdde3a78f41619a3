"""How the machine is divided among jobs: CPU threads and devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcal.usage import UsageError


@dataclass(frozen=True)
class Resources:
    """What each job gets.

    Attributes:
        slots: One for each job: what `CUDA_VISIBLE_DEVICES` is for the run in it, None to leave it as it is.
        threads: CPU threads of each job.
    """

    slots: tuple[str | None, ...]
    threads: int


def divide(
    *, jobs: int | None, threads: int | None, devices: Sequence[str] | None, jobs_per_device: int, cpus: int, limit: str
) -> Resources:
    """Divide CPU threads and devices among the jobs that run at one time.

    Args:
        jobs: How many; when not given one for each place on a device, or without devices one for each CPU.
        threads: CPU threads of each; when not given the CPUs divided by the jobs, at least one.
        devices: Names for `CUDA_VISIBLE_DEVICES`; empty if there are none, None if they are left as they are.
        jobs_per_device: Places on a device.
        cpus: CPUs that this process may use.
        limit: `OMP_NUM_THREADS` of the user, which the default for `threads` does not go above; may be empty.

    Returns:
        What each job gets; neighbouring jobs are on different devices as far as there are any.

    Raises:
        UsageError: A number is below one, or there are more jobs than places on devices.

    Example:
        >>> divide(jobs=None, threads=None, devices=["0", "1"], jobs_per_device=2, cpus=16, limit="")
        Resources(slots=('0', '1', '0', '1'), threads=4)
        >>> divide(jobs=2, threads=None, devices=[], jobs_per_device=1, cpus=2, limit="")
        Resources(slots=('', ''), threads=1)
    """
    for name, value in (("--jobs", jobs), ("--threads", threads), ("--jobs-per-device", jobs_per_device)):
        if value is not None and value < 1:
            raise UsageError(f"`{name}` must be an integer of at least 1, got {value}. Leave it out for the default.")
    places = [device for _ in range(jobs_per_device) for device in devices or ()]
    if places and jobs is not None and jobs > len(places):
        raise UsageError(
            f"`--jobs {jobs}` is more than the {len(places)} places on the devices {', '.join(devices or ())}. Let "
            f"several runs share a device with `--jobs-per-device {-(-jobs // len(devices or ' '))}`, or run on the "
            "CPU with `--devices none`."
        )
    count = jobs or len(places) or cpus
    slots = places[:count] if places else [None if devices is None else ""] * count
    share = max(1, cpus // count)
    return Resources(tuple(slots), threads or (min(share, int(limit)) if limit.isdecimal() and int(limit) else share))


def choose_devices(asked: str, environment: Mapping[str, str], num_gpus: int) -> list[str]:
    """The devices to hand out.

    Args:
        asked: `auto` for all that can be seen, `none`, or names separated by commas.
        environment: Of this process; its `CUDA_VISIBLE_DEVICES` says which of the machine's can be seen.
        num_gpus: How many GPUs can be seen.

    Returns:
        Names for `CUDA_VISIBLE_DEVICES`, as the user wrote them there: indices or UUIDs.

    Raises:
        UsageError: A device is named twice, or there is none of that name.

    Example:
        >>> choose_devices("auto", {"CUDA_VISIBLE_DEVICES": "3,5"}, 2)
        ['3', '5']
        >>> choose_devices("auto", {}, 2)
        ['0', '1']
    """
    if asked == "none":
        return []
    given = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    visible = given[:num_gpus] if given else [str(index) for index in range(num_gpus)]
    if asked == "auto":
        return visible
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not names or len(set(names)) < len(names) or not set(names) <= set(visible):
        raise UsageError(
            f"`--devices` must be `auto`, `none` or different ones of {', '.join(visible) or '(no GPU can be seen)'}, "
            f"separated by commas, got {asked!r}. Several runs on one device: `--jobs-per-device`."
        )
    return names
