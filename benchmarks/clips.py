"""How many clips a second training can read: decoded from PNG, and from prepared frames, in the same run.

    python -m benchmarks.clips
    python -m benchmarks.clips --workers 8 --videos 64 --frames 400  # more than the page cache holds: a disk's rate

Generated videos in DHF1K's tree and size, 360 x 640, textured so that their PNG files are as large as those of real
video. A clip is what training asks for: 32 frames at the network's size, with the density and the fixation map of the
last. Both ways give the same tensors (checked on every clip of one epoch before anything is timed). Medians over
epochs; the first, which fills caches, does not count.
"""
import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.timing import report
from dataloader import ClipDataset, clip_loader
from saliency_model import prepare_frame
from utils import at_least, keep_freed_memory
from videos.prepared import FrameCache
from videos.video import Video, find_videos


def make_videos(root: Path, videos: int, frames: int, size: tuple[int, int]) -> list[Video]:
    """Moving textures as PNG, each frame with a blob of density and 200 fixations."""
    generator = np.random.default_rng(0)
    for number in tqdm(range(1, videos + 1), desc="making videos", unit="video", leave=False, disable=None):
        texture = generator.integers(0, 256, (size[0] // 8, size[1] // 4, 3), np.uint8)
        texture = cv2.resize(texture, (2 * size[1], size[0]), interpolation=cv2.INTER_CUBIC)
        places = np.clip(generator.normal((0.5, 0.5), 0.1, (200, 2)) * size, 0, np.array(size) - 1).astype(int)
        fixations = np.zeros(size, np.uint8)
        fixations[places[:, 0], places[:, 1]] = 255
        density = cv2.GaussianBlur(fixations.astype(np.float32), (0, 0), 12)
        for frame in range(frames):
            picture = texture[:, frame:frame + size[1]] // 2 + generator.integers(0, 2, (*size, 3), np.uint8)
            for kind, content in (("images", picture), ("maps", (density / density.max() * 255).astype(np.uint8)),
                                  ("fixation", fixations)):
                path = root / "train" / f"{number:04d}" / kind / f"{frame + 1:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(path)
    return find_videos(root, "train")


def epoch_seconds(dataset: ClipDataset, workers: int, epochs: int) -> float:
    """Median time of an epoch's clips, one of each video, through training's loader, in seconds."""
    loader, times = clip_loader(dataset, 1, workers, shuffle=True), []
    for epoch in range(epochs + 1):
        loader.sampler.epoch = epoch
        start = time.perf_counter()
        clips = sum(batch["clip"].shape[0] for batch in loader)
        times.append(time.perf_counter() - start)
        assert clips == len(dataset)
    return statistics.median(times[1:])


def check_same(decoded: ClipDataset, prepared: ClipDataset) -> None:
    """Raise an AssertionError unless both give the same tensors."""
    for index in range(len(decoded)):
        a, b = decoded[0, index], prepared[0, index]
        assert all(torch.equal(a[name], b[name]) for name in ("clip", "density", "fixations")), f"clip {index} differs"


def measure(videos: list[Video], folder: Path, size: tuple[int, int], workers: int, epochs: int) -> list[dict]:
    """A row for decoding, and one for prepared frames."""
    prepare = functools.partial(prepare_frame, size=size)
    cache, start = FrameCache(folder, prepare), time.perf_counter()
    cache.build(videos, max(1, workers))
    built = time.perf_counter() - start
    decoded, prepared = (ClipDataset(videos, prepare, size=size, flip=True, cache=c) for c in (None, cache))
    check_same(decoded, prepared)
    frames = [path for video in videos for path in video.frames]
    rows = []
    for source, dataset, files, made in (("PNG, 360 x 640", decoded, frames, None),
                                         (f"prepared, {size[0]} x {size[1]}", prepared, cache.files.values(), built)):
        rate = len(videos) / epoch_seconds(dataset, workers, epochs)
        rows.append({"clips from": source, "clips/s": rate, "times PNG": rate / rows[0]["clips/s"] if rows else 1.0,
                     "KB a frame": sum(path.stat().st_size for path in files) / len(frames) / 1e3,
                     "s to prepare": made})
    return rows


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=at_least(1), default=12, help="one clip each in an epoch (default: 12)")
    parser.add_argument("--frames", type=at_least(32), default=64, help="of each video (default: 64)")
    parser.add_argument("--frame-size", type=at_least(32), nargs=2, default=[224, 384], metavar=("H", "W"),
                        help="size the network sees, in pixels (default: 224 384)")
    parser.add_argument("--workers", type=at_least(0), default=0,
                        help="processes that decode; 0: none besides this one (default: 0)")
    parser.add_argument("--epochs", type=at_least(1), default=5, help="of which the median counts (default: 5)")
    parser.add_argument("--folder", type=Path, help="where to put the files, on the disk to be measured (default: the "
                                                    "system's for temporary files)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/clips.json"),
                        help="JSON file (default: results/benchmarks/clips.json)")
    return parser


def main(args: argparse.Namespace) -> None:
    keep_freed_memory()  # as train.py does
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        videos = make_videos(Path(folder) / "set", args.videos, args.frames, (360, 640))
        rows = measure(videos, Path(folder) / "cache", tuple(args.frame_size), args.workers, args.epochs)
    report(args.out, rows, vars(args), torch.device("cpu"),
           f"{args.videos} videos of {args.frames} frames, {args.workers} workers, clips of 32 frames")


if __name__ == "__main__":
    main(arguments().parse_args())
