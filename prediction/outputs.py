"""Kinds of output: each is one function, which opens it, and one entry of `OUTPUTS`."""
import contextlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

import utils
from prediction.engine import Prediction
from prediction.sources import Source
from prediction.video_files import video_file
from saliency_model import stretch

SHEET = 4  # rows and columns of a contact sheet
Write = Callable[[Prediction], None]


def to_8_bit(saliency: Tensor, quantise: Callable[[Tensor], Tensor] = stretch) -> np.ndarray:
    """Quantise a map, (H, W), to uint8; one that is not finite is a ValueError, never a black picture."""
    if not saliency.isfinite().all():
        raise ValueError("the network's map is not finite: its weights are broken, or --precision bfloat16 overflowed; "
                         "try float32")
    return quantise(saliency).cpu().numpy()


def write_map(path: Path, saliency: Tensor, quantise: Callable[[Tensor], Tensor] = stretch) -> None:
    """Write a map as 8-bit PNG, atomically."""
    with utils.atomic_path(path) as temporary:
        # Level 1 takes a third of the time of level 6.
        Image.fromarray(to_8_bit(saliency, quantise)).save(temporary, format="PNG", compress_level=1)


def to_half(saliency: Tensor) -> np.ndarray:
    """A map as float16, at most 0.0005 off."""
    return saliency.half().cpu().numpy()


def png_maps(folder: Path, source: Source) -> contextlib.AbstractContextManager[Write]:
    """FRAME.png of each map."""
    return contextlib.nullcontext(lambda p: write_map(folder / f"{p.name}.png", p.saliency, p.quantise))


def npy_maps(folder: Path, source: Source) -> contextlib.AbstractContextManager[Write]:
    """FRAME.npy of each map."""
    def write(prediction: Prediction) -> None:
        with utils.atomic_path(folder / f"{prediction.name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, to_half(prediction.saliency))
    return contextlib.nullcontext(write)


@contextlib.contextmanager
def archive(path: Path, source: Source) -> Iterator[Write]:
    """One .npz with a float16 array for each frame, written as they come."""
    with (utils.atomic_path(path) as temporary,
          zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file):
        def write(prediction: Prediction) -> None:
            with file.open(f"{prediction.name}.npy", "w") as member:
                np.lib.format.write_array(member, to_half(prediction.saliency))
        yield write


@contextlib.contextmanager
def map_video(path: Path, source: Source) -> Iterator[Write]:
    """The 8-bit maps as a grey video."""
    with video_file(path, source, sound=False) as write:
        yield lambda p: write(np.repeat(to_8_bit(p.saliency, p.quantise)[..., None], 3, axis=2), p.seconds)


@contextlib.contextmanager
def overlay(path: Path, source: Source) -> Iterator[Write]:
    """The video with the map as heat on it, and its sound."""
    with video_file(path, source, sound=True) as write:
        yield lambda p: write(paint_heat(p), p.seconds)


def paint_heat(prediction: Prediction) -> np.ndarray:
    """The frame with the 8-bit map as heat on it, (H, W, 3) uint8: the more salient, the less of the frame shows."""
    saliency = to_8_bit(prediction.saliency, prediction.quantise)
    heat = cv2.cvtColor(cv2.applyColorMap(saliency, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    share = saliency.astype(np.float32) * (0.75 / 255)
    return cv2.blendLinear(heat, prediction.frame, share, 1 - share)


@contextlib.contextmanager
def contact_sheet(path: Path, source: Source) -> Iterator[Write]:
    """A picture of evenly spaced frames with their heat and time."""
    kept, every, count = [], 1, 0

    def write(prediction: Prediction) -> None:
        nonlocal every, count
        if count % every == 0:
            picture = Image.fromarray(paint_heat(prediction))
            picture.thumbnail((320, 320))
            kept.append((prediction.seconds, picture))
        count += 1
        if len(kept) > 8 * SHEET ** 2:  # bounded, however long the video
            kept[:], every = kept[::2], 2 * every

    yield write
    if kept:
        shown = np.linspace(0, len(kept) - 1, min(len(kept), SHEET ** 2)).round().astype(int)
        with utils.atomic_path(path) as temporary:
            page([kept[number] for number in shown]).save(temporary, format="PNG")


def page(pictures: list[tuple[float, Image.Image]]) -> Image.Image:
    """Thumbnails in rows, the time below each."""
    columns, label = min(SHEET, len(pictures)), 14
    width, height = (max(image.size[axis] for _, image in pictures) for axis in (0, 1))
    sheet = Image.new("RGB", (columns * (width + 4) + 4, -(-len(pictures) // columns) * (height + label + 4) + 4))
    for number, (seconds, image) in enumerate(pictures):
        left, top = 4 + number % columns * (width + 4), 4 + number // columns * (height + label + 4)
        sheet.paste(image, (left, top))
        ImageDraw.Draw(sheet).text((left, top + image.height + 1), clock(seconds), fill="white")
    return sheet


def clock(seconds: float) -> str:
    """M:SS.hh"""
    hundredths = round(100 * seconds)
    return f"{hundredths // 6000}:{hundredths % 6000 / 100:05.2f}"


class Output(NamedTuple):
    """A kind of output that --save takes.

    Attributes:
        place: below --out, with the video's {name}: a file, or a folder with a file FRAME.KIND for each frame.
        help: for the command line.
        open: (path, source) -> a context that returns the function to write a prediction with; after it, files are
            whole or not there.
        per_frame: whether `place` is a folder.
        shows_frames: whether maps are laid on the frames, and must have their size.
        threads: how many write; one keeps the order of the frames.
    """
    place: str
    help: str
    open: Callable[[Path, Source], contextlib.AbstractContextManager[Write]]
    per_frame: bool = False
    shows_frames: bool = False
    threads: int = 1


OUTPUTS = {  # what --save takes
    "png": Output("{name}/", "8-bit maps OUT/VIDEO/FRAME.png, as the model's authors save theirs (RecSal-Net's: each "
                  "stretched to 0 .. 255)", png_maps, per_frame=True, threads=4),
    "npy": Output("{name}/", "float16 maps OUT/VIDEO/FRAME.npy, as the network outputs them, in [0, 1]", npy_maps,
                  per_frame=True, threads=4),
    "npz": Output("{name}.npz", "all of those in one file, under the frames' names", archive),
    "map-video": Output("{name}_map.mp4", "the 8-bit maps as a grey video", map_video),
    "overlay": Output("{name}_overlay.mp4", "the video with the map as heat on it, and its sound", overlay,
                      shows_frames=True),
    "sheet": Output("{name}_sheet.png", "16 frames with their heat on one page", contact_sheet, shows_frames=True),
}


def output_path(out: Path, name: str, kind: str) -> Path:
    """Where a video's output of a kind goes: a file, or the folder of its frames' files."""
    return out / OUTPUTS[kind].place.format(name=name)


def check_kinds(kinds: list[str], resized: bool) -> None:
    """Raise a ValueError where maps that are not `resized` would be laid on frames."""
    laid = [kind for kind, output in OUTPUTS.items() if output.shows_frames]
    if not resized and {*laid} & {*kinds}:
        raise ValueError(f"--no-resize leaves maps smaller than the frames that --save {' and '.join(laid)} lay them "
                         "on: leave out one of them")
