"""Whether an hour of video takes more memory than its first minutes: exit code 1 if it does.

    PYTHONPATH=. .venv/bin/python tests/long/hour_of_video.py                # 90000 frames: 20 minutes on 2 CPU cores

The engine, its threads and the writing of PNG files are the real ones; the network costs nothing.
"""
import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.evaluation import Costless
from model import RecSalNet
from predict import Later, at_least, keep_freed_memory, saliency_maps, write_map

TOLERANCE = 20                                                             # MB, for what allocators do


def frames(count: int) -> Iterator[np.ndarray]:
    """Noise that moves, (360, 640, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (360, 1280, 3), np.uint8)
    yield from (noise[:, number % 640:number % 640 + 640].copy() for number in range(count))


def resident() -> float:
    """MB of memory that this process holds."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def main(args: argparse.Namespace) -> None:
    keep_freed_memory()
    model, held = Costless(RecSalNet()), []
    with tempfile.TemporaryDirectory() as folder, Later() as later:
        maps = saliency_maps(model, frames(args.frames), batch_size=args.batch_size)
        for number, saliency in enumerate(tqdm(maps, total=args.frames, unit="frame", mininterval=10), start=1):
            later(write_map, Path(folder) / f"{number % 100:04d}.png", saliency)
            if number % (args.frames // 10) == 0:
                held.append(resident())
    print(f"{args.frames} frames, PyTorch {torch.__version__}: MB held after each tenth: {', '.join(f'{megabytes:.0f}' for megabytes in held)}")
    if held[9] > held[4] + TOLERANCE:
        sys.exit(f"memory grew by {held[9] - held[4]:.0f} MB in the second half, {TOLERANCE} are allowed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=at_least(10), default=90000, help="of the video (default: 90000, an hour at 25 a second)")
    parser.add_argument("--batch-size", type=at_least(1), default=4, help="clips computed at once (default: 4)")
    main(parser.parse_args())
