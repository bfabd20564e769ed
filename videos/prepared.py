"""Prepared frames on disk: decoded and brought to the network's size once, then memory-mapped."""
import contextlib
import errno
import glob
import io
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import utils
from utils import in_threads
from videos.images import digest, read_frame, state_digest
from videos.video import Video


class FrameCache:
    """Frames at the network's size, in one memory-mapped file per video: the same tensors as from decoding, but faster.

    A file is (T, 3, h, w) uint8. Its name holds a digest of its frames' state (`state_digest`), the name of its folder
    one of what `prepare` does to a test picture: a file made from other frames, or for another network, is never used.

    Args:
        folder: holds the caches of any number of datasets and sizes; it may be deleted at any time between runs.
        prepare: frame (H, W, 3) uint8 -> (3, h, w) uint8; a model's `prepare`.
    """

    def __init__(self, folder: Path, prepare: Callable[[np.ndarray], Tensor]) -> None:
        prepared = prepare(np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)).numpy()
        self.prepare, self.shape = prepare, prepared.shape
        self.folder = folder / f"{prepared.shape[1]}x{prepared.shape[2]}-{digest(prepared.tobytes())}"
        self.files = {}  # a video's first frame -> its file

    def holds(self, video: Video) -> bool:
        """Whether `build` has been asked for this video, and could read it."""
        return video.frames[0] in self.files

    def clip(self, video: Video, indices: list[int]) -> Tensor:
        """The clip of these frames, (3, len(indices), h, w) uint8."""
        frames = np.load(self.files[video.frames[0]], mmap_mode="r")
        return torch.from_numpy(frames[indices]).transpose(0, 1).contiguous()

    def build(self, videos: list[Video], workers: int = 4, skip_bad: bool = False) -> None:
        """Write the files that are missing or out of date, with a progress bar.

        Interrupted at any time, it leaves only whole files, and the next call goes on with the others.

        Args:
            videos: the videos to hold.
            workers: threads that decode.
            skip_bad: leave out videos with an unreadable frame instead of stopping; their clips are decoded, and those
                that cannot be are skipped one by one.

        Raises:
            OSError: the disk has no room for them, or cannot be written to.
            ValueError: a frame cannot be read.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(error.errno, f"the folder for prepared frames (--cache) cannot be made: {error.strerror}",
                          str(self.folder)) from error
        utils.remove_leftovers(self.folder, ["*"], older_than=3600)  # seconds: other runs may be writing
        missing = []
        for first, video in {video.frames[0]: video for video in videos}.items():
            with skip_unreadable(video, skip_bad):
                file = self.folder / f"{self.prefix(video)}{state_digest(video.frames)}.npy"
                if self.is_whole(file, video):
                    self.files[first] = file
                else:
                    missing.append((first, video, file))
        self.check_space([video for _, video, _ in missing])
        total = sum(len(video.frames) for _, video, _ in missing)
        with tqdm(desc=f"preparing frames in {self.folder}", total=total, unit="frame", disable=None) as bar:
            for first, video, file in missing:
                with skip_unreadable(video, skip_bad):
                    self.write(video, file, workers, bar)
                    self.files[first] = file

    def prefix(self, video: Video) -> str:
        """The part of a file's name that says which video it is, whatever state the frames are in."""
        name = os.fsencode(video.name)[:150].decode(errors="ignore")  # a file's name may have 255 bytes
        return f"{name}-{digest(os.fsencode(video.frames[0].parent.resolve()))}-"

    def is_whole(self, file: Path, video: Video) -> bool:
        """Whether a video's file exists and has the header and the length it should have."""
        header = self.header(video)
        if not file.is_file() or file.stat().st_size != len(header) + self.bytes_of(video):
            return False
        with file.open("rb") as content:
            return content.read(len(header)) == header

    def bytes_of(self, video: Video) -> int:
        """The size of a video's file, without its header."""
        return len(video.frames) * math.prod(self.shape)

    def header(self, video: Video) -> bytes:
        """The header of a video's .npy file."""
        header, shape = io.BytesIO(), (len(video.frames), *self.shape)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        return header.getvalue()

    def check_space(self, videos: list[Video]) -> None:
        """Print how much space these videos need; raise an OSError if the disk has less."""
        needed, free = sum(map(self.bytes_of, videos)), shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed for prepared frames, {free / 1e6:.0f} MB "
                                        "are free", str(self.folder))
        if videos:
            print(f"{self.folder}: {needed / 1e6:.0f} MB of prepared frames to write, {len(videos)} videos")

    def write(self, video: Video, file: Path, workers: int, bar: tqdm) -> None:
        """Decode a video into its file, frame by frame; with a memory-mapped one, a full disk would be a crash."""
        with utils.atomic_path(file) as temporary, temporary.open("wb") as out:
            out.write(self.header(video))
            for frame in in_threads(lambda path: self.prepare(read_frame(path)), video.frames, workers):
                if frame.shape != self.shape:
                    raise RuntimeError(f"prepare gave a frame of shape {tuple(frame.shape)}, expected {self.shape} for "
                                       "frames of any size")
                out.write(frame.numpy().tobytes())
                bar.update()
            utils.to_disk(out)
        for older in set(self.folder.glob(f"{glob.escape(self.prefix(video))}*.npy")) - {file}:
            older.unlink(missing_ok=True)


@contextlib.contextmanager
def skip_unreadable(video: Video, skip_bad: bool) -> Iterator[None]:
    """Where a video cannot be read in the block, print that it is left out; without `skip_bad`, raise a ValueError."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        if not skip_bad:
            raise ValueError(f"{error}. To go on without the clips it is in: --skip-bad") from error
        tqdm.write(f"not prepared, its clips will be decoded: video {video.name}: {error}")
