"""The stages of `benchmarks.gpu`: each measures one thing, and keeps every row as soon as it has it.

    python -m benchmarks.gpu_stages forward --out forward.json
"""
import argparse
import contextlib
import functools
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import utils
from baselines import MODELS
from benchmarks import clips, evaluation, network
from benchmarks.timing import matrix_rate, median_seconds, synchronise
from dataloader import ClipDataset, clip_loader
from predict import predict_source
from prediction.sources import Source
from saliency_model import EngineOptions, prepare_frame
from utils import default_precision, float32_is_float32, select_device
from videos.decoding import av
from videos.prepared import FrameCache

Keep = Callable[[dict], None]
SIZE, TINY_SIZE = (224, 384), (32, 32)
# Of networks in tiny runs; the plain formulation has one size.
TINY = {"width": 16, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
TINY_NETWORKS = {"smcf": {"trunk_width": 8, "trunk_blocks": (1, 1, 1, 1)}}
CARDS = (12, 24, 80)  # GB of cards whose largest batch is sought
CONTEXT = 0.7         # GB that CUDA itself takes of a card


# 1. The machine

def machine(device: torch.device, tiny: bool, out: Path, keep: Keep) -> None:
    """What computes, and its ceilings."""
    about = {**utils.hardware(device), **utils.versions(), "revision": utils.revision()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        query, driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], "unknown"
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            driver = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
        about |= {"memory": f"{properties.total_memory / 2 ** 30:.1f} GiB", "driver": driver,
                  "multiprocessors": properties.multi_processor_count,
                  "compute capability": f"{properties.major}.{properties.minor}"}
    for name, value in about.items():
        keep({"what": name, "value": str(value)})
    size = 256 if tiny else 8192
    for name in ("float32", "TF32", *["bfloat16"] * utils.computes_bfloat16(device)):
        torch.backends.cuda.matmul.allow_tf32 = name == "TF32"
        rate = matrix_rate(torch.bfloat16 if name == "bfloat16" else torch.float32, device, size)
        keep({"ceiling": f"product of two {size} x {size} matrices, {name}", "value": rate / 1e12, "unit": "TFLOP/s"})
    float32_is_float32()
    source = torch.randint(256, (2 ** (20 if tiny else 30),), dtype=torch.uint8, device=device)
    target, gigabytes = torch.empty_like(source), 2 * source.numel() / 1e9
    seconds = median_seconds(lambda: target.copy_(source), 7, device)
    keep({"ceiling": "copy on the device, bytes read and written", "value": gigabytes / seconds, "unit": "GB/s"})


# 2. What must hold: tests/test_cuda.py

class Outcomes:
    """A plugin of pytest that keeps how each test ended, how long it took, and what it recorded."""

    def __init__(self, keep: Keep) -> None:
        self.keep, self.passed = keep, 0

    def pytest_collectreport(self, report) -> None:
        if report.failed:  # tests that cannot be imported
            found = report.longreprtext[-200:]
            self.keep({"check": report.nodeid, "outcome": "failed", "seconds": 0.0, "found": found})

    def pytest_runtest_logreport(self, report) -> None:
        if report.when != "call" and report.outcome == "passed":  # a fixture, which may also fail or skip
            return
        self.passed += report.outcome == "passed"
        found = [f"{name}: {value:.2g}" if isinstance(value, float) else f"{name}: {value}"
                 for name, value in report.user_properties]
        if report.outcome != "passed":
            crash = getattr(report.longrepr, "reprcrash", None)
            why = report.longrepr[2] if report.skipped else crash.message if crash else report.longreprtext
            found += str(why).splitlines()[:1]
        self.keep({"check": report.nodeid.partition("::test_")[2].replace("_", " "), "outcome": report.outcome,
                   "seconds": round(report.duration, 2), "found": "; ".join(found).replace("|", "\\|")})


def checks(device: torch.device, tiny: bool, out: Path, keep: Keep) -> None:
    """The tests of a GPU, one by one; exit code 1 where one fails, or none passes."""
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # whatever else is installed there
    outcomes = Outcomes(keep)
    tests = Path(__file__).resolve().parent.parent / "tests" / "test_cuda.py"
    flags = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "--device", device.type, *["--tiny"] * tiny]
    if pytest.main([str(tests), *flags], plugins=[outcomes]) != pytest.ExitCode.OK or not outcomes.passed:
        raise SystemExit("a check failed, or none passed: the rows say why")


# 3. and 4. Forward passes and training steps

def measured(call: Callable[[], object], device: torch.device, repeats: int) -> tuple[float, float | None]:
    """Median seconds of a call, after up to two that do not count; and the most GB that PyTorch held, None on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = median_seconds(call, repeats, device, warm_up=min(2, repeats - 1))
    return seconds, torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


class Comparison:
    """Rows of one kind of call, each beside the plain formulation, which is timed first.

    Args:
        what: "forward" or "step".
        plain_call: frame size and device -> the plain formulation's call, of one clip.
        device, size, repeats: of all rows.
        keep: keeps a row.
    """

    def __init__(self, what: str, plain_call: Callable, device: torch.device, size: tuple[int, int], repeats: int,
                 keep: Keep) -> None:
        self.what, self.device, self.repeats, self.keep = what, device, repeats, keep
        width = None if device.type == "cuda" else 256
        self.rates = {name: matrix_rate(getattr(torch, name), device, width) for name in network.precisions(device)}
        call = plain_call(size, device)
        with FlopCounterMode(display=False) as counter:
            call()
        self.flop = counter.get_total_flops()
        self.plain_seconds, peak = measured(call, device, repeats)
        keep(self.row(network.PLAIN, "float32", 1, self.plain_seconds, peak))

    def add(self, variant: str, precision: str, batch: int, prepare: Callable[[], Callable]) -> dict:
        """Time what `prepare` returns, a call of a batch of clips; returns its row, empty where memory is short."""
        seconds, peak = network.unless_too_large(lambda: measured(prepare(), self.device, self.repeats)) or (None, None)
        row = self.row(f"{precision}, {variant}", precision, batch, seconds and seconds / batch, peak)
        self.keep(row)
        return row

    def row(self, variant: str, precision: str, batch: int, seconds: float | None, peak: float | None) -> dict:
        rate = seconds and self.flop / seconds
        return {self.what: variant, "batch": batch, "ms a clip": seconds and 1000 * seconds,
                "clips/s": seconds and 1 / seconds, "times plain": seconds and self.plain_seconds / seconds,
                "TFLOP/s": rate and rate / 1e12, "of the matrix rate": rate and rate / self.rates[precision],
                "peak GB in all": peak}


def best_batch(rows: list[dict], usual: int = 1) -> int:
    """The batch size of the fastest row of a forward pass or a step; `usual` where there is none."""
    timed = [row for row in rows if row.get("ms a clip")]
    return min(timed, key=lambda row: row["ms a clip"])["batch"] if timed else usual


def stored_rows(out: Path, stage: str) -> list[dict]:
    """What a stage before has measured; nothing where it was not run."""
    path = out.with_name(f"{stage}.json")
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def compiler(tiny: bool) -> str:
    """What compiles: PyTorch's own compiler, or for tiny runs nothing, for it takes minutes on a CPU."""
    return "eager" if tiny else "inductor"


def forward(device: torch.device, tiny: bool, out: Path, keep: Keep) -> None:
    """RecSal-Net's forward pass beside the plain formulation: both precisions, several batches, eager and compiled."""
    size, batches, repeats = (TINY_SIZE, (2,), 1) if tiny else (SIZE, (1, 4, 8, 16), 7)
    comparison = Comparison("forward", network.plain_forward, device, size, repeats, keep)
    for precision in network.precisions(device):
        prepare = functools.partial(network.our_forward, size, device, precision=precision, **TINY if tiny else {})
        rows = [comparison.add("eager", precision, batch, functools.partial(prepare, batch)) for batch in batches]
    best = best_batch(rows)  # of bfloat16, where there is one
    comparison.add("compiled", precision, best, functools.partial(prepare, best, compiler=compiler(tiny)))


def step(device: torch.device, tiny: bool, out: Path, keep: Keep) -> None:
    """RecSal-Net's training step beside the plain formulation's, and which batches fit cards of several sizes."""
    size, batches, repeats = (TINY_SIZE, (2,), 1) if tiny else (SIZE, (1, 4, 8), 5)
    comparison = Comparison("step", network.plain_step, device, size, repeats, keep)
    precision = network.precisions(device)[-1]
    our_step = functools.partial(network.our_step, size, device, precision=precision, **TINY if tiny else {})
    rows, prepare = {}, {"eager": our_step, "checkpointing": functools.partial(our_step, checkpointing=True)}
    for variant, of_batch in prepare.items():
        rows[variant] = [comparison.add(variant, precision, n, functools.partial(of_batch, n)) for n in batches]
    # Small cards first; the largest after compiling, which may be stopped: batches of 30 clips and more are new ground.
    for card in CARDS[:-1]:
        fit_card(card, rows, prepare, precision, device, keep)
    best = best_batch(rows["eager"])
    comparison.add("compiled", precision, best, functools.partial(prepare["eager"], best, compiler=compiler(tiny)))
    fit_card(CARDS[-1], rows, prepare, precision, device, keep)


def fit_card(card: int, rows: dict[str, list[dict]], prepare: dict[str, Callable[[int], Callable]], precision: str,
             device: torch.device, keep: Keep) -> None:
    """The largest batch that fits a card: tried where this one is as large, else from how memory grows with the batch.

    Args:
        card: GB.
        rows: of each variant of training, what was measured.
        prepare: of each variant, batch size -> the call of a step.
        precision, device, keep: of the stage.
    """
    for variant, of_batches in rows.items():
        peaks = {row["batch"]: row["peak GB in all"] for row in of_batches if row["peak GB in all"]}
        if len(peaks) < 2:  # on a CPU there are none
            continue
        least, most = min(peaks), max(peaks)
        per_clip = (peaks[most] - peaks[least]) / (most - least)
        guess = max(0, least + int((card - CONTEXT - peaks[least]) / per_clip))
        is_tried = card * 1e9 <= torch.cuda.get_device_properties(device).total_memory
        fits = functools.partial(fits_card, card, device, prepare[variant])
        keep({"card": f"{card} GB", "training": f"{precision}, {variant}",
              "batch that fits": largest_batch(fits, guess) if is_tried else guess,
              "found by": "trying" if is_tried else "extrapolation"})


def fits_card(gigabytes: float, device: torch.device, prepare: Callable[[int], Callable], batch: int) -> bool:
    """Whether two steps of a batch fit a card of this size: PyTorch may take no more of this one."""
    total = torch.cuda.get_device_properties(device).total_memory / 1e9
    torch.cuda.empty_cache()  # what is kept counts against no limit
    torch.cuda.set_per_process_memory_fraction(min(1.0, (gigabytes - CONTEXT) / total), device)
    try:
        call = prepare(batch)
        for _ in range(2):  # Adam's state is there from the second on
            call()
        synchronise(device)
        return True
    except RuntimeError as error:  # too little memory, or a kernel's limit
        print(f"batch {batch} on {gigabytes} GB: {str(error).splitlines()[0]}", flush=True)
        return False
    finally:
        call = None
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def largest_batch(fits: Callable[[int], bool], guess: int) -> int:
    """The largest batch size that fits, 0 if none does, looked for from a guess upwards or downwards."""
    batch = max(1, guess)
    if fits(batch):
        while fits(batch + 1):
            batch += 1
        return batch
    return next((smaller for smaller in range(batch - 1, 0, -1) if fits(smaller)), 0)


# 5. Evaluation end to end, and reading clips

def evaluate(device: torch.device, tiny: bool, out: Path, keep: Keep) -> None:
    """Frames/s of test.py and predict.py, where the time goes, and clips/s that loader processes read."""
    size, frames, precision = TINY_SIZE if tiny else SIZE, 4 if tiny else 200, default_precision(device)
    batch = 2 if tiny else best_batch(stored_rows(out, "forward"), 8)
    how = f"{precision}, batch {batch}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = evaluation.make_video(folder / "video", frames, (36, 64) if tiny else (360, 640))
        rows = evaluation.measure(video, folder, size, precision, batch, 1 if tiny else 3, device,
                                  plain_frames=frames // 10 or 1, whole_repeats=1)
        for row in rows:
            keep(row)
        whole = rows[-1]["ours, ms a frame"]
        keep({"program": "test.py, PNG files, six measures", "frames/s": 1000 / whole, "how": how})
        model = network.make_model(device, size, **TINY if tiny else {})
        model = model.bfloat16() if precision == "bfloat16" else model
        pictures, overlay = Source(video.frames[0].parent), Source(folder / "images_overlay.mp4")
        for source, kind in ((pictures, "png"), (pictures, "overlay"), (overlay, "png")):
            what = f"predict.py, {'a video file' if source is overlay else 'PNG files'} to {kind}"
            if av is None and (kind == "overlay" or source is overlay):
                keep({"program": what, "frames/s": None, "how": "not run: PyAV is not installed"})
                continue
            predict = functools.partial(predict_source, model, source, folder, [kind],
                                        EngineOptions(batch_size=batch))
            keep({"program": what, "frames/s": frames / median_seconds(predict, 1, device, warm_up=1), "how": how})
        read_clips(folder / "clips", tiny, size, keep)
    fastest = max((row["clips/s"] for row in stored_rows(out, "step") if row.get("clips/s")), default=None)
    keep({"clips from": "what the fastest training step takes", "workers": None, "clips/s": fastest})


def read_clips(folder: Path, tiny: bool, size: tuple[int, int], keep: Keep) -> None:
    """Clips a second from PNG files and from prepared frames, by several numbers of loader processes."""
    seconds, length, frame_size = (0.2, 33, (36, 64)) if tiny else (3.0, 64, (360, 640))
    videos = clips.make_videos(folder / "set", 2, length, frame_size)
    prepare = functools.partial(prepare_frame, size=size)
    cache = FrameCache(folder / "cache", prepare)
    cache.build(videos)
    for source, own in (("PNG files", None), ("prepared frames", cache)):
        for workers in (2,) if tiny else (4, 8, 16):
            dataset = ClipDataset(videos * 200, prepare, size=size, every=1, cache=own)
            loader = clip_loader(dataset, 1, workers, shuffle=False)
            batches = iter(loader)
            for _ in range(workers * loader.prefetch_factor):  # asked for before the clock starts
                next(batches)
            started, read = time.perf_counter(), 0
            while (spent := time.perf_counter() - started) < seconds:
                next(batches)
                read += 1
            keep({"clips from": source, "workers": workers, "clips/s": read / spent})
            del batches, loader  # which ends its processes


# 6. Where the time goes

OTHERS = "element by element, and others"
KINDS = {  # by parts of operators' names, the first fit
    "resizing": "upsample", "attention": "attention|softmax|bmm", "convolutions": "conv|cudnn",
    "linear layers": "addmm|aten::linear|aten::mm$", "norms": "_norm",
    "copies": "copy|clone|contiguous|aten::cat|roll|index|_pad|fill|zero|gather|embedding", OTHERS: "",
}


def profiled(device: torch.device, tiny: bool, out: Path, keep: Keep) -> None:
    """How much of a forward pass and of a step is attention, linear layers, copies, gaps; and the costliest kernels."""
    size, precision, on_gpu = TINY_SIZE if tiny else SIZE, network.precisions(device)[-1], device.type == "cuda"
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    for call_name, prepare, usual in (("forward", network.our_forward, 8), ("step", network.our_step, 4)):
        batch = 1 if tiny else best_batch(stored_rows(out, call_name), usual)
        call = prepare(size, device, batch, precision, **TINY if tiny else {})
        of = f"{call_name}, {precision}, batch {batch}"
        whole = 1000 * median_seconds(call, 1 if tiny else 3, device)
        with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as record:
            call()
            synchronise(device)
        events, spent = record.key_averages(), dict.fromkeys(KINDS, 0.0)
        for event in events:
            if event.key.startswith("aten::"):  # operators; kernels are listed beside them
                kind = next(kind for kind, parts in KINDS.items() if re.search(parts, event.key))
                spent[kind] += getattr(event, time_of) / 1000
        spent["gaps between kernels"] = max(0.0, whole - sum(spent.values()))
        for kind, milliseconds in sorted(spent.items(), key=lambda item: -item[1]):
            keep({"of": of, "kind": kind, "ms": milliseconds, "share": milliseconds / whole})
        kernels = [event for event in events if event.device_type == (DeviceType.CUDA if on_gpu else DeviceType.CPU)]
        for event in sorted(kernels, key=lambda event: -getattr(event, time_of))[:25]:
            keep({"of": of, "kernel": event.key[:160].replace("|", "\\|"), "calls": event.count,
                  "ms": getattr(event, time_of) / 1000})


# 7. The other networks

def networks(device: torch.device, tiny: bool, out: Path, keep: Keep) -> None:
    """Milliseconds a map of every other network, at its own size."""
    precision = default_precision(device)
    for name in list(MODELS)[1:]:
        config = {"frame_size": (32, 64), **TINY_NETWORKS.get(name, {})} if tiny else {}
        with torch.device(device):
            model = MODELS[name](**config).eval()
        model = model.bfloat16() if precision == "bfloat16" else model
        height, width = model.config["frame_size"] or model.nominal_size
        for batch in (1,) if tiny else (1, 8):
            maps, call = of_batch(model, batch)
            seconds, peak = measured(call, device, 1 if tiny else 7)
            keep({"network": type(model).__name__, "frames": f"{height} x {width}", "precision": precision,
                  "maps at once": maps, "ms a map": 1000 * seconds / maps, "maps/s": maps / seconds,
                  "peak GB in all": peak})
        del model, call


def of_batch(model: nn.Module, batch: int) -> tuple[int, Callable[[], object]]:
    """A call of so many clips or groups, or frames of a network that carries a state; and how many maps it gives."""
    noise = [torch.randn_like(x) for x in model.blank()]
    if model.carries_state:
        clip = noise[0].expand(-1, -1, batch, -1, -1).contiguous()
        return batch, torch.no_grad()(lambda: model.maps(clip))
    inputs = [torch.cat([x] * batch) for x in noise]
    return batch * model.maps_per_forward, torch.no_grad()(lambda: model(*inputs))


STAGES = {"machine": machine, "checks": checks, "forward": forward, "step": step, "evaluation": evaluate,
          "profile": profiled, "networks": networks}


def main(args: argparse.Namespace) -> None:
    float32_is_float32()
    rows = []

    def keep(row: dict) -> None:
        rows.append(row)
        print(*row.values(), sep=", ", flush=True)
        utils.write_json(args.out, {"rows": rows})

    device = select_device(args.device)
    device = torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" else device
    STAGES[args.stage](device, args.tiny, args.out, keep)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file for the rows")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default: cuda)")
    parser.add_argument("--tiny", action=argparse.BooleanOptionalAction, default=False, help="(default: off)")
    main(parser.parse_args())
