"""From disk or video file to clips: finding videos, pairing frames with annotation, decoding, moving to the network's size.

The tree is DHF1K's, prepared: ROOT/SPLIT/VIDEO/{images,maps,fixation}/NAME.png (data/README.md). A frame and its
annotation share a file stem; nothing is paired by position or by a number that was counted.
"""
import contextlib
import functools
import itertools
import math
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
import scipy.io
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv", ".3gp", ".ogv",
                  ".vob", ".mxf", ".gif"}                                  # what counts as a video in a folder; named, any file may be one
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
TREE = "expected tree: ROOT/SPLIT/VIDEO/{images,maps,fixation}/NAME.png, see data/README.md"


# Finding

@dataclass(frozen=True)
class Video:
    """A video as a folder of frames, and the annotation of those frames that have one.

    Attributes:
        name: the folder's name.
        frames: the frames in order of time.
        maps: stem -> density map.
        fixations: stem -> fixation map, image or .mat.
    """
    name: str
    frames: tuple[Path, ...]
    maps: dict[str, Path] = field(default_factory=dict)
    fixations: dict[str, Path] = field(default_factory=dict)

    def is_annotated(self, index: int) -> bool:
        stem = self.frames[index].stem
        return stem in self.maps and stem in self.fixations

    def annotated(self) -> list[int]:
        """Indices of the frames with both a density and a fixation map."""
        return [i for i in range(len(self.frames)) if self.is_annotated(i)]


def find_videos(root: Path, split: str, need_annotation: bool = True, skipped: list[str] | None = None) -> list[Video]:
    """All videos of a split, in natural order of their names.

    Args:
        root: the dataset's folder.
        split: the folder below it, such as "train" or "val".
        need_annotation: a video of which no frame is annotated is a problem.
        skipped: None to raise at the first problem; a list to leave such videos out and append what was wrong.

    Returns:
        At least one video.

    Raises:
        FileNotFoundError: no such dataset or split, or nothing in it.
        ValueError: the first problem of a video.
    """
    videos = []
    for folder in video_folders(root, split):
        try:
            videos.append(open_video(folder, need_annotation))
        except (OSError, ValueError) as error:
            if skipped is None:
                raise
            skipped.append(str(error))
    if not videos:
        raise FileNotFoundError(f"no usable video in {root / split}: all {len(skipped)} were skipped, the first because {skipped[0]}")
    return videos


def video_folders(root: Path, split: str) -> list[Path]:
    """The folders of a split; says what is there when it is not what was asked for."""
    if not root.is_dir():
        raise FileNotFoundError(f"no dataset {root}: the folder does not exist. Prepare DHF1K with `python data/prepare_dhf1k.py`, "
                                "or make the sample with `python data/make_sample.py` and give its folder as --data data/sample")
    folder = root / split
    if not folder.is_dir():
        present = ", ".join(natural(p.name for p in root.iterdir() if p.is_dir())[:10]) or "no folders"
        raise FileNotFoundError(f"no split \"{split}\" in {root}: {folder} does not exist ({root} holds {present}); {TREE}")
    folders = [folder / name for name in natural(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")
                                                 and not p.name.endswith(".partial"))]  # .partial: still being prepared
    if not folders:
        raise FileNotFoundError(f"no videos in {folder}: it holds no folders; {TREE}")
    return folders


def open_video(folder: Path, need_annotation: bool = True) -> Video:
    """List a video's frames and annotation and check that they belong together.

    Raises:
        FileNotFoundError: no frames, or no annotation where it is needed.
        ValueError: a frame is missing, an annotation has no frame, or two frames share a stem.
    """
    if not (folder / "images").is_dir():
        present = ", ".join(natural(p.name for p in folder.iterdir())[:10]) or "nothing"
        raise FileNotFoundError(f"no frames of video {folder}: it has no folder images (it holds {present}); {TREE}")
    frames = list_frames(folder / "images")
    check_no_gap(frames)
    maps = by_stem(folder / "maps", IMAGE_SUFFIXES)
    fixations = {stem: path for place, suffixes in (("fixation/maps", {".mat"}), ("fixation", {".mat"}), ("fixations", IMAGE_SUFFIXES),
                                                    ("fixation", IMAGE_SUFFIXES)) for stem, path in by_stem(folder / place, suffixes).items()}
    orphans = natural((maps.keys() | fixations.keys()) - {path.stem for path in frames})
    if orphans:
        raise ValueError(f"annotation without frame in video {folder}: {len(orphans)} of them, the first {orphans[0]}; "
                         f"images/ holds {len(frames)} frames, {frames[0].name} to {frames[-1].name}")
    video = Video(folder.name, tuple(frames), maps, fixations)
    if need_annotation and not video.annotated():
        raise FileNotFoundError(
            f"no annotation for video {folder}: of {len(frames)} frames none has both a density map in maps/ ({len(maps)} files) and "
            f"a fixation map in fixation/ ({len(fixations)} files). Videos 701-1000 of DHF1K have no public annotation: "
            f"use predict.py for those. {TREE}"
        )
    return video


def list_frames(folder: Path) -> list[Path]:
    """The images of a folder in natural order.

    Raises:
        FileNotFoundError: there are none.
        ValueError: two share a stem.
    """
    images = images_in(folder)
    if not images:
        raise FileNotFoundError(f"no frames in {folder}: {'it holds no images' if folder.is_dir() else 'the folder does not exist'}")
    frames = sorted(images, key=lambda path: natural_key(path.stem))
    for before, after in itertools.pairwise(frames):
        if before.stem == after.stem:
            raise ValueError(f"two frames share a name in {folder}: {before.name} and {after.name}; remove one")
    return frames


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, in no order; none where it does not exist."""
    return [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")] if folder.is_dir() else []


def check_no_gap(frames: list[Path]) -> None:
    """A frame that is missing between two others would make a clip jump: a ValueError names its neighbours."""
    for before, after in itertools.pairwise(frames):
        numbers = [re.search(r"(\d+)$", path.stem) for path in (before, after)]
        if all(numbers) and int(numbers[1][0]) != int(numbers[0][0]) + 1:
            raise ValueError(f"missing frame in {before.parent}: {after.name} follows {before.name}; "
                             "restore the frames between, or split the video there")


def by_stem(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    """Stem -> file for the files of a folder (which need not exist) with one of the suffixes."""
    if not folder.is_dir():
        return {}
    files = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith(".")):
        if path.stem in files:
            raise ValueError(f"two files for one frame in {folder}: {files[path.stem].name} and {path.name}; remove one")
        files[path.stem] = path
    return files


def natural_key(name: str) -> list:
    """Sorts frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def natural(names: Iterable[str]) -> list[str]:
    """Names in natural order."""
    return sorted(names, key=natural_key)


# Reading

def read_image(path: Path, mode: str) -> np.ndarray:
    """Decode an image to mode "RGB", (H, W, 3), or "L", (H, W), uint8; an unreadable one is a ValueError with its path."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are of mode {image.mode}, expected 8 bits a channel: save it so")
            return np.array(image.convert(mode))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image {path} is gone: it was there when its folder was listed") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read image {path} ({path.stat().st_size} bytes): {error}") from error


def read_frame(path: Path) -> np.ndarray:
    """A frame, (H, W, 3) uint8, RGB."""
    return read_image(path, "RGB")


def read_density(path: Path) -> np.ndarray:
    """A density map, (H, W) float32 in [0, 1]."""
    return read_image(path, "L").astype(np.float32) / 255


def read_fixations(path: Path) -> np.ndarray:
    """A fixation map, (H, W) bool, from an image (non-zero is fixated) or from the variable I of a .mat file."""
    if path.suffix.lower() != ".mat":
        return read_image(path, "L") > 0
    try:
        fixations = scipy.io.loadmat(path)["I"]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"fixation map {path} is gone: it was there when its folder was listed") from error
    except KeyError as error:
        raise ValueError(f"{path} has no variable I, which holds the fixation map in DHF1K's .mat files") from error
    except Exception as error:  # scipy raises many kinds on a damaged file; all mean the same here
        raise ValueError(f"cannot read fixation map {path}: {error}; restore the file") from error
    if not isinstance(fixations, np.ndarray) or fixations.ndim != 2 or fixations.dtype.kind not in "buif":
        raise ValueError(f"variable I of {path} must be a fixation map (H, W), "
                         f"got {getattr(fixations, 'dtype', type(fixations))} of shape {np.shape(fixations)}")
    return fixations > 0


# Video files

def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """Decode a video file frame by frame, (H, W, 3) uint8, RGB, upright; as many frames as there are, whatever its header says."""
    return (frame for _, frame in timed_frames(path))


def timed_frames(path: str | Path, start: float = 0.0, end: float = math.inf) -> Iterator[tuple[float, np.ndarray]]:
    """Decode a video file, or a part of it, frame by frame.

    Args:
        path: anything that FFmpeg reads.
        start, end: seconds from the file's beginning; frames with start <= time < end are decoded.

    Yields:
        The frame's own time in seconds from the file's beginning, whatever its rate; and the frame, (H, W, 3) uint8, RGB,
        turned upright as the file says.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ValueError: it is no video, is damaged (after the frames before the damage), or holds no frame in this part.
    """
    count, decoded, before, longest, finish = 0, 0, None, 0.0, 0.0
    try:
        with contextlib.ExitStack() as stack:
            container, frames, whole = decode_from(path, start, stack)
            for seconds, frame in with_times(frames, container.streams.best("video"), beginning(container)):
                if seconds >= end:
                    break
                decoded, longest = decoded + 1, max(longest, seconds - (seconds if before is None else before))
                before, finish = seconds, seconds + float((frame.duration or 0) * (frame.time_base or 0))
                if seconds >= start:
                    count += 1
                    yield seconds, upright(frame)
            else:
                check_whole(path, container, finish, longest, decoded, whole)
    except av.FFmpegError as error:
        raise ValueError(f"{path} is damaged after {count} frames{f' from second {start:g}' if start else ''}: {error.strerror}. Get the file again, "
                         "or repair it with FFmpeg; maps of the frames before are whole") from error
    if not count and before is not None:
        raise ValueError(f"{path} has no frame from second {start:g} to {f'second {end:g}' if end < math.inf else 'its end'}; "
                         f"the last one that was seen is at second {before:.2f}")
    if not count:
        raise ValueError(f"no frame could be decoded from {path} ({Path(path).stat().st_size} bytes)")


def check_whole(path: str | Path, container: "av.container.InputContainer", finish: float, longest: float, decoded: int, from_first: bool) -> None:
    """Raise a ValueError where a file's last frame ends long before its header promises, by more than a frame may stand.

    Args:
        path, container: the file.
        finish, longest: when the last frame ends, and how long a frame stood at most, in seconds.
        decoded: frames that were, from the first one on, or (not `from_first`) from another key frame on.
    """
    promised, frames = promised_seconds(container), container.streams.best("video").frames
    complete = from_first and (decoded == frames or (decoded == 1 and not frames))  # of one picture nobody knows how long it stands
    if promised is not None and not complete and promised - finish > max(0.5, 0.02 * promised, 2 * longest):
        raise ValueError(f"{path} ends after {decoded} frames, at second {finish:.2f}, although its header promises {promised:.2f} seconds: "
                         "is it cut off? Get the file again; maps of the frames before are whole. If nothing is missing, "
                         "give an end within it (--end)")


def promised_seconds(container: "av.container.InputContainer") -> float | None:
    """When the pictures of a video file end, as its header says; None where it does not, or only with the sound.

    Durations are kept better than the headers' numbers of frames, which are often wrong. Only AVI has nothing else.
    """
    stream, origin = container.streams.best("video"), beginning(container)
    if container.format.name == "avi":
        return float(stream.frames / stream.average_rate) if stream.frames and stream.average_rate else None
    if stream.duration:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base) - origin
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # Matroska's, counted from 0
    if tag:
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3]) - origin
    counted_from_0 = "matroska" in container.format.name or container.format.name == "flv"
    if not container.duration or len(container.streams) > 1:
        return None
    return container.duration / av.time_base - (origin if counted_from_0 else 0)


def open_container(path: str | Path) -> "av.container.InputContainer":
    """Open a video file; says what is wrong with one that is none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no video file {path}: it {'is a folder' if Path(path).is_dir() else 'does not exist'}")
    try:
        container = av.open(str(Path(path).absolute()))                    # FFmpeg takes a relative "a:b.mp4" for a protocol
    except av.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise PermissionError(error.errno, "this file may not be read", str(path)) from error
        raise ValueError(f"no frame could be decoded from {path} ({Path(path).stat().st_size} bytes): {error.strerror}. "
                         "It is no video that FFmpeg knows, or an interrupted download") from error
    if not container.streams.video:
        held = ", ".join(stream.type for stream in container.streams) or "none"
        container.close()
        raise ValueError(f"{path} holds no pictures (streams: {held}): expected a video")
    container.streams.best("video").thread_type = "AUTO"                   # the best: not a song's cover
    return container


def beginning(container: "av.container.InputContainer") -> float:
    """What a file's own clock shows at its beginning, in seconds."""
    return (container.start_time or 0) / av.time_base


def seek(container: "av.container.InputContainer", seconds: float) -> None:
    """Go to the last key frame before a time that counts from the file's beginning; an FFmpegError where there is no index."""
    container.seek(round((beginning(container) + seconds) * av.time_base))


SOUGHT_WRONGLY = {"avi", "mpeg"}                                           # formats that keep no time with each frame


def decode_from(path: str | Path, start: float,
                stack: contextlib.ExitStack) -> tuple["av.container.InputContainer", Iterator["av.VideoFrame"], bool]:
    """An opened file, its frames from a key frame before `start` on, and whether that is its first frame.

    It is where the file does not say where its key frames are.
    """
    container = stack.enter_context(open_container(path))
    frames = container.decode(container.streams.best("video"))
    if start == 0 or container.format.name in SOUGHT_WRONGLY:
        return container, frames, True
    with contextlib.suppress(av.FFmpegError):                              # a file without an index cannot be sought in
        seek(container, start)
        first = next(frames, None)
        if first is not None and not first.is_corrupt and first.time is not None and first.time - beginning(container) <= start:
            return container, itertools.chain([first], frames), False
    container = stack.enter_context(open_container(path))                  # seeking back is not to be relied on either
    return container, container.decode(container.streams.best("video")), True


def with_times(frames: Iterable["av.VideoFrame"], stream: "av.VideoStream", origin: float) -> Iterator[tuple[float, "av.VideoFrame"]]:
    """Each frame with its time; one that has none, or none later, follows the one before at the stream's average rate."""
    step, before = float(1 / (stream.average_rate or 25)), None
    for frame in frames:
        seconds = None if frame.time is None else frame.time - origin
        if before is not None and (seconds is None or seconds <= before):
            seconds = before + step
        before = seconds or 0.0
        yield before, frame


def upright(frame: "av.VideoFrame") -> np.ndarray:
    """The picture as (H, W, 3) uint8, RGB, turned as a player would turn it."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


# Moving maps to another size

def resize_density(density: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a density map to (H, W), bilinearly."""
    return cv2.resize(density, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def imresize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to (H, W) as MATLAB's imresize does by default: bicubic, antialiased, mirrored at the borders.

    Args:
        image: (h, w); of uint8, each of the two passes is rounded to 8 bits, as there.

    Returns:
        (H, W), uint8 for uint8, else float64.

    Source: Keys 1981 (the kernel, a = -0.5); imresize's documentation. Pillow's bicubic has the same kernel and differs at the borders.
    """
    rows, columns = (torch.from_numpy(resize_weights(*lengths)).to(image.device) for lengths in zip(image.shape, size))
    passes = [lambda x: rows @ x, lambda x: x @ columns.T]
    if size[1] / image.shape[1] < size[0] / image.shape[0]:                # the axis that shrinks most goes first
        passes.reverse()
    resized = image.double()
    for resize_one_axis in passes:
        resized = resize_one_axis(resized)
        if image.dtype == torch.uint8:
            resized = (resized + 0.5).floor().clamp(0, 255)
    return resized.to(torch.uint8) if image.dtype == torch.uint8 else resized


@functools.lru_cache(maxsize=16)
def resize_weights(length: int, wanted: int) -> np.ndarray:
    """What each of `wanted` pixels takes from each of `length`, (wanted, length) float64; rows sum to one."""
    scale = wanted / length
    shrink = min(scale, 1)                                                 # when shrinking, the kernel is as much wider
    reach = 2 / shrink
    centre = (np.arange(wanted) + 0.5) / scale - 0.5                       # in pixels of the source
    index = np.floor(centre - reach)[:, None].astype(int) + np.arange(math.ceil(2 * reach) + 2)
    weight = cubic(shrink * (centre[:, None] - index))
    index = index % (2 * length)                                           # mirrored: .. 1 0 0 1 .. n-1 n-1 ..
    weights = np.zeros((wanted, length))
    np.add.at(weights, (np.arange(wanted)[:, None], np.minimum(index, 2 * length - 1 - index)), weight / weight.sum(1, keepdims=True))
    return weights


def cubic(x: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel, a = -0.5."""
    x = np.abs(x)
    return np.where(x <= 1, 1.5 * x ** 3 - 2.5 * x ** 2 + 1, np.where(x <= 2, -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2, 0))


def move_fixations(fixations: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Move a fixation map to (H, W) point by point: each fixated pixel goes to the pixel its centre falls into.

    No fixation is lost and none invented; two that fall into one pixel are one in a bool map.
    """
    row, column = np.nonzero(fixations)
    moved = np.zeros(size, dtype=bool)
    moved[(2 * row + 1) * size[0] // (2 * fixations.shape[0]), (2 * column + 1) * size[1] // (2 * fixations.shape[1])] = True
    return moved


# Clips

class ClipDataset(Dataset):
    """Clips with the density and fixation map of their last frame.

    Item (epoch, index) is a function of (seed, epoch, index) alone, so an interrupted run can be continued without
    any state of the loader. A clip of 32 frames decodes 32 frames, one density map and one fixation map.

    Args:
        videos: of `find_videos`, each with an annotated frame.
        prepare: frame (H, W, 3) uint8 -> (3, h, w) uint8; a model's `prepare`.
        clip_len: frames of a clip; at the start of a video the first frame is repeated in front.
        frame_stride: frames of the video from one frame of a clip to the next.
        size: (H, W) of the maps; None leaves each as it is on disk (batches of 1 then).
        every: None for one random clip per video and epoch (training); a number for all clips that end `every` frames
            apart, the first at frame `clip_len` (validation).
        flip: mirror half of the clips, annotation and all.
        skip_bad: whether `readable` leaves unreadable clips out instead of stopping.
    """

    def __init__(self, videos: list[Video], prepare: Callable[[np.ndarray], Tensor], clip_len: int = 32, frame_stride: int = 1,
                 size: tuple[int, int] | None = None, every: int | None = None, flip: bool = False, seed: int = 0, skip_bad: bool = False) -> None:
        self.videos, self.prepare, self.size, self.seed = videos, prepare, size, seed
        self.clip_len, self.frame_stride, self.flip, self.skip_bad = clip_len, frame_stride, flip, skip_bad
        self.span = (clip_len - 1) * frame_stride + 1                      # frames of the video that a clip covers
        # (video, index of a possible last frame): all of a video's in training, one an item in validation.
        self.items = [(video, ends) for video in videos for ends in self.last_frames(video, every)]

    def last_frames(self, video: Video, every: int | None) -> list[list[int]]:
        """The possible last frames of each of a video's items: whole clips where there are any."""
        annotated = video.annotated()
        if every is None:
            return [[i for i in annotated if i >= self.span - 1] or annotated[-1:]]
        return [[i] for i in range(self.span - 1, len(video.frames), every) if video.is_annotated(i)] or [annotated[-1:]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        """One sample.

        Args:
            key: (epoch, index).

        Returns:
            clip (3, clip_len, h, w) uint8, for the model's `normalise`, density (H, W) float32 in [0, 1], fixations (H, W) bool,
            video and frame: names.
            Where a file cannot be read, {"skipped": why}: an error raised here would lose its type on the way from a
            loader process. `readable` raises it.
        """
        epoch, index = key
        draw = np.random.default_rng((self.seed, epoch, index))
        video, ends = self.items[index]
        last, mirrored = int(draw.choice(ends)), self.flip and draw.random() < 0.5
        try:
            return self.sample(video, last, mirrored)
        except (OSError, ValueError) as error:
            return {"skipped": str(error)}

    def sample(self, video: Video, last: int, mirrored: bool) -> dict:
        """The clip that ends at frame `last` (an index), with that frame's maps."""
        indices = [max(0, last - back * self.frame_stride) for back in reversed(range(self.clip_len))]
        prepared = {i: self.prepare(read_frame(video.frames[i])) for i in sorted(set(indices))}
        stem = video.frames[last].stem
        density, fixations = read_density(video.maps[stem]), read_fixations(video.fixations[stem])
        check_same_size(density, fixations, video, stem)
        if self.size is not None:
            density, fixations = resize_density(density, self.size), move_fixations(fixations, self.size)
        tensors = {"clip": torch.stack([prepared[i] for i in indices], dim=1),
                   "density": torch.from_numpy(density), "fixations": torch.from_numpy(fixations)}
        if mirrored:
            tensors = {name: t.flip(-1) for name, t in tensors.items()}
        return {**tensors, "video": video.name, "frame": stem}


def check_same_size(density: np.ndarray, fixations: np.ndarray, video: Video, stem: str) -> None:
    """Raise a ValueError where the two maps of a frame differ in size."""
    if density.shape != fixations.shape:
        raise ValueError(f"density and fixation map of frame {stem} of video {video.name} differ in size: {video.maps[stem]} is "
                         f"{density.shape[0]} x {density.shape[1]}, {video.fixations[stem]} is {fixations.shape[0]} x {fixations.shape[1]} (H x W)")


class EpochSampler(Sampler):
    """Yields (epoch, index): shuffled by (seed, epoch) in training, in order in validation.

    Set `epoch` before each pass, and `start` to the number of items that an interrupted pass had already used.
    """

    def __init__(self, length: int, shuffle: bool, seed: int = 0) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.epoch = self.start = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length) if self.shuffle else range(self.length)
        yield from ((self.epoch, int(index)) for index in order[self.start:])

    def __len__(self) -> int:
        return self.length - self.start


def clip_loader(dataset: ClipDataset, batch_size: int, workers: int, shuffle: bool) -> DataLoader:
    """A loader of batches; its sampler is an `EpochSampler`."""
    sampler = EpochSampler(len(dataset), shuffle, dataset.seed)
    return DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, collate_fn=collate, pin_memory=torch.cuda.is_available(),
                      persistent_workers=workers > 0, prefetch_factor=4 if workers else None, worker_init_fn=start_worker,
                      generator=torch.Generator())                         # else each pass would draw from training's random numbers


def start_worker(worker: int) -> None:
    """Loader processes share the cores, so OpenCV gets one thread in each; and Ctrl-C is the main process's to handle."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def readable(loader: DataLoader) -> Iterator[dict]:
    """The batches of a `clip_loader`; the first unreadable clip is a ValueError unless its dataset says `skip_bad`."""
    for batch in loader:
        if batch["skipped"] and not loader.dataset.skip_bad:
            raise ValueError(f"{batch['skipped'][0]}. To go on without such clips: --skip-bad")
        yield batch


def collate(samples: list[dict]) -> dict:
    """Stack samples to a batch; "skipped" lists why others were left out, and a batch may hold nothing else."""
    good = [sample for sample in samples if "skipped" not in sample]
    batch = default_collate(good) if good else {}
    return {**batch, "skipped": [sample["skipped"] for sample in samples if "skipped" in sample]}
