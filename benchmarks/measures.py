"""How long the six measures of a frame take, beside a plain formulation of each in the same run.

    python -m benchmarks.measures
    python -m benchmarks.measures --device cuda --batch-size 16

The plain formulation is what circulates: NumPy in float64, a loop over the fixations for AUC-Judd, and a loop over 100
random splits and 11 thresholds for shuffled AUC. On CUDA the measures run under PyTorch's synchronisation check, which
raises if one of them makes the host wait.
"""
import argparse
import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import machine, median_seconds, write_rows
from loss import EPS, MEASURES, measures
from utils import at_least, keep_freed_memory, select_device

# The plain formulation: one map, (H, W) float64 arrays.

def plain_cc(saliency, density):
    return np.corrcoef(saliency.ravel(), density.ravel())[0, 1]


def plain_sim(saliency, density):
    p, d = ((x - x.min()) / (x.max() - x.min()) for x in (saliency, density))
    return np.minimum(p / p.sum(), d / d.sum()).sum()


def plain_kl(saliency, density):
    p, d = saliency / saliency.sum(), density / density.sum()
    return (d * np.log(EPS + d / (p + EPS))).sum()


def plain_nss(saliency, fixations):
    return ((saliency - saliency.mean()) / saliency.std(ddof=1))[fixations].mean()


def plain_auc_j(saliency, fixations):
    """Without ties: one pass over the whole map for each fixation."""
    thresholds, others = np.sort(saliency[fixations])[::-1], saliency.size - fixations.sum()
    tp = [0.0, *(np.arange(1, len(thresholds) + 1) / len(thresholds)), 1.0]
    fp = [0.0, *(((saliency >= t).sum() - i) / others for i, t in enumerate(thresholds, start=1)), 1.0]
    return trapezoid(tp, fp)


def plain_s_auc(saliency, fixations, other_fixations, splits=100):
    """100 random draws from the other frames' fixations, as the benchmark's code."""
    normalised = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    values, others = normalised[fixations], normalised[other_fixations]
    generator, areas = np.random.default_rng(0), []
    for _ in range(splits):
        drawn = generator.choice(others, size=min(len(values), len(others)), replace=False)
        thresholds = np.arange(0, max(values.max(), drawn.max()) + 1e-12, 0.1)[::-1]
        tp = [0.0, *((values >= t).mean() for t in thresholds), 1.0]
        fp = [0.0, *((drawn >= t).mean() for t in thresholds), 1.0]
        areas.append(trapezoid(tp, fp))
    return np.mean(areas)


def trapezoid(y, x):
    y, x = np.asarray(y), np.asarray(x)
    return ((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum()


PLAIN = {"auc_j": plain_auc_j, "sim": plain_sim, "s_auc": plain_s_auc, "cc": plain_cc, "nss": plain_nss, "kl": plain_kl}


# The comparison

def make_frames(size: tuple[int, int], fixations: int, batch_size: int) -> dict[str, torch.Tensor]:
    """Smooth random maps without ties, and fixations where the density is high."""
    generator = torch.Generator().manual_seed(0)
    coarse = [torch.rand(batch_size, 1, 9, 16, generator=generator, dtype=torch.float64).pow(3) for _ in range(2)]
    saliency, density = (torch.nn.functional.interpolate(x, size, mode="bicubic", antialias=True)[:, 0].clamp(min=0)
                         for x in coarse)
    saliency = saliency + 1e-6 * torch.rand(saliency.shape, generator=generator, dtype=torch.float64)
    maps = {"saliency": saliency, "density": (density / density.amax((1, 2), keepdim=True) * 255).round() / 255}
    for name, count in (("fixations", fixations), ("other_fixations", 10 * fixations)):
        likely = density if name == "fixations" else torch.ones_like(density)
        places = likely.flatten(1).multinomial(count, generator=generator)
        fixated = torch.zeros(batch_size, size[0] * size[1], dtype=torch.bool).scatter_(1, places, True)
        maps[name] = fixated.view(batch_size, *size)
    return maps


@contextlib.contextmanager
def no_host_synchronisation(device: torch.device) -> Iterator[None]:
    """On CUDA, whatever makes the host wait raises."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def compare(frames: dict[str, torch.Tensor], device: torch.device, repeats: int) -> list[dict]:
    """A row for each measure and one for all: {"measure", "plain_ms", "ours_ms", "ratio", "difference"}, per frame."""
    plain = {name: x[0].numpy() for name, x in frames.items()}
    # Fixations stay on the CPU, as in test.py.
    ours = {name: x if x.dtype == torch.bool else x.float().to(device) for name, x in frames.items()}
    size, rows = len(frames["saliency"]), []
    for name, plain_measure in PLAIN.items():
        measure = MEASURES[name]
        call, plain_call = (functools.partial(f, maps["saliency"], *(maps[target] for target in measure.targets))
                            for f, maps in ((measure.function, ours), (plain_measure, plain)))
        with no_host_synchronisation(device):
            result = call()
        rows.append({"measure": measure.label, "plain_ms": 1000 * median_seconds(plain_call, repeats, device),
                     "ours_ms": 1000 * median_seconds(call, repeats, device) / size,
                     "difference": abs(result[0].item() - plain_call())})
    with no_host_synchronisation(device):
        measures(**ours)
    rows.append({"measure": "all six", "plain_ms": sum(row["plain_ms"] for row in rows),
                 "difference": max(row["difference"] for row in rows),
                 "ours_ms": 1000 * median_seconds(lambda: measures(**ours), repeats, device) / size})
    return [{**row, "ratio": row["plain_ms"] / row["ours_ms"]} for row in rows]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=at_least(2), nargs=2, default=[360, 640], metavar=("H", "W"),
                        help="of the maps, in pixels (default: 360 640)")
    parser.add_argument("--fixations", type=at_least(1), default=200,
                        help="a frame; ten times as many of other frames (default: 200)")
    parser.add_argument("--batch-size", type=at_least(1), default=1, help="frames measured at once (default: 1)")
    parser.add_argument("--repeats", type=at_least(1), default=21, help="of which the median counts (default: 21)")
    parser.add_argument("--threads", type=at_least(1), default=1, help="CPU threads of PyTorch (default: 1)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="cpu",
                        help="where our measures run (default: cpu)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/measures.json"),
                        help="JSON file (default: results/benchmarks/measures.json)")
    return parser


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    device = select_device(args.device)
    keep_freed_memory()
    rows = compare(make_frames(tuple(args.size), args.fixations, args.batch_size), device, args.repeats)
    print("| measure | plain, ms | ours, ms | ratio | difference of the results |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['measure']} | {row['plain_ms']:.2f} | {row['ours_ms']:.2f} | {row['ratio']:.1f} | "
              f"{row['difference']:.1e} |")
    write_rows(args.out, rows, vars(args), device)
    print(f"per frame of {args.size[0]} x {args.size[1]}, {args.fixations} fixations, batch {args.batch_size}, "
          f"float32, median of {args.repeats}; plain: NumPy on the CPU; ours: {device.type} ({machine(device)}); "
          f"written to {args.out}")


if __name__ == "__main__":
    main(arguments().parse_args())
