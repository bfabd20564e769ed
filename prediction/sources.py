"""What can be predicted: video files, folders of frames and single pictures, and how the command line names them."""
import functools
import glob
import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from baselines import MODELS
from utils import in_threads
from videos.decoding import av, is_video, open_container, picture_stream, promised_seconds, timed_frames
from videos.images import IMAGE_SUFFIXES, is_animation, read_frame
from videos.names import folders_in, images_in, natural, natural_key
from videos.optical_flow import Flow, FlowSource
from videos.video import list_frames


class TimedFrame(NamedTuple):
    """A frame: its name (of files), its time in seconds, and (H, W, 3) uint8 RGB."""
    name: str
    seconds: float
    frame: np.ndarray


class TimedImage(NamedTuple):
    """A frame's time in seconds, and its image file."""
    seconds: float
    path: Path


@dataclass(frozen=True)
class Source:
    """A video file, or a folder of frames that are shown at `fps`; from `start` to `end`, in seconds.

    An animated PNG or WebP is a video file too, and so is a TIFF file of several pages, which are shown at `fps`. With
    `stills`, a single picture is a video of one frame.
    """
    path: Path
    fps: float = 25.0
    start: float = 0.0
    end: float = math.inf
    stills: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"the start, second {self.start:g}, must be 0 or more and before the end, "
                             f"second {self.end:g}")

    @property
    def is_pictures(self) -> bool:
        """Whether its frames are picture files."""
        return self.path.is_dir() or self.is_still

    @property
    def is_still(self) -> bool:
        is_image = self.path.suffix.lower() in IMAGE_SUFFIXES and self.path.is_file()
        return self.stills and is_image and not self.is_animation

    @functools.cached_property
    def is_animation(self) -> bool:
        """Whether it is a file of several pictures, which is read without FFmpeg."""
        return is_animation(self.path)

    @property
    def name(self) -> str:
        """What its outputs are called."""
        path = Path(os.path.abspath(self.path))  # of a link, not of its target
        return path.name if path.is_dir() else path.stem

    def identity(self) -> dict:
        """What distinguishes it from another source of the same name."""
        if not self.is_pictures:
            rate = {"fps": self.fps} if self.is_animation else {}
            return {"bytes": self.path.stat().st_size, "modified": self.path.stat().st_mtime_ns, **rate}
        files = [image.path for image in self.images()]
        return {"frames": len(files), "last": files[-1].name, "bytes": sum(path.stat().st_size for path in files),
                "fps": self.fps}

    def check(self) -> None:
        """Raise an OSError or ValueError for what is wrong with it, as far as can be told without decoding."""
        if self.is_pictures:
            self.images()
        elif not self.path.exists():
            missing = "nothing matches this pattern" if glob.has_magic(str(self.path)) else "it does not exist"
            raise FileNotFoundError(f"no input {self.path}: {missing}. Expected a video file, or a folder of frames "
                                    f"({', '.join(sorted(IMAGE_SUFFIXES))})")
        elif self.is_animation:
            return
        elif self.path.suffix.lower() in IMAGE_SUFFIXES and self.path.is_file():
            read_frame(self.path)  # raises for what is not an image
            networks = ", ".join(name for name, model in MODELS.items() if model.takes_stills)
            raise ValueError(f"{self.path} is a single image: give the folder of frames it belongs to, or a video file "
                             f"(of single images, {networks} make maps)")
        else:
            open_container(self.path).close()

    def images(self) -> list[TimedImage]:
        """Times and files of a folder's frames."""
        folder = self.path / "images" if (self.path / "images").is_dir() else self.path
        files = [self.path] if self.is_still else list_frames(folder)
        shown = [TimedImage(index / self.fps, path) for index, path in enumerate(files)]
        shown = [image for image in shown if self.start <= image.seconds < self.end]
        if not shown:
            raise ValueError(f"{folder} has no frame from second {self.start:g} to {self.end:g} "
                             f"at {self.fps:g} frames a second")
        return shown

    def frames(self) -> Iterator[TimedFrame]:
        """Each frame in order; a video file's are called 0001, 0002 and so on."""
        if self.is_pictures:
            images = self.images()
            pictures = in_threads(read_frame, (image.path for image in images))
            yield from (TimedFrame(path.stem, seconds, picture) for (seconds, path), picture in zip(images, pictures))
        else:
            timed = timed_frames(self.path, self.start, self.end, self.fps)
            yield from (TimedFrame(f"{number:04d}", *frame) for number, frame in enumerate(timed, start=1))

    def flows(self, flow: FlowSource, first: int) -> Iterator[np.ndarray] | Flow:
        """The flow's pictures from frame `first` (an index) on; of a video file, the function that estimates flow."""
        if not self.is_pictures:
            return flow.maker(str(self.path))
        paths = [image.path for image in self.images()]
        pictures = flow.pictures(paths)
        return (pictures[index] for index in range(first, len(paths)))

    def names(self) -> Iterator[str]:
        """The names of its frames; endless for a video file."""
        if self.is_pictures:
            return (image.path.stem for image in self.images())
        return (f"{number:04d}" for number in itertools.count(1))

    def expected_frames(self) -> int | None:
        """The approximate number of frames, for a progress bar; None where a video file's header does not tell."""
        if self.is_pictures:
            return len(self.images())
        if self.is_animation:
            return None
        with open_container(self.path) as container:
            estimate = container.duration and container.duration / av.time_base
            lasts, rate = promised_seconds(container) or estimate, picture_stream(container).average_rate
            return max(1, round((min(lasts, self.end) - self.start) * rate)) if lasts and rate else None


def find_sources(inputs: list[str], **options) -> list[Source]:
    """Find the videos that the command line names.

    Args:
        inputs: files, folders of frames, folders of either, and patterns such as clips/*.mp4.
        options: of `Source`.
    """
    paths = []
    for text in inputs:
        found = [text] if Path(text).exists() else natural(glob.glob(text, recursive=True))
        for path in map(Path, found or [text]):
            paths += videos_below(path) or [path]
    return [Source(path, **options) for path in dict.fromkeys(paths)]


def videos_below(path: Path) -> list[Path]:
    """The videos in a folder of videos: files (`is_video`), and folders of frames; none in anything else.

    What else the folder holds is printed.

    Raises:
        ValueError: the folder holds videos and pictures, so it could be meant as one video or as several.
    """
    if not path.is_dir() or (path / "images").is_dir():
        return []
    files = [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")]
    below = sorted([*folders_in(path), *files], key=lambda p: natural_key(p.name))
    if images_in(path):
        # One file of each suffix: beside frames there may be thousands.
        others = {p.suffix.lower(): p for p in reversed(below) if p.is_file()}
        video = next((p for suffix, p in others.items() if suffix not in IMAGE_SUFFIXES and is_video(p)), None)
        if video:
            raise ValueError(f"{path} holds pictures and videos, {video.name} for one: name the videos, such as "
                             f"\"{path}/*{video.suffix}\"")
        return []
    videos = [p for p in below if (is_video(p) if p.is_file() else images_in(p) or images_in(p / "images"))]
    left_out = [p.name for p in sorted({*below} - {*videos})]
    if videos and left_out:
        named = ", ".join(left_out[:5]) + ", .." * (len(left_out) > 5)
        print(f"{path}: left out, as no video: {len(left_out)} of {len(below)} ({named})")
    return videos


def usable(sources: list[Source], skip_bad: bool) -> list[Source]:
    """The sources that can be opened; others raise what `Source.check` does, or are reported with `skip_bad`."""
    good = []
    for source in sources:
        try:
            source.check()
            good.append(source)
        except (OSError, ValueError) as error:
            if not skip_bad:
                raise
            print(f"skipped: {error}")
    return good
