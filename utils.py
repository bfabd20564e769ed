"""What all rooms share: run folder and log, atomic files, threads, devices, types of argparse, seeding, ranks."""
import argparse
import collections
import contextlib
import ctypes
import datetime
import errno
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

PRECISIONS = ("float32", "bfloat16")
MEETING = datetime.timedelta(minutes=30)  # timeout of rendezvous and collectives
NO_BFLOAT16 = ("bfloat16 left out: this CPU has no instructions for it, and takes hundreds of times as long as in "
               "float32")


# Files that are whole or not there

@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: renamed to it when the block succeeds, removed when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # a full disk does not say where
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, names: Iterable[str], older_than: float = 0) -> None:
    """Remove the half-written files that killed programs left in a folder.

    Args:
        folder: where `atomic_path` wrote.
        names: of the files, or patterns.
        older_than: seconds since the last change; for folders that other programs may be writing to.
    """
    for path in (path for name in names for path in folder.glob(f".{name}.*.part")):
        with contextlib.suppress(OSError):  # removed by another, or not ours to remove
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


def to_disk(file) -> None:
    """Flush an open file to the disk: a name must not survive a power failure without its content."""
    file.flush()
    os.fsync(file.fileno())


def save_checkpoint(content: dict, path: Path) -> None:
    """Write tensors and plain types with `torch.save`, atomically; an OSError where the disk is full."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
            to_disk(file)
        except RuntimeError as error:  # PyTorch's "unexpected pos": a full disk
            free = shutil.disk_usage(path.parent).free / 1e6
            raise OSError(errno.EIO, f"could not be written ({free:.0f} MB are free there; what was there before is "
                          f"kept): {error}", str(path)) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """Write JSON atomically, nested dicts indented and lists on one line; NaN and infinity become null."""
    write_text(path, json_text(without_nan(content)) + "\n")


def json_text(content, indent: str = "") -> str:
    """JSON for people to read: dicts indented, everything else on one line."""
    if not isinstance(content, dict) or not content:
        return json.dumps(content, allow_nan=False)
    inner = indent + "  "
    lines = [f"{inner}{json.dumps(str(name))}: {json_text(value, inner)}" for name, value in content.items()]
    return "{\n" + ",\n".join(lines) + "\n" + indent + "}"


def read_json(path: Path) -> dict:
    """A JSON file that holds an object; a ValueError where it does not."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold an object, but holds a {type(content).__name__}")
    return content


def mistaken_for(path: Path) -> str | None:
    """Recognise what was downloaded instead of a file: nothing, a Git LFS pointer, or a web page.

    Returns:
        What it is and what to do, to follow the file's name in a message; None for all other files. Only the first 512
        bytes are read.
    """
    with path.open("rb") as file:
        head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if path.stat().st_size == 0:
        return "is empty: get the file again"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"
    is_page = head.startswith((b"<!doctype html", b"<html", b"<head"))
    if is_page or (head.startswith((b"<?xml", b"<!--")) and b"<html" in head):
        return ("is a web page (HTML), probably a download page or an error: open it in a browser, and get the file "
                "that it leads to")
    return None


def without_nan(content):
    """A copy of nested dicts, lists and plain values with null for every float that is not finite."""
    if isinstance(content, dict):
        return {name: without_nan(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


# The run folder

def refuse_to_replace(paths: Iterable[Path], remedy: str) -> None:
    """Raise FileExistsError where one of the files is there already; `remedy` says what the user can do."""
    present = [str(path) for path in paths if path.exists()]
    if present:
        raise FileExistsError(f"{', '.join(present)} would be replaced: {remedy}")


def append_log(path: Path, record: dict) -> None:
    """Append one line of JSON, with the time, to a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("a", encoding="utf-8") as log:
            log.write(json.dumps({"time": now(), **without_nan(record)}, allow_nan=False) + "\n")
    except OSError as error:  # a full disk does not say where
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def now() -> str:
    """The local time with its zone, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Versions that results may depend on; CUDA and cuDNN as PyTorch was built with; None for what is missing."""
    # Modules, not packages: OpenCV's has several names.
    modules = ("torch", "numpy", "scipy", "PIL", "cv2", "av")
    present = {name: importlib.util.find_spec(name) and importlib.import_module(name).__version__ for name in modules}
    torchvision = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # not imported: that takes as long as PyTorch
        torchvision = importlib.metadata.version("torchvision")
    return {"python": sys.version.split()[0], **present, "torchvision": torchvision,
            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def revision() -> str | None:
    """The git revision of this code, with "+changes" where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        command = ["git", "-C", here, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None


def hardware(device: torch.device) -> dict:
    """Processor, cores, threads, the device's name, and the number of processes."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "processor": processor(),
            "instructions": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "processes": world_size()}


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    listed = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", listed.read_text()) if listed.is_file() else None
    return named[1] if named else platform.processor()


# Threads

def in_threads(function: Callable, items: Iterable, workers: int = 4, ahead: int = 16) -> Iterator:
    """function(item) of each item, in order; threads compute up to `ahead` of them in advance."""
    threads, waiting = ThreadPoolExecutor(workers), collections.deque()
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def in_background(items: Iterable, ahead: int) -> Iterator:
    """The same items; a thread takes up to `ahead` of them in advance."""
    iterator, end = iter(items), object()
    # The thread ends with this generator, not when an exception's traceback lets go of it.
    with contextlib.closing(in_threads(lambda _: next(iterator, end), itertools.repeat(None), 1, ahead - 1)) as taken:
        yield from itertools.takewhile(lambda item: item is not end, taken)


class BoundedExecutor:
    """Calls functions in threads, in order if there is one thread; the context ends when all calls have returned.

    At most `ahead` calls wait. An exception is raised by a later call or at the end; waiting calls are still made.
    """

    def __init__(self, workers: int = 4, ahead: int = 16) -> None:
        self.threads, self.waiting, self.ahead = ThreadPoolExecutor(workers), collections.deque(), ahead

    def __call__(self, function: Callable, *args) -> None:
        self.waiting.append(self.threads.submit(function, *args))
        while len(self.waiting) > self.ahead:
            self.waiting.popleft().result()

    def __enter__(self) -> "BoundedExecutor":
        return self

    def __exit__(self, kind: type | None, *unused) -> None:
        self.threads.shutdown()
        while self.waiting and kind is None:
            self.waiting.popleft().result()


# Devices, precision, memory

def select_device(name: str) -> torch.device:
    """The device for `--device`: "auto" is CUDA, else MPS, else the CPU; a ValueError for one that is not available."""
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"device must be auto, cpu, cuda or mps, got {name!r}")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in present.items() if there)
    if not present[name]:
        raise ValueError(f"--device {name}: PyTorch {torch.__version__} sees no {name} device on this machine; "
                         "use --device auto or cpu")
    return torch.device(name)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 at a useful speed.

    A CPU with AVX2 only has no instructions for it, and PyTorch's loops take 300 times as long as float32 there
    (measured on an EPYC); with AVX-512, bfloat16 is computed by float32's instructions if it has none of its own.
    """
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def default_precision(device: torch.device) -> str:
    """bfloat16 on CUDA, where it is several times faster; float32 elsewhere."""
    return "bfloat16" if device.type == "cuda" else "float32"


def choose_precision(asked: str | None, device: torch.device, force_bfloat16: bool = False) -> str:
    """The precision that was asked for, else the device's default.

    Raises:
        ValueError: bfloat16 was asked of a CPU that has no instructions for it, and not forced.
    """
    if asked == "bfloat16" and not force_bfloat16 and not computes_bfloat16(device):
        raise ValueError("--precision bfloat16: this CPU has no instructions for it, and float32 is about 300 times "
                         "faster here: use --precision float32 (same maps within 0.01), or --force-bfloat16 to wait "
                         "all the same")
    return asked or default_precision(device)


def precision_context(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """The context to train in: bfloat16 autocast, or true float32 (TF32 off)."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    float32_is_float32()
    return contextlib.nullcontext()


def float32_is_float32() -> None:
    """Turn TF32 off, which rounds float32 to 10 bits on NVIDIA's GPUs."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def keep_freed_memory() -> None:
    """Let this process keep memory that tensors free, to reuse it. For programs, not for libraries.

    glibc returns large blocks to the system, and fetching them again, page by page, costs the network 7 % of its time
    on a CPU, and a frame's measures more than their arithmetic (benchmarks). Without glibc nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)            # M_MMAP_MAX: no mapping for a single block
        libc.mallopt(-1, 2 ** 31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-8, 1)            # M_ARENA_MAX: several heaps grow for hours


def device_arguments(parser: argparse.ArgumentParser, precision: str,
                     bfloat16: str = "the whole network but its readout") -> None:
    """The flags of devices and precision, with help on the default `precision`, and on what `bfloat16` means there."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto",
                       help="where to compute; auto: CUDA, else MPS, else CPU (default: auto)")
    group.add_argument("--precision", choices=PRECISIONS,
                       help=f"bfloat16: {bfloat16}; float32: TF32 off (default: {precision})")
    group.add_argument("--force-bfloat16", action=argparse.BooleanOptionalAction, default=False,
                       help="compute in bfloat16 also on a CPU without instructions for it, hundreds of times slower "
                            "than in float32 (default: off)")


# Types of argparse

def default_in_words(values: dict[str, object]) -> str:
    """The default of a flag for --help: the first one's value, and those that differ from it with their names."""
    usual = next(iter(values.values()))
    others = {value: ", ".join(name for name in values if values[name] == value)
              for value in values.values() if value != usual}
    return "; ".join([f"default: {usual}", *(f"{names}: {value}" for value, names in others.items())])


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number, `least` or more, and below 2^31, as seeds and sizes must be."""
    def number(text: str) -> int:
        value = int(text)
        if not least <= value < 2 ** 31:
            raise argparse.ArgumentTypeError(f"must be {least} or more and below 2^31, got {text}")
        return value
    return number


def positive(text: str) -> float:
    """An argparse type: above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


# Seeding

def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed Python, NumPy and PyTorch on every device.

    Args:
        seed: the same on all ranks; each derives its own from it.
        deterministic: whether PyTorch uses operations that give the same bits in every run, even where they are
            slower; it warns of those that have no such form.
    """
    if rank():  # unlike any rank's of another seed
        seed = int(np.random.SeedSequence([seed, rank()]).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False


def random_state() -> dict:
    """The state of PyTorch's generators, as tensors: training uses no others."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(state: dict) -> None:
    """Continue where `random_state` was taken."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


# Ranks, as torchrun starts them

@contextlib.contextmanager
def process_group(device: str) -> Iterator[None]:
    """The process group of the processes that torchrun started, for the duration of a block; alone, nothing happens.

    Each rank computes on the GPU of its local rank, unless `device` is neither "auto" nor "cuda". Only rank 0 prints to
    stdout; errors are shown by all.
    """
    on_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} <= os.environ.keys():
        yield
        return
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    shared, number, count = next(iter(dist.rendezvous("env://", timeout=MEETING)))
    store = fresh_store(shared, number)
    # Objects and counts go between CPUs, gradients between GPUs.
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=MEETING)
    try:
        with open(os.devnull, "w") as nowhere:
            with contextlib.nullcontext() if is_main() else contextlib.redirect_stdout(nowhere):
                yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not re.search("gloo|nccl", str(error), re.IGNORECASE):
            raise
        timed_out = re.search("timed? ?out", str(error), re.IGNORECASE)
        happened = (f"did not come within {MEETING.total_seconds() / 60:g} minutes" if timed_out
                    else "has ended, and says why itself")
        raise ConnectionError(f"another process of this run {happened} ({str(error).splitlines()[0]})") from error
    finally:
        dist.destroy_process_group()


def fresh_store(shared: dist.Store, number: int) -> dist.Store:
    """A new store: torchrun's own still holds the addresses of processes that have died and were restarted.

    Rank 0 serves it, and publishes its port in torchrun's, where the others may at first find the port of a dead one.
    """
    host, place = os.environ["MASTER_ADDR"], "store of the running processes"
    if number == 0:
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=MEETING)
        shared.set(place, str(store.port))
        return store
    until = time.monotonic() + MEETING.total_seconds()
    while True:
        port = int(shared.get(place))
        try:
            socket.create_connection((host, port), timeout=10).close()  # PyTorch retries for long, and prints much
            return dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=MEETING)
        except OSError:                                                 # not served (any more)
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def rank() -> int:
    """This process's rank, from 0; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is rank 0, which prints, and writes the files."""
    return rank() == 0


def is_local_main() -> bool:
    """Whether this process is the first one on its machine."""
    return not dist.is_initialized() or os.environ["LOCAL_RANK"] == "0"


def hide_bar() -> bool | None:
    """tqdm's `disable`: only rank 0 shows a bar, on a terminal."""
    return None if is_main() else True


def all_gather(value) -> list:
    """The values of all ranks, in order; every rank must call this."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_reduce_sum(values: list[float]) -> list[float]:
    """The sums of numbers over all ranks, in float64."""
    if not dist.is_initialized():
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def barrier() -> None:
    """Wait until every rank has called this, however long the last one takes."""
    if dist.is_initialized():
        patient = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=30))
        dist.barrier(patient)
        dist.destroy_process_group(patient)
