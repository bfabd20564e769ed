"""What the benchmarks share: medians of synchronised calls, peak memory, the machine, a table and a JSON file."""
import contextlib
import ctypes
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import utils


def median_seconds(call: Callable[[], object], repeats: int, device: torch.device, warm_up: int = 2) -> float:
    """Median time of a call in seconds, after `warm_up` calls that do not count; synchronised."""
    times = []
    for _ in range(warm_up + repeats):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(prepare: Callable[[], Callable[[], object]], device: torch.device) -> float | None:
    """How many MB more than before the call `prepare()` returns needs at its peak; on a CPU in a process of its own."""
    if device.type == "cuda":
        call = prepare()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2 ** 20
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_of_process, (prepare, torch.get_num_threads()))


def peak_of_process(prepare: Callable[[], Callable[[], object]], threads: int) -> float | None:
    """The growth of this process's peak resident memory, in MB; None where the system does not tell."""
    torch.set_num_threads(threads)
    call, status = prepare(), Path("/proc/self/status")
    if not status.is_file():
        return None
    release_freed_memory()                         # or the call would have for nothing what `prepare` left
    Path("/proc/self/clear_refs").write_text("5")  # the peak restarts from what is held now
    before = peak_resident(status)
    call()
    return (peak_resident(status) - before) / 2 ** 10


def release_freed_memory() -> None:
    """Give freed memory back to the system, where the C library is glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_resident(status: Path) -> int:
    """Peak resident memory in kB."""
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1])


def matrix_rate(dtype: torch.dtype, device: torch.device, size: int | None = None) -> float:
    """FLOP/s of a square matrix product, multiply and add counted apart: the most this device does in practice."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size ** 3 / median_seconds(lambda: a @ b, 7, device)


def machine(device: torch.device) -> str:
    """What computed: the GPU's name, or the processor's."""
    about = utils.hardware(device)
    if device.type == "cuda":
        return about["device"]
    return "{processor}, {instructions}, {cores} cores, {threads} threads".format(**about)


def write_rows(path: Path, rows: list[dict], settings: dict, device: torch.device) -> None:
    """Write what was measured, with all that a figure needs to be believed; settings are the command line's."""
    settings = {name: value for name, value in settings.items() if not isinstance(value, Path)}
    utils.write_json(path, {"rows": rows, "settings": settings, "machine": machine(device),
                            "versions": utils.versions(),
                            "revision": utils.revision(), "date": utils.now()})


def report(path: Path, rows: list[dict], settings: dict, device: torch.device, about: str) -> None:
    """Print the table, write the file, and say what measured what."""
    print(markdown_table(rows))
    write_rows(path, rows, settings, device)
    print(f"{machine(device)}; {about}; written to {path}")


def markdown_table(rows: list[dict]) -> str:
    """A table of rows with the same columns; numbers with four digits, "-" for None."""
    cells = [[cell if isinstance(cell, str) else "-" if cell is None else f"{cell:.4g}" for cell in row.values()]
             for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(rows[0]), ["---"] * len(rows[0]), *cells])
