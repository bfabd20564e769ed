"""Clips for training and validation, from the videos of a dataset: the dataset, its samplers, and its loaders.

How videos are found and read is in videos/; the trees that are recognised are in data/README.md.

    python dataloader.py check data/DHF1K           # everything that is wrong with a dataset, at once
"""
import argparse
import contextlib
import functools
import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

import utils
from videos.annotation import read_density, read_fixations, read_mask
from videos.check import check_dataset, print_check
from videos.images import read_frame
from videos.prepared import FrameCache
from videos.resizing import move_fixations, resize_density, resize_mask
from videos.splits import DATASETS
from videos.video import PROBLEMS, Video, check_same_size


class ClipDataset(Dataset):
    """Clips with the density and fixation map of their last frame.

    Item (epoch, index) is a function of (seed, epoch, index) alone, so an interrupted run can be resumed without any
    state of the loader. A clip of 32 frames costs the decoding of 32 frames, one density map and one fixation map.

    Args:
        videos: from `find_videos`, each with an annotated frame.
        prepare: frame (H, W, 3) uint8 -> (3, h, w) uint8; a model's `prepare`.
        clip_len: frames in a clip; at the start of a video the first frame is repeated in front.
        frame_stride: frames of the video from one frame of a clip to the next.
        size: (H, W) of the maps; None leaves each as it is on disk (for batches of 1).
        every: None for one random clip per video and epoch (training); a number for all clips that end `every` frames
            apart, the first at frame `clip_len` (validation).
        flip: mirror half of the clips, together with their annotation.
        seed: of all random choices.
        skip_bad: whether `readable` leaves out unreadable clips instead of stopping.
        cache: prepared frames on disk, made by the same `prepare`; videos that it does not hold are decoded.
        flow: pictures of the frames' optical flow, a `FlowSource`; items then have "flow" too, prepared as frames are.
        masks: whether the annotation is masks of salient objects instead of density and fixation maps.
        group: batches are filled up to multiples of this, by repeating their own samples.
    """

    def __init__(self, videos: list[Video], prepare: Callable[[np.ndarray], Tensor], clip_len: int = 32,
                 frame_stride: int = 1, size: tuple[int, int] | None = None, every: int | None = None,
                 flip: bool = False, seed: int = 0, skip_bad: bool = False, cache: FrameCache | None = None, flow=None,
                 masks: bool = False, group: int = 1) -> None:
        if flip and flow is not None:
            raise ValueError("clips with pictures of optical flow cannot be mirrored (--flip): "
                             "a mirrored picture shows another flow")
        self.videos, self.prepare, self.size, self.seed, self.cache = videos, prepare, size, seed, cache
        self.flow, self.masks, self.group = flow, masks, group
        self.clip_len, self.frame_stride, self.flip, self.skip_bad = clip_len, frame_stride, flip, skip_bad
        self.reading: Reading | None = None            # set where loader processes read
        self.span = (clip_len - 1) * frame_stride + 1  # frames of the video that a clip covers
        # (video, indices of possible last frames): one item a video in training, one a clip in validation.
        self.items = [(video, ends) for video in videos for ends in self.last_frames(video, every)]

    def last_frames(self, video: Video, every: int | None) -> list[list[int]]:
        """The possible last frames of each of a video's items: of whole clips, if there are any."""
        annotated = video.masked() if self.masks else video.annotated()
        if every is None:
            return [[i for i in annotated if i >= self.span - 1] or annotated[-1:]]
        chosen = set(range(self.span - 1, len(video.frames), every))
        return [[i] for i in annotated if i in chosen] or [annotated[-1:]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """One sample.

        Args:
            key: (epoch, index).

        Returns:
            clip (3, clip_len, h, w) uint8, for the model's `normalise`; flow of the same shape, if wanted;
            density (H, W) float32 in [0, 1]; fixations (H, W) bool; video and frame: names. With `masks`, density is
            the mask and there are no fixations. In a video that has only density maps, no pixel is fixated.
            Where a file cannot be read, {"skipped": reason}: an exception from a loader process would lose its type.
            `readable` raises it.
        """
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        video, ends = self.items[index]
        last, mirrored = int(rng.choice(ends)), self.flip and rng.random() < 0.5
        try:
            return self.sample(video, last, mirrored)
        except (OSError, ValueError) as error:
            return {"skipped": str(error)}

    def read(self, reader: Callable[[Path], np.ndarray], path: Path) -> np.ndarray:
        """Read a file after noting its name in `reading`: it may be what kills the loader process."""
        if self.reading is not None:
            self.reading.note(path)
        return reader(path)

    def sample(self, video: Video, last: int, mirrored: bool) -> dict:
        """The clip that ends at frame `last` (an index), with that frame's maps."""
        indices = [max(0, last - back * self.frame_stride) for back in reversed(range(self.clip_len))]
        tensors = {"clip": self.frames(video, indices), **self.maps(video, last)}
        if self.flow is not None:
            pictures = self.flow.pictures(video.frames)
            tensors["flow"] = torch.stack([self.prepare(pictures[i]) for i in indices], dim=1)
        return {**flipped(tensors, mirrored), "video": video.name, "frame": video.frames[last].stem}

    def frames(self, video: Video, indices: list[int]) -> Tensor:
        """The prepared frames of these indices, (3, len(indices), h, w) uint8."""
        if self.cache and self.cache.holds(video):
            return self.cache.clip(video, indices)
        return decoded_clip(video, indices, lambda path: self.prepare(self.read(read_frame, path)))

    def maps(self, video: Video, index: int) -> dict[str, Tensor]:
        """The density and fixations of a frame, both (H, W); or its mask, as the density."""
        stem = video.frames[index].stem
        if self.masks:
            mask = self.read(read_mask, video.masks[stem])
            mask = mask if self.size is None else resize_mask(mask, self.size)
            return {"density": torch.from_numpy(mask).float() / 255}
        density, fixations = self.read_maps(video, index)
        if self.size is not None:
            density, fixations = resize_density(density, self.size), move_fixations(fixations, self.size)
        return {"density": torch.from_numpy(density), "fixations": torch.from_numpy(fixations)}

    def read_maps(self, video: Video, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The density, (H, W) float32, and the fixations, (H, W) bool, of a frame, as they are on disk."""
        stem = video.frames[index].stem
        density = self.read(read_density, video.maps[stem])
        if not video.fixations:
            return density, np.zeros(density.shape, dtype=bool)  # NSS is undefined there, and left out
        fixations = self.read(functools.partial(read_fixations, like=video.maps[stem]), video.fixations[stem])
        check_same_size(density, fixations, video, stem)
        return density, fixations

    def batches(self, batch_size: int, shuffle: bool) -> "EpochBatches":
        """The sampler of this rank's share of each batch."""
        return EpochBatches(len(self), batch_size, shuffle, self.seed, utils.rank(), utils.world_size())

    def collate(self, samples: list[dict]) -> dict:
        """Stack samples to a batch; "skipped" lists why others were left out, and a batch may hold nothing else."""
        good = [sample for sample in samples if "skipped" not in sample]
        good = [good[i % len(good)] for i in range(len(good) + -len(good) % self.group)]
        batch = default_collate(good) if good else {}
        return {**batch, "skipped": [sample["skipped"] for sample in samples if "skipped" in sample]}


class VideoClips(ClipDataset):
    """Each video in successive clips, up to the last one with an annotated frame, with the maps of all such frames.

    For training networks that carry a state from clip to clip. Whether a video is mirrored is a function of (seed,
    epoch, video) alone, and the same for all its clips.

    Args:
        videos, prepare, clip_len, size, flip, seed, skip_bad, cache: as in `ClipDataset`; a video's last clip may be
            shorter.
        zoom: a still, which is a video of one frame, becomes a clip of `clip_len` frames that pans and zooms through it
            (`pan_and_zoom`), a function of (seed, epoch, video) alone; 0: a clip of one frame. Not from the cache.
    """

    def __init__(self, videos: list[Video], prepare: Callable[[np.ndarray], Tensor], clip_len: int,
                 size: tuple[int, int], zoom: float = 0.0, **others) -> None:
        super().__init__(videos, prepare, clip_len, size=size, **others)
        self.zoom = zoom
        if self.flow is not None or self.masks:
            raise ValueError("networks that carry a state are trained on frames and density maps: clips of whole "
                             "videos have neither optical flow nor masks")
        self.items = [(number, first) for number, video in enumerate(videos)
                      for first in range(0, video.annotated()[-1] + 1, clip_len)]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """One clip.

        Args:
            key: (epoch, index).

        Returns:
            clip (3, T, h, w) uint8 with T up to `clip_len`; annotated (T,) bool, which of its frames are; density (A,
            H, W) float32 in [0, 1] and fixations (A, H, W) bool, for those; video and frame: a name for each of them;
            number: the video's index; first: the index of the clip's first frame.
            Where a file cannot be read, {"skipped": reason}, as in `ClipDataset`.
        """
        epoch, index = key
        number, first = self.items[index]
        video, rng = self.videos[number], np.random.default_rng((self.seed, epoch, number))
        mirrored = rng.random() < 0.5 and self.flip
        try:
            moves = self.zoom > 0 and len(video.frames) == 1
            sample = self.moving_still(video, mirrored, rng) if moves else self.sample(video, first, mirrored)
            return {**sample, "number": number, "first": first}
        except (OSError, ValueError) as error:
            return {"skipped": str(error)}

    def sample(self, video: Video, first: int, mirrored: bool) -> dict:
        """The clip that begins at frame `first` (an index)."""
        indices = range(first, min(first + self.clip_len, len(video.frames)))
        annotated = [i for i in indices if video.is_annotated(i)]
        maps = [self.maps(video, i) for i in annotated]
        none = {"density": torch.zeros(0, *self.size), "fixations": torch.zeros(0, *self.size, dtype=torch.bool)}
        stacked = {name: torch.stack([each[name] for each in maps]) if maps else none[name] for name in none}
        tensors = flipped({"clip": self.frames(video, list(indices)), **stacked}, mirrored)
        return {**tensors, "annotated": torch.tensor([i in annotated for i in indices]),
                "video": [video.name] * len(annotated), "frame": [video.frames[i].stem for i in annotated]}

    def moving_still(self, video: Video, mirrored: bool, rng: np.random.Generator) -> dict:
        """A clip that pans and zooms through a video's only frame, its maps pinned to the picture."""
        picture, stem = self.read(read_frame, video.frames[0]), video.frames[0].stem
        density, fixations = self.read_maps(video, 0)
        moving = {"clip": [], "density": [], "fixations": []}
        for window in pan_and_zoom(density, self.clip_len, self.zoom, rng):
            moving["clip"].append(self.prepare(np.ascontiguousarray(crop(picture, window))))
            moving["density"].append(torch.from_numpy(resize_density(crop(density, window), self.size)))
            moving["fixations"].append(torch.from_numpy(move_fixations(crop(fixations, window), self.size)))
        tensors = {name: torch.stack(frames, dim=1 if name == "clip" else 0) for name, frames in moving.items()}
        return {**flipped(tensors, mirrored), "annotated": torch.ones(self.clip_len, dtype=torch.bool),
                "video": [video.name] * self.clip_len, "frame": [stem] * self.clip_len}

    def batches(self, batch_size: int, shuffle: bool) -> "VideoBatches":
        """The sampler of this rank's videos; a batch is one clip."""
        if batch_size != 1:
            raise ValueError("a batch must be 1 clip where a state is carried from clip to clip of a video, got "
                             f"{batch_size}: leave --batch-size at 1, and make steps of several clips with "
                             "--accumulate")
        starts = [index for index, (_, first) in enumerate(self.items) if first == 0]
        clips = [list(range(start, end)) for start, end in itertools.pairwise([*starts, len(self.items)])]
        return VideoBatches(clips, shuffle, self.seed, utils.rank(), utils.world_size())

    def collate(self, samples: list[dict]) -> dict:
        """A batch of one clip, (1, 3, T, h, w), its maps as they are; or of none, and "skipped" lists why."""
        clips = [{**sample, "clip": sample["clip"][None]} for sample in samples if "skipped" not in sample]
        batch = clips[0] if clips else {}
        return {**batch, "skipped": [sample["skipped"] for sample in samples if "skipped" in sample]}


def flipped(tensors: dict[str, Tensor], mirrored: bool) -> dict[str, Tensor]:
    """Clip and maps, flipped left to right if `mirrored`."""
    return {name: t.flip(-1) for name, t in tensors.items()} if mirrored else tensors


def pan_and_zoom(density: np.ndarray, count: int, zoom: float, rng: np.random.Generator) -> np.ndarray:
    """Windows that move steadily through a picture, from one drawn at random to another.

    Args:
        density: (H, W); the first and the last window hold at least half of it.
        count: of windows.
        zoom: the share of a side that a window leaves out, at most; drawn for each side, so that shapes vary too.
        rng: the random generator.

    Returns:
        (count, 2, 2), of each window (top, left) and (bottom, right), from 0 to 1.
    """
    ends = []
    while len(ends) < 2:
        for _ in range(10):
            sides = 1 - zoom * rng.random(2)
            start = rng.random(2) * (1 - sides)
            window = np.array([start, start + sides])
            if crop(density, window).sum() >= density.sum() / 2:
                break
        else:
            window = np.array([[0.0, 0.0], [1.0, 1.0]])
        ends.append(window)
    return np.linspace(*ends, count)


def crop(array: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The part of a picture or map, (H, W, ..), in one of the windows of `pan_and_zoom`; at least one pixel."""
    (top, left), (bottom, right) = np.round(window * array.shape[:2]).astype(int)
    top, left = min(top, array.shape[0] - 1), min(left, array.shape[1] - 1)
    return array[top:max(bottom, top + 1), left:max(right, left + 1)]


def decoded_clip(video: Video, indices: list[int], read: Callable[[Path], Tensor]) -> Tensor:
    """The clip of these frames, (3, len(indices), h, w) uint8; each frame is read and prepared once."""
    prepared = {i: read(video.frames[i]) for i in sorted(set(indices))}
    return torch.stack([prepared[i] for i in indices], dim=1)


# Samplers

class EpochBatches(Sampler):
    """Yields batches, lists of (epoch, index): shuffled by (seed, epoch) in training, in order in validation.

    Each rank takes `batch_size` items of every batch: together the ranks see each item once, in equally many batches.
    Of a last batch that is too small for all, some get fewer items, or an empty list.
    Set `epoch` before each pass, and `start` to the number of batches that an interrupted pass had already used.
    """

    def __init__(self, length: int, batch_size: int, shuffle: bool, seed: int = 0, rank: int = 0,
                 world_size: int = 1) -> None:
        self.length, self.shuffle, self.seed, self.rank, self.world_size = length, shuffle, seed, rank, world_size
        self.total_batch = batch_size * world_size  # items of all ranks
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = range(self.length)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        for first in range(self.start * self.total_batch, self.length, self.total_batch):
            batch = order[first:first + self.total_batch]
            yield [(self.epoch, int(index)) for index in batch[self.rank::self.world_size]]

    def __len__(self) -> int:
        return -(-self.length // self.total_batch) - self.start


class VideoBatches(Sampler):
    """Yields the clips of a video one after the other, [(epoch, index)], and videos shuffled by (seed, epoch).

    Each video goes to the rank that has the fewest clips so far. Ranks that run out of clips get empty lists, so that
    all get equally many batches. `epoch` and `start` are as in `EpochBatches`.

    Args:
        clips: for each video the indices of its clips.
        shuffle: whether to shuffle the videos.
    """

    def __init__(self, clips: list[list[int]], shuffle: bool, seed: int = 0, rank: int = 0,
                 world_size: int = 1) -> None:
        self.clips, self.shuffle, self.seed, self.rank, self.world_size = clips, shuffle, seed, rank, world_size
        self.epoch = self.start = 0

    def shares(self) -> list[list[int]]:
        """The clips of each rank in this epoch."""
        number = len(self.clips)
        order = np.random.default_rng((self.seed, self.epoch)).permutation(number) if self.shuffle else range(number)
        shares = [[] for _ in range(self.world_size)]
        for video in order:
            min(shares, key=len).extend(self.clips[video])
        return shares

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        shares = self.shares()
        own = shares[self.rank]
        for position in range(self.start, max(map(len, shares))):
            yield [(self.epoch, index) for index in own[position:position + 1]]

    def __len__(self) -> int:
        return max(map(len, self.shares())) - self.start


# Loaders

def clip_loader(dataset: ClipDataset, batch_size: int, workers: int, shuffle: bool) -> DataLoader:
    """A loader of this rank's share of each batch; its batch sampler is the dataset's."""
    batches = dataset.batches(batch_size, shuffle)
    dataset.reading = Reading(workers) if workers else None
    # A generator of its own: else each pass would draw from training's random numbers.
    return DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=dataset.collate,
                      pin_memory=torch.cuda.is_available(), persistent_workers=workers > 0,
                      prefetch_factor=4 if workers else None, worker_init_fn=start_worker, generator=torch.Generator())


def start_worker(worker: int) -> None:
    """Set up a loader process: one thread for OpenCV, as all share the cores, and only the main process stops a run."""
    cv2.setNumThreads(0)
    reading = get_worker_info().dataset.reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A scheduler sends SIGTERM to all processes of a run, and Python sends it to loader processes at the end.
    signal.signal(signal.SIGTERM, lambda *unused: os._exit(0) if reading.over.item() else None)
    reading.begin()


class Reading:
    """The file that each loader process is reading, in memory that outlives the process.

    Args:
        workers: the number of loader processes.
    """

    def __init__(self, workers: int) -> None:
        self.processes = torch.zeros(workers, dtype=torch.int64).share_memory_()
        self.paths = torch.zeros(workers, 4096, dtype=torch.uint8).share_memory_()
        self.over = torch.zeros((), dtype=torch.bool).share_memory_()  # whether the processes may end

    def begin(self) -> None:
        """Called in a loader process when it starts."""
        self.processes[get_worker_info().id] = os.getpid()

    def note(self, path: Path) -> None:
        """Called in a loader process before it reads a file."""
        name = os.fsencode(path)[:4095] + b"\0"
        self.paths[get_worker_info().id, :len(name)] = torch.frombuffer(bytearray(name), dtype=torch.uint8)

    def of(self, process: int) -> str:
        """The file that a loader process, given by its id, read last; empty if it read none."""
        for number, path in zip(self.processes.tolist(), self.paths):
            if number == process:
                return os.fsdecode(bytes(path.tolist()).partition(b"\0")[0])
        return ""


@contextlib.contextmanager
def explain_worker_deaths(*loaders: DataLoader) -> Iterator[None]:
    """Turn PyTorch's RuntimeError about a dead loader process into a ChildProcessError with the file it was reading.

    The RuntimeError may be raised anywhere in the block. After the block, loader processes obey SIGTERM.
    """
    try:
        yield
    except RuntimeError as error:
        died = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", str(error))
        if not died:
            raise
        read = [loader.dataset.reading.of(int(process)) for loader in loaders if loader.dataset.reading
                for process in died[1].split(",")]
        files = " and ".join(filter(None, read)) or "its first file"
        raise ChildProcessError(f"a loader process died while it read {files}: {error}. Is that file damaged, or did "
                                "memory run out (fewer --workers)?") from error
    finally:
        for reading in filter(None, (loader.dataset.reading for loader in loaders)):
            reading.over.fill_(True)


def readable(loader: DataLoader) -> Iterator[dict]:
    """The batches of a `clip_loader`; the first unreadable clip is a ValueError unless its dataset has `skip_bad`."""
    for batch in loader:
        if batch["skipped"] and not loader.dataset.skip_bad:
            raise ValueError(f"{batch['skipped'][0]}. To go on without such clips: --skip-bad")
        yield batch


# The command line

def arguments() -> argparse.ArgumentParser:
    """The parser of `python dataloader.py`."""
    kinds = "; ".join(f"{kind} ({what})" for kind, what in PROBLEMS.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    check = parser.add_subparsers(required=True, metavar="check").add_parser(
        "check", allow_abbrev=False, help="read a dataset, and report everything that is wrong",
        description=f"Reads a dataset and reports everything that is wrong: {kinds}. Errors are what training or "
                    "scoring would stop at, warnings the rest. Exit code 0 where it can be trained on, 1 where "
                    "training would fail, 2 where there is no such folder, or no such --split.")
    check.add_argument("path", type=Path, metavar="PATH", help="the dataset's folder")
    check.add_argument("--dataset", choices=list(DATASETS), default="dhf1k",
                       help="what train.py would be told: whose splits must be there (default: dhf1k)")
    check.add_argument("--split",
                       help="check this one only: a folder, a list, numbers such as 601-700, or all (default: every "
                            "split that there is, and whether those that training needs are there)")
    check.add_argument("--json", action="store_true", help="print the report as JSON (default: lines for people)")
    return parser


def main(args: argparse.Namespace) -> int:
    """Check a dataset; returns the exit code."""
    info = DATASETS[args.dataset]
    report = check_dataset(args.path, args.split, info.numbers, (info.train, info.val))
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print_check(report)
    return 0 if report["trainable"] else 1


if __name__ == "__main__":
    parser = arguments()
    try:
        parser.exit(main(parser.parse_args()))
    except (OSError, ValueError) as error:
        parser.exit(2, f"dataloader.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "dataloader.py: interrupted\n")
