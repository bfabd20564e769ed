"""Frames from video files, each with its time, upright; and whether a file is whole."""
import contextlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from videos.images import MAX_PIXELS, check_size

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv", ".3gp", ".ogv",
                  ".vob", ".mxf", ".gif"}                                  # what counts as a video in a folder; named, any file may be one

try:
    import av
    FFMPEG_ERRORS = (av.FFmpegError,)
except ModuleNotFoundError:                                                # folders of frames are read without it
    av, FFMPEG_ERRORS = None, ()


def check_av() -> None:
    """Raise a ModuleNotFoundError where PyAV, which reads and writes video files, is not installed."""
    if av is None:
        raise ModuleNotFoundError("video files are read and written with PyAV, which is not installed: pip install av. Folders of frames need none")


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
    except FFMPEG_ERRORS as error:
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
    check_av()
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
    best = container.streams.best("video")                                 # not a song's cover
    try:
        if best.codec_context is None:
            raise ValueError(f"no frame could be decoded from {path}: its pictures are of a kind that FFmpeg does not know")
        best.thread_type = "AUTO"
        check_size(Path(path), best.codec_context.width, best.codec_context.height)
        best.codec_context.options = {"max_pixels": str(MAX_PIXELS)}       # which may change on the way
    except ValueError:
        container.close()
        raise
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
