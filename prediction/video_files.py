"""Writes video files: H.264 in MP4, which browsers play, with the sound of the source."""
import contextlib
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

import utils
from prediction.sources import Source
from videos.decoding import av, beginning, check_av, open_container, orientation, picture_stream, promised_seconds, seek
from videos.images import timed_pictures

TICKS = 90000  # of a video file's clock, in a second
BT709 = 1      # FFmpeg's number of HD video's usual colours
# What browsers play in an MP4 file.
SOUND_CODECS = {"aac", "mp3", "opus", "flac", "ac3", "eac3", "alac"}


@contextlib.contextmanager
def video_file(path: Path, source: Source, sound: bool) -> Iterator[Callable[[np.ndarray, float], None]]:
    """An H.264 video in MP4, which browsers play.

    Args:
        path: of the file, which is whole or not there afterwards.
        source: tells rate, pixel aspect and end.
        sound: whether the source's sound is copied.

    Yields:
        The function to write a picture with, (H, W, 3) uint8, and its time in the source, in seconds.
    """
    check_av()
    with contextlib.ExitStack() as stack:
        # Absolute: FFmpeg takes the "a" of a relative "a:b.mp4" for a protocol.
        temporary = stack.enter_context(utils.atomic_path(path.absolute()))
        options = {"movflags": "+faststart"}
        container = stack.enter_context(av.open(str(temporary), "w", format="mp4", options=options))
        track = PictureTrack(container, source)
        audio = stack.enter_context(sound_of(source, container)) if sound else iter(())
        waiting = next(audio, None)

        def copy_sound(until: float) -> None:
            nonlocal waiting
            while waiting is not None and waiting.seconds <= until:
                container.mux(waiting.packet)
                waiting = next(audio, None)

        def write(picture: np.ndarray, seconds: float) -> None:
            track.write(picture, seconds - source.start)
            copy_sound(seconds)

        yield write
        track.end()
        copy_sound(math.inf)


class PictureTrack:
    """The pictures of a video file that is being written.

    Args:
        container: the file.
        source: tells the average rate, the pixel aspect, and how long the last picture is shown.
    """

    def __init__(self, container: "av.container.OutputContainer", source: Source) -> None:
        self.rate, self.aspect, end = playback(source)
        self.container, self.until = container, min(source.end, end) - source.start
        # No B-frames: packets come in the order of the pictures.
        options = {"crf": "20", "preset": "veryfast", "bf": "0"}
        self.stream = container.add_stream("libx264", rate=self.rate, options=options)
        self.last, self.step = None, round(TICKS / self.rate)  # the last one's time and duration, in ticks

    def write(self, picture: np.ndarray, seconds: float) -> None:
        """Add a picture, (H, W, 3) uint8, later than those before."""
        ticks = round(seconds * TICKS)
        if self.last is None:
            set_up(self.stream, picture.shape, self.aspect)
        else:
            ticks = max(ticks, self.last + 1)
            self.step = ticks - self.last
        self.last = ticks
        self.mux(video_frame(picture, self.stream, ticks))

    def mux(self, frame: "av.VideoFrame | None") -> None:
        for packet in self.stream.encode(frame):
            packet.duration = self.step  # matters for the last packet only
            self.container.mux(packet)

    def end(self) -> None:
        """Write what the encoder still holds."""
        if self.last is not None:
            self.step = max(1, round(self.until * TICKS) - self.last) if self.until < math.inf else self.step
            self.mux(None)


class Playback(NamedTuple):
    """How a source is played.

    Attributes:
        rate: frames a second, on average.
        aspect: a pixel's width for its height once the picture is upright; None where the file does not tell.
        end: in seconds; infinite where the file does not tell.
    """
    rate: Fraction
    aspect: Fraction | None
    end: float


def playback(source: Source) -> Playback:
    """How a source is played, as far as its file tells."""
    if source.is_pictures:
        end = source.expected_frames() / source.fps + source.start
        return Playback(Fraction(source.fps).limit_denominator(1000), None, end)
    if source.is_animation:
        ends = [ends for _, ends, _ in timed_pictures(source.path, source.fps)]
        return Playback(Fraction(len(ends) / ends[-1]).limit_denominator(1000), None, ends[-1])
    with open_container(source.path) as container:
        stream = picture_stream(container)
        aspect, first = stream.sample_aspect_ratio, next(container.decode(stream), None)
        if aspect and first is not None and orientation(first).transposed:
            aspect = 1 / aspect
        return Playback(stream.average_rate or Fraction(25), aspect, promised_seconds(container) or math.inf)


def set_up(stream: "av.VideoStream", shape: tuple[int, ...], aspect: Fraction | None) -> None:
    """The encoder's settings, as soon as the size is known; both sides of it must be even."""
    stream.height, stream.width = (length + length % 2 for length in shape[:2])
    stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, TICKS)
    stream.codec_context.colorspace = stream.codec_context.color_primaries = stream.codec_context.color_trc = BT709
    stream.codec_context.color_range = 1  # 16 .. 235
    if aspect:
        stream.codec_context.sample_aspect_ratio = aspect


def video_frame(picture: np.ndarray, stream: "av.VideoStream", ticks: int) -> "av.VideoFrame":
    """A picture, (H, W, 3) uint8, at the encoder's size: padded by a repeated row or column, else resized."""
    height, width = stream.height - picture.shape[0], stream.width - picture.shape[1]
    if {height, width} <= {0, 1}:
        picture = np.pad(picture, ((0, height), (0, width), (0, 0)), mode="edge")
    else:
        picture = cv2.resize(picture, (stream.width, stream.height), interpolation=cv2.INTER_AREA)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", dst_colorspace=BT709)
    frame.pts, frame.time_base = ticks, Fraction(1, TICKS)
    return frame


class TimedPacket(NamedTuple):
    """A packet of a sound track, and its time in the source, in seconds."""
    seconds: float
    packet: "av.Packet"


@contextlib.contextmanager
def sound_of(source: Source, output: "av.container.OutputContainer") -> Iterator[Iterator[TimedPacket]]:
    """The packets of a video file's sound track, ready to be copied; none where browsers would not play them in MP4."""
    with contextlib.ExitStack() as stack:
        silent = source.is_pictures or source.is_animation
        container = None if silent else stack.enter_context(open_container(source.path))
        track = container and container.streams.best("audio")
        known = track is not None and track.codec_context is not None
        codec = track.codec_context.codec.canonical_name if known else "unknown"
        if track is not None and codec not in SOUND_CODECS:
            print(f"{source.path}: its sound ({codec}) is left out, MP4 files that browsers play hold "
                  f"{', '.join(sorted(SOUND_CODECS))}")
        if codec in SOUND_CODECS:
            yield shifted_packets(container, track, output.add_stream_from_template(track), source)
        else:
            yield iter(())


def shifted_packets(container: "av.container.InputContainer", track: "av.AudioStream", target: "av.AudioStream",
                    source: Source) -> Iterator[TimedPacket]:
    """Packets between a source's start and end; in the packets themselves, time counts from the start."""
    origin = beginning(container)
    shift = round((origin + source.start) / track.time_base)
    if source.start:
        with contextlib.suppress(av.FFmpegError):  # without an index, read from the beginning
            seek(container, source.start)
    for packet in container.demux(track):
        if packet.pts is None or packet.dts is None:
            continue
        seconds = float(packet.pts * track.time_base) - origin
        if seconds >= source.end:
            return
        if seconds >= source.start:
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, target
            yield TimedPacket(seconds, packet)
