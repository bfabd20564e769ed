"""What maps are scored against: density and fixations, or masks of salient objects; and on which frames."""
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from loss import MEASURES
from scoring.other_fixations import OTHERS, OtherFixations
from scoring.salient_objects import VSOD_LABELS, vsod_average, vsod_measures
from scoring.scorers import ObjectScorer, Scorer
from videos.annotation import read_density, read_mask
from videos.video import Video


class ScoringTarget:
    """A kind of annotation that maps are scored against; a subclass says what script, report and figures need of it.

    Attributes:
        protocol: how maps are scored, a key of `methods.PROTOCOLS`.
        labels: measure -> its name in tables, in order.
        leading: the measure that examples are chosen by; higher is better.
        picture_name: what `picture` shows.
        can_be_undefined: whether a measure may be undefined in a frame; the report counts such frames.
        constant_maps: what constant maps do to the scores, a sentence; may be empty.
        not_counted: why frames with annotation may not count, in words.
        explained: what the report says on measures and sizes below its tables.
        details: entries of scores.json.
    """
    protocol: str
    labels: dict[str, str]
    leading: str
    picture_name: str
    can_be_undefined: bool
    constant_maps = ""
    not_counted = ""
    explained: tuple[str, ...] = ()
    details: dict = {}

    def annotated(self, video: Video) -> list[int]:
        """The indices of a video's frames that have this annotation."""
        raise NotImplementedError

    def counted(self, video: Video) -> list[int]:
        """The indices of those that are scored."""
        return self.annotated(video)

    def picture(self, video: Video, stem: str) -> np.ndarray:
        """What a frame's map is scored against, (H, W), for the figures."""
        raise NotImplementedError

    def average(self, rows: list[dict]) -> dict[str, float]:
        """Measure -> its average over frames."""
        raise NotImplementedError

    def scorers(self, count: int, videos: list[Video], device: torch.device, seed: int, skip_bad: bool,
                baseline: bool) -> list:
        """A scorer for each of `count` methods; the first one scores the centre Gaussian too if `baseline`.

        Args:
            count, baseline: as above.
            videos, seed, skip_bad: of `OtherFixations`.
            device: where measures are computed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FixationTarget(ScoringTarget):
    """Density maps and fixations."""
    protocol: str = "float"

    protocols = ("float", "dhf1k")
    labels = {name: measure.label for name, measure in MEASURES.items()}
    leading, picture_name, can_be_undefined = "cc", "density", True
    constant_maps = "CC, SIM, s-AUC and NSS are undefined there and left out, which flatters the method."
    explained = (
        "AUC-J is the expectation over the random breaking of ties, s-AUC the exact expectation over random splits "
        f"against the fixations of {OTHERS} other frames. Maps that differ from their annotation in size are resized "
        "to it as MATLAB's imresize does (bicubic, antialiased)",
        "Files that test.py and predict.py write are made 8 bits as each network's authors do (RecSal-Net: stretched "
        "to 0 .. 255 frame by frame). KL depends on that stretch, the other measures do not: compare KL within one "
        "protocol only",
    )

    def annotated(self, video: Video) -> list[int]:
        return video.annotated()

    def picture(self, video: Video, stem: str) -> np.ndarray:
        return read_density(video.maps[stem])

    def average(self, rows: list[dict]) -> dict[str, float]:
        return mean_of(rows, self.labels)

    def scorers(self, count: int, videos: list[Video], device: torch.device, seed: int, skip_bad: bool,
                baseline: bool) -> list[Scorer]:
        others = OtherFixations(videos, seed, skip_bad)  # one for all: it keeps what it has read
        batch_size = 1 if device.type == "cpu" else 16
        return [Scorer(others, self.protocol, device, baseline and number == 0, batch_size) for number in range(count)]


@dataclass(frozen=True)
class MaskTarget(ScoringTarget):
    """Masks of salient objects, of all frames or of the inner ones: all but the first and the last of each sequence."""
    frames: str = "all"

    choices = ("all", "inner")
    protocol, labels = ObjectScorer.protocol, VSOD_LABELS
    leading, picture_name, can_be_undefined = "s", "mask", False
    not_counted = "the first and the last frame of each sequence, by --mask-frames inner, as in DAVIS's protocol"
    explained = ("Maps that differ from their mask in size are resized to it bilinearly",)

    @property
    def details(self) -> dict:
        return {"mask_frames": self.frames}

    def annotated(self, video: Video) -> list[int]:
        return video.masked()

    def counted(self, video: Video) -> list[int]:
        return [i for i in video.masked() if self.frames == "all" or 0 < i < len(video.frames) - 1]

    def picture(self, video: Video, stem: str) -> np.ndarray:
        return read_mask(video.masks[stem])

    def average(self, rows: list[dict]) -> dict[str, float]:
        return vsod_average(rows)

    def scorers(self, count: int, videos: list[Video], device: torch.device, seed: int, skip_bad: bool,
                baseline: bool) -> list[ObjectScorer]:
        return [ObjectScorer(baseline and number == 0) for number in range(count)]


BY_FIXATIONS = FixationTarget()


def find_target(videos: list[Video], protocol: str | None, mask_frames: str | None,
                default_protocol: str) -> ScoringTarget:
    """What the maps of these videos are scored against: masks if any video has them, else fixations.

    Args:
        videos: of one split.
        protocol, mask_frames: as given on the command line; None if not.
        default_protocol: for fixations.

    Raises:
        ValueError: `protocol` or `mask_frames` was given for the other kind.
        ModuleNotFoundError: the measures of masks need a package that is not installed.
    """
    if not any(video.masked() for video in videos):
        if mask_frames:
            raise ValueError(f"--mask-frames {mask_frames} is for masks of salient objects: these videos have none")
        return FixationTarget(protocol or default_protocol)
    if protocol:
        raise ValueError(f"--protocol {protocol} is for maps that are scored by fixations: these videos have masks of "
                         "salient objects")
    vsod_measures()  # raises now, not after the maps are made
    return MaskTarget(mask_frames or "all")


def choose_frames(videos: list[Video], sample: int | None, seed: int,
                  target: ScoringTarget = BY_FIXATIONS) -> dict[str, list[int]]:
    """Video's name -> indices of the frames to score: all that count, or `sample` of all videos', drawn at random."""
    every = [(video.name, index) for video in videos for index in target.counted(video)]
    if sample is not None and sample < len(every):
        drawn = np.random.default_rng(seed).choice(len(every), size=sample, replace=False)
        every = [every[number] for number in sorted(drawn)]
    chosen = {video.name: [] for video in videos}
    for name, index in every:
        chosen[name].append(index)
    return chosen


def mean_of(rows: list[dict], names: Iterable[str]) -> dict[str, float]:
    """Mean of each name over the rows where it is defined; NaN where it is defined in none."""
    defined = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in names}
    return {name: sum(values) / len(values) if values else math.nan for name, values in defined.items()}
