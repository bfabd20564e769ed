"""Frames from video files, each with its time, upright; and whether a file is whole."""
import contextlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from utils import mistaken_for
from videos.images import EXIF_ORIENTATIONS, MAX_PIXELS, Orientation, check_size, is_animation, timed_pictures

# Videos to `is_video` without being opened.
VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv",
                  ".asf", ".flv", ".3gp", ".ogv", ".vob", ".mxf", ".gif"}
# FFmpeg's formats of single pictures, of text, which it draws, and of lists of other files.
NO_FOOTAGE = {"image2", "ico", "tty", "bin", "xbin", "adf", "idf", "hls", "dash", "concat"}
STILL_BRANDS = {"heic", "heix", "heim", "heis", "mif1", "avif"}  # pictures that FFmpeg reads as MP4

try:
    import av
    FFMPEG_ERRORS = (av.FFmpegError,)
except ModuleNotFoundError:  # folders of frames are read without it
    av, FFMPEG_ERRORS = None, ()


def check_av() -> None:
    """Raise a ModuleNotFoundError where PyAV, which reads and writes video files, is not installed."""
    if av is None:
        raise ModuleNotFoundError("video files are read and written with PyAV, which is not installed: pip install av. "
                                  "Folders of frames need none")


def read_video(path: str | Path) -> Iterator[np.ndarray]:
    """Decode a video file frame by frame, (H, W, 3) uint8, RGB, upright: all frames, whatever its header says."""
    return (frame for _, frame in timed_frames(path))


def timed_frames(path: str | Path, start: float = 0.0, end: float = math.inf,
                 fps: float = 25.0) -> Iterator[tuple[float, np.ndarray]]:
    """Decode a video file, or a part of it, frame by frame.

    Args:
        path: anything that FFmpeg reads, an animated WebP, or a TIFF file of several pages.
        start, end: seconds from the file's beginning; frames with start <= time < end are decoded.
        fps: the rate of a TIFF file's pages, which have no times.

    Yields:
        The frame's own time in seconds from the file's beginning, also at a variable rate; and the frame, (H, W, 3)
        uint8, RGB, turned upright as the file says.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ValueError: it is not a video, is damaged (raised after the frames before the damage), or has no frame in this
            part.
    """
    if is_animation(Path(path)):
        yield from ((begins, picture) for begins, _, picture in timed_pictures(Path(path), fps, start, end))
        return
    count, decoded, before, longest, finish = 0, 0, None, 0.0, 0.0
    try:
        with contextlib.ExitStack() as stack:
            container, frames, whole = decode_from(path, start, stack)
            for seconds, frame in with_times(frames, picture_stream(container), beginning(container)):
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
        where = f"after {count} frames" + (f" from second {start:g}" if start else "")
        raise ValueError(f"{path} is damaged {where}: {error.strerror}. Get the file again, or repair it with FFmpeg; "
                         "maps of the frames before that are files of their own (png, npy) are whole") from error
    if not count and before is not None:
        until = f"second {end:g}" if end < math.inf else "its end"
        raise ValueError(f"{path} has no frame from second {start:g} to {until}; the last one that was seen is at "
                         f"second {before:.2f}")
    if not count:
        raise ValueError(f"no frame could be decoded from {path} ({Path(path).stat().st_size} bytes)")


def check_whole(path: str | Path, container: "av.container.InputContainer", finish: float, longest: float,
                decoded: int, from_first: bool) -> None:
    """Raise a ValueError where a file's last frame ends long before its header promises.

    Args:
        path, container: the file.
        finish: when the last frame ends, in seconds.
        longest: the longest time that a frame was shown, in seconds.
        decoded: how many frames were decoded.
        from_first: whether they were decoded from the first one, or from a later key frame.
    """
    frames = picture_stream(container).frames
    if from_first and (decoded == frames or (decoded == 1 and not frames)):
        return  # a single picture's duration is unknown
    promised = promised_seconds(container)
    missing = lambda until: promised - until > max(0.5, 0.02 * promised, 2 * longest)
    if promised is None and container.format.name in ONE_DURATION:  # the sound may be longer than the picture
        promised = container_seconds(container)
        finish = last_packet(path) if promised is not None and missing(finish) else finish
    if promised is not None and missing(finish):
        raise ValueError(f"{path} ends after {decoded} frames, at second {finish:.2f}, although its header promises "
                         f"{promised:.2f} seconds: is it cut off? Get the file again; maps of the frames before are "
                         "whole. If nothing is missing, give an end within it (--end)")


# Formats, as FFmpeg names them, by the durations that their headers have.
OWN_DURATIONS = {"mov,mp4,m4a,3gp,3g2,mj2", "mxf"}  # one for each track
ONE_DURATION = {"matroska,webm", "flv", "asf"}      # one for the file: that of its longest track
NO_DURATION = {"mpegts", "mpeg", "ogg"}             # none: FFmpeg estimates it from a file's end


def promised_seconds(container: "av.container.InputContainer") -> float | None:
    """When the pictures of a video file end, in seconds, according to its header; None where the header does not tell.

    A stream's duration alone does not count: where a format has none, FFmpeg fills in the file's, which may be the
    sound's, or an estimate. Durations are more reliable than numbers of frames; only AVI has nothing else.
    """
    stream, origin, name = picture_stream(container), beginning(container), container.format.name
    if name == "avi":
        return float(stream.frames / stream.average_rate) if stream.frames and stream.average_rate else None
    if name in OWN_DURATIONS and stream.duration:
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base) - origin
    # Matroska's tag, which counts from 0; FFmpeg adds the tag's language, if any, to its name.
    tags = [text for key, text in stream.metadata.items() if re.fullmatch("DURATION(-.+)?", key)]
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", tags[0]) if tags and name == "matroska,webm" else None
    if tag:
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3]) - origin
    return container_seconds(container) if len(container.streams) == 1 and name not in NO_DURATION else None


def container_seconds(container: "av.container.InputContainer") -> float | None:
    """When a file's longest track ends, in seconds, according to FFmpeg; None where it does not know."""
    if not container.duration:
        return None
    counted_from_0 = container.format.name in ("matroska,webm", "flv")
    return container.duration / av.time_base - (beginning(container) if counted_from_0 else 0)


def last_packet(path: str | Path) -> float:
    """When the last of a file's packets, of any track, ends, in seconds from its beginning."""
    with open_container(path) as container:
        timed = (packet for packet in container.demux() if packet.pts is not None)
        return float(max(((p.pts + (p.duration or 0)) * p.time_base for p in timed), default=0)) - beginning(container)


def open_container(path: str | Path) -> "av.container.InputContainer":
    """Open a video file; raise an error that says what is wrong where it is not one."""
    if not Path(path).is_file():
        held = "is a folder" if Path(path).is_dir() else "does not exist"
        raise FileNotFoundError(f"no video file {path}: it {held}")
    check_av()
    mistaken = mistaken_for(Path(path))
    if mistaken:
        raise ValueError(f"no frame could be decoded from {path}: it {mistaken}")
    try:
        container = av.open(str(Path(path).absolute()))  # FFmpeg takes "a:b.mp4" for a protocol
    except av.FFmpegError as error:
        size = Path(path).stat().st_size
        raise ValueError(f"no frame could be decoded from {path} ({size} bytes): {error.strerror}. It is not a video "
                         "that FFmpeg knows, or an interrupted download") from error
    try:
        stream = picture_stream(container)
        if stream is None:
            held = ", ".join(stream.type for stream in container.streams) or "none"
            missing = "video, only a cover picture" if container.streams.video else f"pictures (streams: {held})"
            raise ValueError(f"{path} holds no {missing}: expected a video")
        if stream.codec_context is None:
            raise ValueError(f"no frame could be decoded from {path}: its pictures are of a kind that FFmpeg does not "
                             "know")
        stream.thread_type = "AUTO"
        check_size(Path(path), stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change within the file
    except ValueError:
        container.close()
        raise
    return container


def picture_stream(container: "av.container.InputContainer") -> "av.VideoStream | None":
    """The video of a file; None where it has none, or only a cover picture, as songs have."""
    is_cover = lambda stream: bool(stream.disposition & av.stream.Disposition.attached_pic)
    best = container.streams.best("video")
    streams = (best, *container.streams.video) if best else ()
    return next((stream for stream in streams if not is_cover(stream)), None)


def is_video(path: Path) -> bool:
    """Whether a file is a video, by its suffix or else by its content: footage, or several pictures."""
    if path.suffix.lower() in VIDEO_SUFFIXES or is_animation(path):
        return True
    try:
        with open_container(path) as container:
            name, brand = container.format.name, container.metadata.get("major_brand")
            if name == "mjpeg":  # also found in archives, PDF and Thumbs.db
                with path.open("rb") as file:
                    return file.read(2) == b"\xff\xd8"
            return not (name.endswith("_pipe") or name in NO_FOOTAGE or brand in STILL_BRANDS)
    except (OSError, ValueError, ModuleNotFoundError):
        return False


def beginning(container: "av.container.InputContainer") -> float:
    """The time of a file's beginning by its own clock, in seconds."""
    return (container.start_time or 0) / av.time_base


def seek(container: "av.container.InputContainer", seconds: float) -> None:
    """Go to the last key frame before a time from the file's beginning; an FFmpegError where there is no index."""
    container.seek(round((beginning(container) + seconds) * av.time_base))


SOUGHT_WRONGLY = {"avi", "mpeg"}  # formats that keep no time with each frame


def decode_from(path: str | Path, start: float,
                stack: contextlib.ExitStack) -> tuple["av.container.InputContainer", Iterator["av.VideoFrame"], bool]:
    """An opened file, its frames from a key frame before `start` on, and whether that is its first frame.

    It is the first frame where the file does not say where its key frames are.
    """
    container = stack.enter_context(open_container(path))
    frames = container.decode(picture_stream(container))
    if start == 0 or container.format.name in SOUGHT_WRONGLY:
        return container, frames, True
    with contextlib.suppress(av.FFmpegError):  # a file without an index cannot be sought in
        seek(container, start)
        first = next(frames, None)
        is_usable = first is not None and not first.is_corrupt and first.time is not None
        if is_usable and first.time - beginning(container) <= start:
            return container, itertools.chain([first], frames), False
    container = stack.enter_context(open_container(path))  # seeking back is not reliable either
    return container, container.decode(picture_stream(container)), True


def with_times(frames: Iterable["av.VideoFrame"], stream: "av.VideoStream",
               origin: float) -> Iterator[tuple[float, "av.VideoFrame"]]:
    """Each frame with its time in seconds from `origin`.

    A frame that has no time, or none after the frame before, follows that frame at the stream's average rate.
    """
    step, before = float(1 / (stream.average_rate or 25)), None
    for frame in frames:
        seconds = None if frame.time is None else frame.time - origin
        if before is not None and (seconds is None or seconds <= before):
            seconds = before + step
        before = seconds or 0.0
        yield before, frame


QUARTER_TURNS = [Orientation(), EXIF_ORIENTATIONS[8], EXIF_ORIENTATIONS[3], EXIF_ORIENTATIONS[6]]  # counter-clockwise


def orientation(frame: "av.VideoFrame") -> Orientation:
    """How a player turns and mirrors a frame, from the display matrix (a b u, c d v, x y w) that comes with it.

    A pixel (x, y) of the stored picture is shown at (a x + c y, b x + d y). PyAV's `rotation` is only the angle, which
    is wrong where the matrix mirrors. Angles are rounded to quarter turns.
    """
    try:
        matrix = frame.side_data.get(av.sidedata.sidedata.Type.DISPLAYMATRIX)
    except ValueError:  # PyAV 18 does not know EXIF beside a matrix
        return QUARTER_TURNS[round(frame.rotation / 90) % 4]
    if matrix is None:
        return Orientation()
    a, b, _, c, d = (int(x) for x in np.frombuffer(matrix, np.int32)[:5])
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    return Orientation(transposed, upside_down=(b if transposed else d) < 0, mirrored=(c if transposed else a) < 0)


def upright(frame: "av.VideoFrame") -> np.ndarray:
    """The picture as (H, W, 3) uint8, RGB, as a player would show it."""
    return orientation(frame).apply(frame.to_ndarray(format="rgb24"))
