"""Whether an hour of video takes more memory than its first minutes: exit code 1 if it does.

    PYTHONPATH=. .venv/bin/python tests/long/hour_of_video.py                # 90000 frames: 30 minutes on 2 CPU cores

A video file of an hour, with sound, is made and predicted to an overlay and a contact sheet. Decoding, the engine, its threads
and encoding are the real ones; the network costs nothing.
"""
import argparse
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.evaluation import Costless
from model import RecSalNet
from predict import predict_source
from prediction.sources import Source
from saliency_model import EngineOptions
from utils import at_least, keep_freed_memory

TOLERANCE = 50                                                             # MB, for what allocators do


def make_video(path: Path, frames: int) -> None:
    """Noise that moves, 360 x 640, 25 frames a second, and silence."""
    noise = np.random.default_rng(0).integers(0, 256, (360, 1280, 3), np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "40"})
        video.height, video.width, video.pix_fmt = 360, 640, "yuv420p"
        sound = container.add_stream("aac", rate=8000)
        for number in tqdm(range(frames), desc="making the video", unit="frame", mininterval=10):
            shown = np.ascontiguousarray(noise[:, number % 640:number % 640 + 640])
            container.mux(video.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts, silence.time_base = 8000, 320 * number, Fraction(1, 8000)
            container.mux(sound.encode(silence))
        for stream in (video, sound):
            container.mux(stream.encode(None))


def resident() -> float:
    """MB of memory that this process holds."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def watch(held: list[tuple[float, float]], stop: threading.Event) -> None:
    """Note time and memory every second."""
    while not stop.wait(1.0):
        held.append((time.monotonic(), resident()))


def main(args: argparse.Namespace) -> None:
    keep_freed_memory()
    model, held, stop = Costless(RecSalNet()), [], threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        make_video(Path(folder) / "hour.mp4", args.frames)
        threading.Thread(target=watch, args=(held, stop), daemon=True).start()
        times = predict_source(model, Source(Path(folder) / "hour.mp4"), Path(folder) / "out", ["overlay", "sheet"], EngineOptions(batch_size=args.batch_size))
        stop.set()
    tenths = [max(megabytes for _, megabytes in part) for part in np.array_split(held, 10)]
    print(f"{len(times)} frames, PyTorch {torch.__version__}: at most MB in each tenth of the time: {', '.join(f'{m:.0f}' for m in tenths)}")
    if tenths[9] > tenths[1] + TOLERANCE:
        sys.exit(f"memory grew by {tenths[9] - tenths[1]:.0f} MB after the first fifth, {TOLERANCE} are allowed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=at_least(100), default=90000, help="of the video (default: 90000, an hour at 25 a second)")
    parser.add_argument("--batch-size", type=at_least(1), default=4, help="clips computed at once (default: 4)")
    main(parser.parse_args())
