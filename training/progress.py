"""The progress of an epoch, and the user's request to stop."""
import contextlib
import itertools
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import utils
from saliency_model import Carried, map_state


@dataclass
class Progress:
    """How far an epoch has come in this process; in last.pt, in all processes together.

    Attributes:
        length: batches of the epoch, each counted once for every scale.
        steps: steps of the optimiser since the run began.
        batches: batches used so far.
        clips: maps compared with their targets.
        skipped: clips that could not be read.
        sums: of each term over the samples; "samples" counts them, "kl_left_out" and so on those where it is undefined.
        seconds: time spent, of which `waited` went into waiting for clips.
        carried: what networks with a state carry from clip to clip.
    """
    length: int
    steps: int = 0
    batches: int = 0
    clips: int = 0
    skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0
    carried: Carried = field(default_factory=Carried)

    def next_batches(self, batches: Iterator[dict], count: int) -> list[dict]:
        """The next `count` batches, or as many as there are; the time that they take is added to `waited`."""
        asked = time.perf_counter()
        taken = list(itertools.islice(batches, count))
        self.waited += time.perf_counter() - asked
        return taken

    def add_terms(self, terms: dict[str, Tensor | int], count: int) -> None:
        """Add a batch's terms, which are means over its `count` samples."""
        self.clips += count
        self.sums["samples"] = self.sums.get("samples", 0) + count
        means = [name for name in terms if not name.endswith("_left_out")]
        # One wait for the GPU, not one for each term.
        values = dict(zip(means, torch.stack([terms[name].detach() for name in means]).tolist()))
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + (values[name] * count if name in values else value)

    def mean_terms(self) -> dict[str, float]:
        """The mean of the loss over all samples, and of each term over the samples where it is defined."""
        terms = [name for name in self.sums if name != "samples" and not name.endswith("_left_out")]
        counted = {name: self.sums["samples"] - self.sums.get(f"{name}_left_out", 0) for name in terms}
        return {name: self.sums[name] / count if count else float("nan") for name, count in counted.items()}

    def combined(self) -> "Progress":
        """The progress of all processes: sums of clips and terms, the main process's times, nothing carried."""
        parts = utils.all_gather(self.record())
        names = dict.fromkeys(name for part in parts for name in part["sums"])
        sums = {name: sum(part["sums"].get(name, 0) for part in parts) for name in names}
        added = {name: sum(part[name] for part in parts) for name in ("clips", "skipped")}
        return Progress(**{**parts[0], **added, "sums": sums, "carried": Carried()})

    def record(self) -> dict:
        """Plain values for last.pt. What is carried differs between processes: `record_carried`."""
        return {**vars(self), "carried": None}

    def record_carried(self) -> dict:
        """What is carried, for last.pt; on the CPU, as another machine may lack this one's GPU."""
        return {**vars(self.carried), "state": map_state(Tensor.cpu, self.carried.state)}

    @staticmethod
    def check(record: dict, carried: list, source: Path) -> None:
        """Raise a ValueError if `record` (None between epochs) or one of `carried` is not what `Progress` writes."""
        if record is not None:
            sums = record.get("sums") if isinstance(record.get("sums"), dict) else {}
            fresh = {**Progress(0).record(), "sums": dict.fromkeys(sums, 0.0)}
            check_kinds({**record, "carried": None}, fresh, f"{source}, progress")
        for each in carried:
            # The network's shapes are needed to check the state: `check_carried`.
            each = {**each, "state": None} if isinstance(each, dict) else each
            check_kinds(each, vars(Carried()), f"{source}, carried")

    @classmethod
    def restored(cls, record: dict, carried: dict) -> "Progress":
        """This process's progress, from a checked record; the sums of all go on in the main process."""
        shared = record if utils.is_main() else {name: record[name] for name in ("length", "steps", "batches")}
        return cls(**{**shared, "carried": Carried(**carried)})


def check_kinds(stored, like, where: str) -> None:
    """Raise a ValueError if a part of a run's state has another structure than this run's.

    Args:
        stored: from a file.
        like: nested dicts and lists of plain values and tensors: keys, lengths, types, dtypes and shapes must agree.
        where: which part, of which file, for the message.
    """
    number = isinstance(like, (int, float)) and not isinstance(like, bool)
    same = isinstance(stored, (int, float)) and not isinstance(stored, bool) if number else type(stored) is type(like)
    if isinstance(like, dict):
        same = same and like.keys() == stored.keys()
    elif isinstance(like, list):
        same = same and len(like) == len(stored)
    elif isinstance(like, Tensor):
        same = same and like.dtype == stored.dtype and like.shape == stored.shape
    if not same:
        raise ValueError(f"{where} is damaged: expected a {type(like).__name__} such as train.py writes, got "
                         f"{str(stored)[:80]}")
    for name in like if isinstance(like, dict) else range(len(like)) if isinstance(like, list) else ():
        check_kinds(stored[name], like[name], f"{where}, {name}")


class Stopped(Exception):
    """The user asked to stop while nothing had to be finished first."""


class StopRequest:
    """Turns Ctrl-C, and the SIGTERM of schedulers, into a request that is met after the running step.

    A second Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self.requested, self.terminated, self.interruptible = False, False, False

    def __enter__(self) -> "StopRequest":
        self.previous = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def handle(self, number: int, *unused) -> None:
        self.requested, self.terminated = True, number == signal.SIGTERM
        signal.signal(signal.SIGINT, self.previous[signal.SIGINT])
        if self.interruptible:
            raise Stopped
        tqdm.write("stopping after this step" + ("" if self.terminated else "; Ctrl-C again to stop at once"))

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this block, and at its beginning, a request raises `Stopped`."""
        self.interruptible = True
        try:
            if self.requested:
                raise Stopped
            yield
        finally:
            self.interruptible = False

    def __exit__(self, *unused) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
