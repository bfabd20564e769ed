"""What maps are scored against: density and fixations, or masks of salient objects; and on which frames."""
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from dataloader import Video
from loss import LABELS, MEASURES
from scoring.salient_objects import VSOD_LABELS, vsod_average, vsod_measures
from videos.annotation import read_density, read_mask

PROTOCOLS = {
    "float": "maps as the network and its authors' way of finishing give them (RecSal-Net: blurred 11 x 11), at the frame's size, not quantised; "
             "undefined values are left out of the averages",
    "dhf1k": "maps of 8 bits, as their files hold them and the benchmark reads them; SIM of an all-zero density map counts as 0, as in its code; "
             "other undefined values are left out of the averages",
}


@dataclass(frozen=True)
class Judged:
    """By what maps are judged: fixations, or masks of salient objects.

    Attributes:
        annotated: the indices of a video's frames that have what maps are compared with.
        counted: the indices of those that are scored.
        target: (video, stem) -> what a frame's map is compared with, a picture.
        labels: measure -> its name in tables, in order.
        average: rows of frames -> {measure: mean}.
        leading: the measure by which examples are chosen, more is better.
    """
    annotated: Callable[[Video], list[int]]
    counted: Callable[[Video], list[int]]
    target: Callable[[Video, str], np.ndarray]
    labels: dict[str, str]
    average: Callable[[list[dict]], dict[str, float]]
    leading: str


def frame_average(rows: list[dict]) -> dict[str, float]:
    """Mean of each measure over the rows where it is defined; NaN where it is defined in none."""
    return mean_of(rows, MEASURES)


def mean_of(rows: list[dict], names: Iterable[str]) -> dict[str, float]:
    """Mean of each name over the rows where it is defined; NaN where it is defined in none."""
    defined = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in names}
    return {name: sum(values) / len(values) if values else math.nan for name, values in defined.items()}


def inner_masked(video: Video) -> list[int]:
    """Indices of the frames with a mask, but for the first and the last frame of the video."""
    return [index for index in video.masked() if 0 < index < len(video.frames) - 1]


BY_FIXATIONS = Judged(Video.annotated, Video.annotated, lambda video, stem: read_density(video.maps[stem]),
                      {name: LABELS[name] for name in MEASURES}, frame_average, "cc")
BY_MASKS = Judged(Video.masked, Video.masked, lambda video, stem: read_mask(video.masks[stem]),
                  VSOD_LABELS, vsod_average, "s")
MASK_FRAMES = {"all": BY_MASKS, "inner": replace(BY_MASKS, counted=inner_masked)}


def find_judged(videos: list[Video], protocol: str | None, mask_frames: str | None) -> Judged:
    """By what the maps of these videos are judged; where masks cannot be, that is said before anything is computed."""
    if not any(video.masked() for video in videos):
        if mask_frames:
            raise ValueError(f"--mask-frames {mask_frames} is for masks of salient objects: these videos have none")
        return BY_FIXATIONS
    if protocol:
        raise ValueError(f"--protocol {protocol} is for maps that are scored by fixations: these videos have masks of salient objects")
    vsod_measures()
    return MASK_FRAMES[mask_frames or "all"]


def choose_frames(videos: list[Video], sample: int | None, seed: int, judged: Judged = BY_FIXATIONS) -> dict[str, list[int]]:
    """Video -> indices of the frames to score: all that count, or `sample` of all of them, drawn at random."""
    every = [(video.name, index) for video in videos for index in judged.counted(video)]
    if sample is not None and sample < len(every):
        drawn = np.random.default_rng(seed).choice(len(every), size=sample, replace=False)
        every = [every[number] for number in sorted(drawn)]
    chosen = {video.name: [] for video in videos}
    for name, index in every:
        chosen[name].append(index)
    return chosen
