"""Where an epoch stands, and the request to stop it."""
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
    """Where an epoch stands in this process; in last.pt, all processes' together.

    Attributes:
        length: batches of the epoch, each counted once for every scale, of which so many are used (`batches`).
        steps: of the optimiser, since the run began.
        clips: maps compared.
        skipped: clips that could not be read.
        sums: of each term over the samples; "samples" counts them, "kl_left_out" and so on those where it is undefined.
        seconds: in all, and of those, how many went into waiting for clips (`waited`).
        carried: from clip to clip, by networks that carry a state.
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
        """Add a batch's terms times its samples, `count`."""
        self.clips += count
        self.sums["samples"] = self.sums.get("samples", 0) + count
        means = [name for name in terms if not name.endswith("_left_out")]
        values = dict(zip(means, torch.stack([terms[name].detach() for name in means]).tolist()))  # one wait for the GPU
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + (values[name] * count if name in values else value)

    def mean_terms(self) -> dict[str, float]:
        """Means: of the loss over all samples, of each term over the samples where it is defined."""
        terms = [name for name in self.sums if name != "samples" and not name.endswith("_left_out")]
        counted = {name: self.sums["samples"] - self.sums.get(f"{name}_left_out", 0) for name in terms}
        return {name: self.sums[name] / count if count else float("nan") for name, count in counted.items()}

    def combined(self) -> "Progress":
        """That of all processes together: clips and sums are added up, times are the first one's, nothing is carried."""
        parts = utils.all_gather(self.record())
        names = dict.fromkeys(name for part in parts for name in part["sums"])
        sums = {name: sum(part["sums"].get(name, 0) for part in parts) for name in names}
        added = {name: sum(part[name] for part in parts) for name in ("clips", "skipped")}
        return Progress(**{**parts[0], **added, "sums": sums, "carried": Carried()})

    def record(self) -> dict:
        """For last.pt, in plain values: without what is carried, which each process stores by itself."""
        return {**vars(self), "carried": None}

    def record_carried(self) -> dict:
        """What is carried, for last.pt: on the CPU, for another machine may lack this one's GPU."""
        return {**vars(self.carried), "state": map_state(Tensor.cpu, self.carried.state)}

    @staticmethod
    def check(record: dict, carried: list, source: Path) -> None:
        """Raise a ValueError where `record`, None between epochs, or one of `carried` is not what a Progress writes."""
        if record is not None:
            sums = record.get("sums") if isinstance(record.get("sums"), dict) else {}
            fresh = {**Progress(0).record(), "sums": dict.fromkeys(sums, 0.0)}
            check_kinds({**record, "carried": None}, fresh, f"{source}, progress")
        for each in carried:                                               # states are compared with the network's later
            check_kinds({**each, "state": None} if isinstance(each, dict) else each, vars(Carried()), f"{source}, carried")

    @classmethod
    def restored(cls, record: dict, carried: dict) -> "Progress":
        """This process's, of a checked `record` and what it carried; the sums of all are the first one's from now on."""
        shared = record if utils.is_main() else {name: record[name] for name in ("length", "steps", "batches")}
        return cls(**{**shared, "carried": Carried(**carried)})


def check_kinds(stored, like, where: str) -> None:
    """Raise a ValueError where a part of a run's state is not of the kind that this run's is: dicts of the same names, lists as long, and so on.

    Args:
        stored: from a file.
        like: nested dicts and lists of plain values and tensors.
        where: which part, of which file.
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
        raise ValueError(f"{where} is damaged: expected a {type(like).__name__} such as train.py writes, got {str(stored)[:80]}")
    for name in like if isinstance(like, dict) else range(len(like)) if isinstance(like, list) else ():
        check_kinds(stored[name], like[name], f"{where}, {name}")


class Stopped(Exception):
    """The user asked to stop while nothing had to be finished first."""


class StopRequest:
    """Turns Ctrl-C, and the SIGTERM of schedulers, into a request that is met after the running step; a second Ctrl-C interrupts at once."""

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
        """What can be interrupted: within, and at its beginning, a request raises `Stopped`."""
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
