"""Whether train.py and predict.py need more memory the longer they run: exit code 1 if they do. Prints the slopes.

    PYTHONPATH=.:data .venv/bin/python tests/long/memory.py                  # 2000 steps, 20000 frames: 6 minutes on 2 CPU cores

A tiny network is trained on generated videos, with loader processes, and predicts a generated video of many frames to PNG. Memory is
noted every half second, that of loader processes included; the slope is of a straight line through the second half.
"""
import argparse
import itertools
import sys
import tempfile
import threading
import time
from pathlib import Path

import make_sample
import numpy as np
import torch

import predict
import train
from prediction.outputs import write_map
from utils import at_least

FLAGS = ("--frame-size 32 64 --width 16 --embed-dim 12 --depths 1 1 1 1 --num-heads 1 1 2 2 --encoder-weights none --workers 2 --device cpu "
         "--no-tensorboard --val-every 100").split()
ALLOWED = 20                                                               # MB of growth over the second half: what allocators do


def resident(process: str = "self") -> float:
    """MB that a process holds alone or shares, each page counted once among those who share it; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{process}/smaps_rollup").read_text().split("Pss:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def held() -> float:
    """MB of this process and its loader processes."""
    children = Path("/proc/self/task").glob("*/children")
    return resident() + sum(resident(child) for path in children for child in path.read_text().split())


class Watch:
    """Notes memory twice a second while a block runs."""

    def __enter__(self) -> "Watch":
        self.notes, self.stop = [], threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.stop.wait(0.5):
            self.notes.append((time.monotonic(), held()))

    def __exit__(self, *unused) -> None:
        self.stop.set()
        self.thread.join()

    def report(self, what: str, count: int) -> bool:
        """Print the slope over the second half; returns whether it is flat."""
        late = np.array(self.notes[len(self.notes) // 2:])
        slope = np.polyfit(late[:, 0], late[:, 1], 1)[0]
        growth = slope * (late[-1, 0] - late[0, 0])
        print(f"{what}: {count} in {self.notes[-1][0] - self.notes[0][0]:.0f} s; {late[0, 1]:.0f} MB half way, {late[-1, 1]:.0f} MB at the end, "
              f"slope {1000 * growth / (count / 2):+.2f} MB a thousand")
        return growth < ALLOWED


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_sample.main(make_sample.arguments().parse_args(f"--out {folder / 'data'} --train-videos 20 --val-videos 2 --frames 36 --size 45 80".split()))
        flags = [*FLAGS, "--data", str(folder / "data"), "--run-dir", str(folder / "run"), "--epochs", str(-(-args.steps // 20))]
        with Watch() as training:
            train.main(train.arguments().parse_args(flags))
        predictor = predict.Predictor(folder / "run" / "RecSalNet.pth", device="cpu")
        noise = np.random.default_rng(0).integers(0, 256, (45, 160, 3), np.uint8)
        frames = (noise[:, n % 80:n % 80 + 80] for n in itertools.count())
        with Watch() as predicting, torch.no_grad():
            for saliency in predictor.predict_frames(itertools.islice(frames, args.frames)):
                write_map(folder / "map.png", torch.from_numpy(saliency))
    flat = [training.report("training steps", args.steps), predicting.report("predicted frames", args.frames)]
    sys.exit(0 if all(flat) else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=at_least(100), default=2000, help="of training (default: 2000)")
    parser.add_argument("--frames", type=at_least(100), default=20000, help="to predict (default: 20000)")
    main(parser.parse_args())
