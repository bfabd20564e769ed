"""How fast the network computes and learns, and what memory it takes, beside the plain formulation in the same run.

    python -m benchmarks.network
    python -m benchmarks.network --device cuda --batch-sizes 1 2 4 8 16

Forward passes and whole training steps (forward, backward, Adam) on random clips. The plain formulation (`plain.py`) is
float32, one clip at a time; its weights are ours. Stochastic depth is off on both sides. FLOP are counted on the plain
formulation, multiply and add apart, and their rate is given as a share of a matrix product's, measured here too.
"""
import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import utils
from baselines.loading import compile_network
from benchmarks import plain, timing
from benchmarks.timing import median_seconds, peak_memory, report
from loss import objective
from model import RecSalNet
from utils import PRECISIONS, at_least, float32_is_float32, keep_freed_memory, precision_context, select_device

PLAIN = "plain float32"
LOSS = RecSalNet.recipe.loss_weights


def make_clip(batch_size: int, size: tuple[int, int], device: torch.device) -> Tensor:
    return torch.randn(batch_size, 3, 32, *size, generator=torch.Generator().manual_seed(0)).to(device)


def make_model(device: torch.device, size: tuple[int, int], **config) -> RecSalNet:
    torch.manual_seed(0)
    with torch.device(device):  # on a GPU, random weights take no time
        return RecSalNet(frame_size=size, drop_path=0.0, **config).eval()


def precisions(device: torch.device) -> tuple[str, ...]:
    """Those that are measured on a device: without bfloat16 on a CPU that has no instructions for it."""
    return PRECISIONS if utils.computes_bfloat16(device) else ("float32",)


# What is timed: each takes what it needs and returns a call.

def plain_forward(size: tuple[int, int], device: torch.device, batch_size: int = 1) -> Callable[[], Tensor]:
    weights, clip = make_model(device, size).state_dict(), make_clip(1, size, device)
    return torch.no_grad()(lambda: plain.forward(weights, clip))


def our_forward(size: tuple[int, int], device: torch.device, batch_size: int, precision: str,
                compiler: str | None = None, **config) -> Callable[[], Tensor]:
    model, clip = make_model(device, size, **config), make_clip(batch_size, size, device)
    if precision == "bfloat16":
        model, clip = model.bfloat16(), clip.bfloat16()
    if compiler:
        compile_network(model, compiler)
    return torch.no_grad()(lambda: model(clip))


def plain_step(size: tuple[int, int], device: torch.device, batch_size: int = 1) -> Callable[[], Tensor]:
    model = make_model(device, size)
    weights = {**dict(model.state_dict()),
               **{name: entry for name, entry in model.state_dict(keep_vars=True).items() if entry.requires_grad}}
    optimizer = torch.optim.Adam([w for w in weights.values() if w.requires_grad], lr=1e-5, foreach=False)
    return functools.partial(step, functools.partial(plain.forward, weights), optimizer, make_clip(1, size, device),
                             "float32")


def our_step(size: tuple[int, int], device: torch.device, batch_size: int, precision: str, checkpointing: bool = False,
             compiler: str | None = None, **config) -> Callable[[], Tensor]:
    model = make_model(device, size, **config).train()
    model.activation_checkpointing = checkpointing
    if compiler:
        compile_network(model, compiler)
    optimizer = torch.optim.Adam(model.parameter_groups(1e-5), fused=True)
    return functools.partial(step, model, optimizer, make_clip(batch_size, size, device), precision)


def step(forward: Callable[[Tensor], Tensor], optimizer: torch.optim.Optimizer, clip: Tensor, precision: str) -> Tensor:
    """One training step on random targets; returns the map."""
    shape = (len(clip), *clip.shape[-2:])
    density, fixations = torch.rand(shape, device=clip.device), torch.rand(shape) < 1e-3
    with precision_context(precision, clip.device):
        saliency = forward(clip)
    optimizer.zero_grad(set_to_none=True)
    objective(saliency.float(), density, fixations, LOSS)["loss"].backward()
    optimizer.step()
    return saliency


# The comparison

def measure_memory(tasks: list[tuple], size: tuple[int, int], batch_sizes: list[int],
                   device: torch.device) -> dict[tuple, float | None]:
    """(what, variant, batch size) -> MB; measured before anything is timed, while this process is small."""
    peak = lambda prepare, batch_size: peak_memory(functools.partial(prepare, size, device, batch_size), device)
    return {(what, variant, batch_size): unless_too_large(functools.partial(peak, prepare, batch_size))
            for what, plain_call, variants in tasks for variant, prepare in {PLAIN: plain_call, **variants}.items()
            for batch_size in (batch_sizes if variant != PLAIN else [1])}


def unless_too_large(measure: Callable[[], float]) -> float | None:
    """What `measure` returns; None where a GPU has not enough memory for it."""
    try:
        return measure()
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None


def measure_plain(what: str, prepare: Callable, size: tuple[int, int], repeats: int, device: torch.device,
                  rate: float) -> dict:
    """The row that the others are compared with: the plain formulation in a process whose memory nobody has tuned."""
    call = prepare(size, device)
    with FlopCounterMode(display=False) as counter:
        call()
    return row(what, PLAIN, 1, None, median_seconds(call, repeats, device, warm_up=1), counter.get_total_flops(), rate)


def compare(plain_row: dict, variants: dict[str, Callable], size: tuple[int, int], batch_sizes: list[int], repeats: int,
            device: torch.device,
            rates: dict[str, float]) -> Iterator[dict]:
    """A row for each variant and batch size that the memory is enough for, per clip."""
    plain_seconds = plain_row["s per clip"]
    flop = plain_row["GFLOP/s"] * 1e9 * plain_seconds
    for variant, prepare in variants.items():
        for batch_size in batch_sizes if not variant.startswith(PLAIN) else [1]:
            timed = lambda p=prepare, b=batch_size: median_seconds(p(size, device, b), repeats, device, warm_up=1)
            seconds = unless_too_large(timed)
            if seconds is not None:
                rate = rates["bfloat16" if "bfloat16" in variant else "float32"]
                yield row(plain_row["what"], variant, batch_size, plain_seconds, seconds / batch_size, flop, rate)


def row(what: str, variant: str, batch_size: int, plain_seconds: float | None, seconds: float, flop: float,
        rate: float) -> dict:
    return {"what": what, "variant": variant, "batch": batch_size, "s per clip": seconds,
            "times plain": (plain_seconds or seconds) / seconds,
            "GFLOP/s": flop / seconds / 1e9, "of matrix product": flop / seconds / rate}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=["forward", "step"], nargs="+", default=["forward", "step"],
                        help="(default: forward step)")
    parser.add_argument("--size", type=at_least(32), nargs=2, default=[224, 384], metavar=("H", "W"),
                        help="of the frames, in pixels (default: 224 384)")
    parser.add_argument("--batch-sizes", type=at_least(1), nargs="+", default=[1],
                        help="clips at once, for ours (default: 1)")
    parser.add_argument("--repeats", type=at_least(1), default=5, help="of which the median counts (default: 5)")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True,
                        help="measure peak memory too (default: on)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto",
                        help="(default: auto: CUDA, else MPS, else CPU)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/network.json"),
                        help="JSON file (default: results/benchmarks/network.json)")
    return parser


def main(args: argparse.Namespace) -> None:
    device, size = select_device(args.device), tuple(args.size)
    float32_is_float32()
    measured = precisions(device)
    if measured != PRECISIONS:
        print(utils.NO_BFLOAT16)
    forwards = {precision: functools.partial(our_forward, precision=precision) for precision in measured}
    steps = {precision: functools.partial(our_step, precision=precision) for precision in measured}
    steps[f"{measured[-1]}, checkpointing"] = functools.partial(our_step, precision=measured[-1], checkpointing=True)
    tasks = [task for task in (("forward", plain_forward, forwards), ("step", plain_step, steps))
             if task[0] in args.what]
    peaks = measure_memory(tasks, size, args.batch_sizes, device) if args.memory else {}
    rates = {name: timing.matrix_rate(getattr(torch, name), device) for name in measured}
    plain_rows = [measure_plain(what, plain_call, size, args.repeats, device, rates["float32"])
                  for what, plain_call, _ in tasks]
    keep_freed_memory()  # as our programs do
    rows = []
    for plain_row, (_, plain_call, variants) in zip(plain_rows, tasks):
        variants = {f"{PLAIN}, freed memory kept": plain_call, **variants}
        rows += [plain_row, *compare(plain_row, variants, size, args.batch_sizes, args.repeats, device, rates)]
    rows = [{**row, "peak MB above weights": peaks.get((row["what"], row["variant"], row["batch"]))} for row in rows]
    products = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    report(args.out, rows, vars(args), device,
           f"frames of {size[0]} x {size[1]}, median of {args.repeats}; matrix products: {products}")


if __name__ == "__main__":
    main(arguments().parse_args())
