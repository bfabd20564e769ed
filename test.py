"""Predict a dataset's saliency maps and score them. With no argument: saved_models/RecSalNet.pth on DHF1K's validation set.

    python test.py
    python test.py --data data/sample --weights saved_models/demo/RecSalNet.pth --centre-baseline
    python test.py --data data/DHF1K --predictions some_methods_maps        # a folder of maps, no model
    python test.py --model recsalnet tased_net salema                       # several, in one table and one figure
    torchrun --nproc-per-node 4 test.py                                     # on 4 GPUs, the same table
"""
import argparse
import collections
import contextlib
import copy
import csv
import functools
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import utils
from baselines import MODELS
from baselines.loading import default_weights, flow_for, load_model, model_argument, print_configuration
from baselines.optical_flow import AUTO, METHODS, FlowSource, flow_arguments
from baselines.smcf import VSOD_LABELS, vsod_average, vsod_frame, vsod_measures
from dataloader import (
    DATASET_FOLDERS,
    DATASETS,
    TREE,
    Video,
    check_same_size,
    dataset_folder,
    find_videos,
    folder_called,
    frame_key,
    images_by,
    imresize,
    inventory,
    natural,
    resize_density,
)
from loss import LABELS, MEASURES, is_constant, measures, to_device
from prediction.engine import default_batch_size, engine_arguments, saliency_maps
from prediction.outputs import write_map
from saliency_model import EngineOptions, stretch
from scoring.published import PUBLISHED
from utils import (
    BoundedExecutor,
    at_least,
    choose_precision,
    device_arguments,
    in_threads,
    keep_freed_memory,
    select_device,
)
from videos.annotation import (
    Remark,
    examine_density,
    examine_fixations,
    examine_mask,
    read_density,
    read_fixations,
    read_mask,
    read_prediction,
    remarks_on_density,
)
from videos.images import IMAGE_SUFFIXES, read_frame, read_image
from weights import sha256_of

OTHERS = 10                                                                # frames whose fixations s-AUC compares with
PROTOCOLS = {
    "float": "maps as the network and its authors' way of finishing give them (RecSal-Net: blurred 11 x 11), at the frame's size, not quantised; "
             "undefined values are left out of the averages",
    "dhf1k": "maps of 8 bits, as their files hold them and the benchmark reads them; SIM of an all-zero density map counts as 0, as in its code; "
             "other undefined values are left out of the averages",
}
OBJECTS_PROTOCOL = "masks"
WITH_MASKS = {OBJECTS_PROTOCOL: "maps of 8 bits, as their files hold them, against masks whose objects are above 128, by the library pysodmetrics; "
                                "every frame that has a mask counts alike, whatever its sequence"}
STORED = {**PROTOCOLS, "float": "maps as their files have them, resized without rounding; undefined values are left out of the averages"}
STRETCH = ("Files that test.py and predict.py write are made 8 bits as each network's authors do (RecSal-Net: stretched to 0 .. 255 frame by frame). "
           "KL depends on that stretch, the other measures do not: compare KL within one protocol only")
RESIZED = "Maps that differ from their mask in size are resized to it bilinearly"
COMMON = ("AUC-J is the expectation over the random breaking of ties, s-AUC the exact expectation over random splits against the fixations of "
          f"{OTHERS} other frames. Maps that differ from their annotation in size are resized to it as MATLAB's imresize does (bicubic, antialiased)")
SPEED = ("Parameters and operations are those of the network at its own frame size, for one map. Frames/s are those of this run: reading and "
         "resizing frames included, scoring not.")
BASELINE = "centre Gaussian"
FIGURES = {"distributions.png": "the videos' averages and their quartiles",
           "best_and_worst.png": "each video's best, and worst, frame by {measure}; three videos of each",
           "comparison.png": "up to six of the frames, evenly chosen"}


# What is compared with what

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


class OtherFixations:
    """For shuffled AUC: the union of the fixations of frames of other videos, drawn at random but reproducibly.

    Args:
        videos: the dataset. If only one is annotated, the other frames are that video's own (`same_video`).
        seed: with the dataset, the video's name and the frame's index it determines the frames drawn.
        skip_bad: whether an unreadable fixation map counts as empty, and is listed in `unreadable`, or raises.
    """

    def __init__(self, videos: list[Video], seed: int, skip_bad: bool = False) -> None:
        self.seed, self.skip_bad, self.unreadable = seed, skip_bad, set()
        fixated = [[video.frames[i] for i in video.annotated()] if video.fixations else [] for video in videos]
        files = {(video.name, frame.stem): (video.fixations[frame.stem], video.like(frame))
                 for video, frames in zip(videos, fixated) for frame in frames}
        self.frames, self.files = list(files), files
        stops = np.cumsum([len(frames) for frames in fixated]).tolist()
        self.span = {video.name: (start, stop) for video, start, stop in zip(videos, [0, *stops], stops)}  # where its own frames are
        self.same_video = sum(stop > start for start, stop in self.span.values()) == 1
        self.positions = functools.cache(self.read_positions)              # a frame is drawn by ten others on average

    def read_positions(self, path: Path, like: Path) -> np.ndarray:
        """The fixations of a file as (n, 2) rows and columns from 0, the first pixel, to 1, the last.

        Args:
            path, like: of `read_fixations`.
        """
        try:
            fixations = read_fixations(path, like)
        except (FileNotFoundError, ValueError):
            if not self.skip_bad:
                raise
            self.unreadable.add(str(path))
            return np.empty((0, 2))
        return np.argwhere(fixations) / np.maximum(1, np.array(fixations.shape) - 1)

    def draw(self, video: Video, index: int) -> list[tuple[str, str]]:
        """For frame `index` of a video: 10 other frames, or all if fewer, as (video's name, frame's stem)."""
        start, stop = self.span[video.name]
        if self.same_video and stop > start:
            start = self.frames.index((video.name, video.frames[index].stem))
            stop = start + 1
        generator = np.random.default_rng([self.seed, index, *video.name.encode()])
        available = len(self.frames) - (stop - start)
        drawn = generator.choice(available, size=min(OTHERS, available), replace=False)
        return [self.frames[number if number < start else number + stop - start] for number in drawn]

    def union(self, drawn: list[tuple[str, str]], size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool: all fixations of those frames, their coordinates rescaled to this size and rounded."""
        union = np.zeros(size, dtype=bool)
        for frame in drawn:
            row, column = np.round(self.positions(*self.files[frame]) * (np.array(size) - 1)).astype(int).T
            union[row, column] = True
        return union


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


def centre_gaussian(size: tuple[int, int]) -> Tensor:
    """The baseline that looks at no frame, (H, W): a Gaussian in the centre, sigma a quarter of height and width."""
    row, column = (torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) for n in size)
    return row[:, None] * column


# Scoring

class Scorer:
    """Scores maps in batches. The measures do not make the host wait for a GPU; their values are fetched once a video.

    Args:
        others: what shuffled AUC compares with.
        protocol: a key of `PROTOCOLS`.
        device: where to compute.
        baseline: whether to score the centre Gaussian on the same frames.
        batch_size: maps scored at once; one at a time is fastest on a CPU, whose caches hold no more.

    Attributes:
        drawn: video -> frame -> the frames that s-AUC compared it with, "VIDEO/FRAME".
        resized, constant: video -> number of maps that had another size than their annotation, and of maps of one value.
        remarks: video -> the reason of every remark on its annotation, once for each frame that it holds for.
    """

    def __init__(self, others: OtherFixations, protocol: str, device: torch.device, baseline: bool = False, batch_size: int = 1) -> None:
        self.others, self.protocol, self.device, self.baseline, self.batch_size = others, protocol, device, baseline, batch_size
        self.drawn, self.resized, self.constant, self.remarks = {}, {}, {}, {}

    def __call__(self, video: Video, indices: list[int], maps: Iterable[Tensor], method: str) -> list[dict]:
        """Score some frames of a video.

        Args:
            video: has their annotation, which threads read ahead of the maps.
            indices: of the frames.
            maps: theirs, (H, W), uint8 or float.
            method: whose maps they are.

        Returns:
            A row for each, {"method", "video", "frame", "auc_j", ..}, and those of the baseline if wanted.
        """
        frames, values = {}, []
        targets = in_threads(functools.partial(self.targets, video), indices)
        for batch in batches(map(self.sample, targets, maps), self.batch_size):
            values.append(self.score(batch))
            frames |= {sample["frame"]: {name: sample[name] for name in ("others", "resized", "remarks")}
                       for sample in batch}
        values = torch.cat(values).tolist() if values else []              # the first moment that they are needed
        self.constant[video.name] = sum(value.pop() == 1 for value in values)
        self.resized[video.name] = sum(about["resized"] for about in frames.values())
        self.drawn[video.name] = {frame: about["others"] for frame, about in frames.items()}
        self.remarks[video.name] = reasons(about["remarks"] for about in frames.values())
        six = len(MEASURES)
        return [{"method": name, "video": video.name, "frame": frame, **dict(zip(MEASURES, value[start:start + six]))}
                for name, start in ((method, 0), (BASELINE, six)) for frame, value in zip(frames, values) if value[start:]]

    def gather(self, videos: list[Video]) -> None:
        """Make what this process has drawn and counted what all processes have, in the order of the dataset."""
        parts = utils.all_gather({"drawn": self.drawn, "unreadable": self.others.unreadable, "resized": self.resized,
                                "constant": self.constant, "remarks": self.remarks})
        self.drawn = {video.name: drawn for video in videos for part in parts if (drawn := part["drawn"].get(video.name)) is not None}
        self.others.unreadable = set().union(*(part["unreadable"] for part in parts))
        self.resized, self.constant, self.remarks = (joined(part[name] for part in parts)
                                                     for name in ("resized", "constant", "remarks"))

    def targets(self, video: Video, index: int) -> dict:
        """What a frame's map is compared with, on the CPU."""
        density, fixations, remarks = read_annotation(video, index)
        drawn = self.others.draw(video, index)
        arrays = {"density": density, "fixations": fixations, "other_fixations": self.others.union(drawn, density.shape)}
        return {"frame": video.frames[index].stem, "others": ["/".join(other) for other in drawn], "remarks": remarks,
                **{name: torch.from_numpy(x) for name, x in arrays.items()}}

    def sample(self, targets: dict, saliency: Tensor) -> dict:
        """The targets with their map, at their size, on the device."""
        size = tuple(targets["density"].shape)
        resized = tuple(saliency.shape) != size
        if resized:                                                        # without the cubic kernel's undershoot: KL's logarithm
            saliency = imresize(saliency.cpu(), size).clamp(min=saliency.min().item())
        return {**targets, "saliency": to_device(saliency, self.device), "resized": resized}

    @torch.no_grad()
    def score(self, batch: list[dict]) -> Tensor:
        """A column for each measure, six more of the baseline if wanted, and whether the map is constant: (B, 7 or 13)."""
        saliency, density, *fixations = (torch.stack([sample[name] for sample in batch])
                                         for name in ("saliency", "density", "fixations", "other_fixations"))
        density = to_device(density, self.device)
        columns = self.by_protocol(saliency, density, *fixations)
        if self.baseline:
            centre = to_device(self.centre(density.shape[1:]), self.device).expand_as(density)
            columns += self.by_protocol(centre, density, *fixations)
        return torch.stack([*columns, is_constant(saliency)], dim=1)

    def centre(self, size: tuple[int, int]) -> Tensor:
        """The centre Gaussian, of 8 bits where the protocol's maps are."""
        centre = centre_gaussian(size)
        return stretch(centre) if self.protocol == "dhf1k" else centre

    def by_protocol(self, saliency: Tensor, density: Tensor, *fixations: Tensor) -> list[Tensor]:
        """The measures in order, (B,) each."""
        values = measures(saliency, density, *fixations)
        if self.protocol == "dhf1k":
            values["sim"] = values["sim"].masked_fill(density.amax((1, 2)) == 0, 0)
        return list(values.values())


class ObjectScorer:
    """Scores maps against masks of salient objects, as `Scorer` does against fixations.

    Args:
        baseline: whether to score the centre Gaussian on the same frames.

    Attributes:
        resized, constant, remarks: as of `Scorer`.
    """

    protocol, others, drawn = OBJECTS_PROTOCOL, None, {}                   # nothing is drawn at random

    def __init__(self, baseline: bool = False) -> None:
        self.baseline, self.resized, self.constant, self.remarks = baseline, {}, {}, {}

    def __call__(self, video: Video, indices: list[int], maps: Iterable[Tensor], method: str) -> list[dict]:
        """A row for each of these frames, {"method", "video", "frame", "mae", ..}, and those of the baseline if wanted; maps are uint8."""
        rows, baseline, counts, remarks = [], [], collections.Counter(), []
        masks = in_threads(lambda index: examine_mask(video.masks[video.frames[index].stem]), indices)
        for index, (mask, about_mask), saliency in zip(indices, masks, maps):
            remarks.append(about_mask)
            about, size = {"video": video.name, "frame": video.frames[index].stem}, tuple(mask.shape)
            counts.update(resized=tuple(saliency.shape) != size, constant=int(saliency.min() == saliency.max()))
            rows.append({"method": method, **about, **vsod_frame(bilinear(saliency, size), mask)})
            if self.baseline:
                baseline.append({"method": BASELINE, **about, **vsod_frame(stretch(centre_gaussian(size)).numpy(), mask)})
        self.resized[video.name], self.constant[video.name] = counts["resized"], counts["constant"]
        self.remarks[video.name] = reasons(remarks)
        return rows + baseline

    def gather(self, videos: list[Video]) -> None:
        """Make what this process has counted what all processes have."""
        parts = utils.all_gather((self.resized, self.constant, self.remarks))
        self.resized, self.constant, self.remarks = map(joined, zip(*parts))


def reasons(frames: Iterable[list[Remark]]) -> list[str]:
    """The reasons of all frames' remarks, one after the other; of a frame each reason once."""
    return [reason for remarks in frames for reason in dict.fromkeys(remark.reason for remark in remarks)]


def joined(parts: Iterable[dict]) -> dict:
    """One dict of several."""
    return {name: value for part in parts for name, value in part.items()}


def bilinear(saliency: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A map, (h, w) uint8, at another size, (H, W) uint8."""
    return saliency.cpu().numpy() if tuple(saliency.shape) == size else resize_density(saliency.cpu().numpy(), size)


def read_annotation(video: Video, index: int) -> tuple[np.ndarray, np.ndarray, list[Remark]]:
    """Density, (H, W) float32, fixations, (H, W) bool, and remarks on both; a ValueError where they differ in size.

    Of a video with density maps alone, no pixel is fixated: measures of fixations are undefined there.
    """
    stem = video.frames[index].stem
    density, remarks = examine_density(video.maps[stem])
    if not video.fixations:
        return density, np.zeros(density.shape, dtype=bool), remarks + remarks_on_density(density, None)
    fixations, more = examine_fixations(video.fixations[stem], video.maps[stem])
    check_same_size(density, fixations, video, stem)
    return density, fixations, remarks + more + remarks_on_density(density, fixations)


def batches(samples: Iterable[dict], size: int) -> Iterator[list[dict]]:
    """Groups of up to `size` samples in a row whose maps have one shape."""
    group = []
    for sample in samples:
        if len(group) == size or (group and group[0]["saliency"].shape != sample["saliency"].shape):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


# Averages

def summarise(rows: list[dict], judged: Judged = BY_FIXATIONS) -> dict:
    """Both averages of the measures of many frames.

    Args:
        rows: {"video", "frame", "auc_j", ..}, NaN where undefined.
        judged: by what.

    Returns:
        {"frames", "videos"}: counts; {"frame_average", "video_average"}: measure -> mean over frames, or over videos of
        the mean over their frames; {"left_out"}: measure -> frames where it is undefined, which no mean counts.
    """
    videos = per_video(rows, judged)
    return {
        "frames": len(rows), "videos": len(videos), "frame_average": judged.average(rows), "video_average": mean_of(videos, judged.labels),
        "left_out": {name: sum(math.isnan(row[name]) for row in rows) for name in judged.labels},
    }


def grouped(rows: list[dict], by: str) -> dict[str, list[dict]]:
    """"method" or "video" -> its rows, in order."""
    groups = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return groups


def per_video(rows: list[dict], judged: Judged = BY_FIXATIONS) -> list[dict]:
    """{"video", "frames", means of the measures} of each video."""
    return [{"video": video, "frames": len(frames), **judged.average(frames)} for video, frames in grouped(rows, "video").items()]


# Where maps come from: a network, or files. Both have a name, details for the report, and what they cost.

class Network:
    """A network's maps. It writes one for every frame of a video to FOLDER/VIDEO/FRAME.png, 8 bits, at the frame's size.

    Args:
        model: in eval mode.
        weights: the file it comes from, for the report.
        flow: where its flow comes from, if it needs any.
        options: of `saliency_maps`.

    Attributes:
        frames, seconds: maps made so far, and the time that took, reading the frames included.
    """

    def __init__(self, model: nn.Module, weights: str | Path, flow: FlowSource | None = None,
                 options: EngineOptions | None = None) -> None:
        self.model, self.flow, self.options, self.frames, self.seconds = model, flow, options or EngineOptions(), 0, 0.0
        self.name, self.protocols = type(model).__name__, {**PROTOCOLS, **WITH_MASKS}
        self.details = {"model": self.name, "weights": str(weights), "weights_sha256": sha256_of(weights),
                        "configuration": model.config, "parameters": sum(p.numel() for p in model.parameters()), "gflop": gflop(model),
                        "flow": flow and flow.describe(), "batch_size": self.options.batch_size,
                        "interpolate": self.options.interpolate}

    def maps(self, video: Video, indices: list[int], protocol: str, folder: Path) -> Iterator[Tensor]:
        """The maps of these frames, as the network gives them ("float") or as the files hold them (other protocols)."""
        frames, wanted = in_threads(read_frame, video.frames), set(indices)
        maps = self.timed(saliency_maps(self.model, frames, self.flows(video), self.options))
        with BoundedExecutor() as later:
            bar = tqdm(maps, desc=video.name, total=len(video.frames), unit="frame", leave=False, disable=utils.hide_bar())
            for index, saliency in enumerate(bar):
                later(write_map, folder / video.name / f"{video.frames[index].stem}.png", saliency, self.model.quantise)
                if index in wanted:
                    yield saliency if protocol == "float" else self.model.quantise(saliency)

    def flows(self, video: Video) -> Iterator[np.ndarray] | None:
        """The pictures of the flow of all frames, where the network needs them."""
        pictures = self.flow and self.flow.pictures(video.frames)
        return pictures and (pictures[index] for index in range(len(video.frames)))

    def speed(self) -> dict[str, float]:
        """{"frames_per_second"}: of all processes together, since this was asked last; {"flow_used"}."""
        frames, = utils.all_reduce_sum([self.frames])
        seconds = max(utils.all_gather(self.seconds))
        self.frames, self.seconds = 0, 0.0
        return {"frames_per_second": frames / seconds if seconds else math.nan, "flow_used": self.flow_used()}

    def flow_used(self) -> list[str] | None:
        """What its pictures of flow came from, in all processes: methods, or names of folders; None where it needs none."""
        return sorted(set().union(*utils.all_gather(self.flow.used))) if self.flow else None

    def timed(self, maps: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same maps; how long each is waited for is added up, what is done with them in between is not."""
        while True:
            asked = time.perf_counter()
            saliency = next(maps, None)
            if saliency is not None and saliency.is_cuda:
                torch.cuda.synchronize(saliency.device)
            self.seconds += time.perf_counter() - asked
            if saliency is None:
                return
            self.frames += 1
            yield saliency


def gflop(model: nn.Module) -> float:
    """Billions of operations for one map at the network's own frame size, multiply and add counted apart; counted without computing."""
    shadow = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(*shadow.blank())
    return counter.get_total_flops() / 1e9 / model.maps_per_forward


class StoredMaps:
    """Any method's maps, in files FOLDER/VIDEO/FRAME.png (or another kind of image)."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"no predictions {folder}: {'it is a file' if folder.exists() else 'the folder does not exist'}; "
                                    "expected a folder with VIDEO/FRAME.png, videos and frames named like the dataset's")
        self.folder, self.name, self.protocols = folder, folder.resolve().name, {**STORED, **WITH_MASKS}
        self.details = {"predictions": str(folder)}

    def speed(self) -> dict:
        """Nothing: its maps were made elsewhere."""
        return {}

    def maps(self, video: Video, indices: list[int], protocol: str, folder: Path | None) -> Iterator[Tensor]:
        """The maps of these frames."""
        self.check(video, indices)
        files = stored_files(self.folder, video.name)
        return in_threads(functools.partial(stored_map, protocol=protocol), [files[frame_key(video.frames[index].stem)] for index in indices])

    def check(self, video: Video, indices: list[int]) -> None:
        """Raise a FileNotFoundError where a frame to score has no map: what was expected where, and what is there."""
        files = stored_files(self.folder, video.name)
        missing = [video.frames[index].stem for index in indices if frame_key(video.frames[index].stem) not in files]
        if missing:
            place = folder_called(self.folder, video.name)
            place = place if place.is_dir() else self.folder
            held = natural(path.name for path in place.iterdir())
            present = f"holds {held[0]} to {held[-1]}, {len(held)} in all" if held else "is empty"
            raise FileNotFoundError(
                f"no map for {len(missing)} of the {len(indices)} frames to score of video {video.name}: expected "
                f"{self.folder / video.name / missing[0]}.png (or {', '.join(sorted(IMAGE_SUFFIXES - {'.png'}))}), but {place} {present}. "
                "Names are those of the dataset")


def check_all(source: StoredMaps, videos: list[Video], chosen: dict[str, list[int]]) -> None:
    """Raise the first video's problem with its stored maps, and say how many videos have one."""
    problems = []
    for video in videos:
        try:
            source.check(video, chosen[video.name])
        except FileNotFoundError as error:
            problems.append(str(error))
    if problems:
        raise FileNotFoundError(f"{problems[0]}. {len(problems)} of {len(videos)} videos lack maps; --skip-bad scores the others")


def stored_files(folder: Path, video: str) -> dict[str, Path]:
    """A frame's `frame_key` -> file of a video's maps."""
    return images_by(folder_called(folder, video), "maps", frame_key)


def stored_map(path: Path, protocol: str) -> Tensor:
    """A map from its file, (H, W): uint8, so that resizing rounds as the benchmark's does; for "float" float32, 0 to 255."""
    saliency = torch.from_numpy(read_prediction(path))
    return saliency.float() if protocol == "float" else saliency


# The report

def cost_table(methods: dict[str, dict]) -> str:
    """Markdown: what each method's network costs; empty where none has one."""
    costs = {name: details for name, details in methods.items() if "gflop" in details}
    lines = [table_row(["method", "parameters (M)", "GFLOP a map", "frames/s"]), table_row(["---"] * 4)]
    for name, about in costs.items():
        lines.append(table_row([name, f"{about['parameters'] / 1e6:.1f}", f"{about['gflop']:.3g}", f"{about['frames_per_second']:.3g}"]))
    return "\n".join(lines) if costs else ""


def table(summaries: dict[str, dict], judged: Judged = BY_FIXATIONS) -> str:
    """Markdown: for each method a row for either average, and one for the frames left out of both; by masks all measures are defined."""
    labels = judged.labels
    lines = [table_row(["method", "", *labels.values()]), table_row(["---"] * (2 + len(labels)))]
    for method, summary in summaries.items():
        averages = {"frame_average": "average over frames", "video_average": f"average over {summary['videos']} videos"}
        lines += [table_row([method, label, *(four_digits(summary[average][name]) for name in labels)]) for average, label in averages.items()]
        if judged is BY_FIXATIONS:
            lines.append(table_row([method, f"left out of {summary['frames']} frames", *(str(summary["left_out"][name]) for name in labels)]))
    return "\n".join(lines)


def four_digits(value: float) -> str:
    """A score in a table; "-" where it is defined nowhere."""
    return "-" if math.isnan(value) else f"{round(value, 4) + 0.0:.4f}"    # + 0.0: no -0.0000


def published_sections(dataset: str) -> list[str]:
    """Markdown: what others have published on a dataset, a key of `DATASETS`; nothing where no table is known."""
    if dataset not in PUBLISHED:
        return []
    about, names, scores = PUBLISHED[dataset]
    lines = [table_row(["method", *(LABELS[name] for name in names)]), table_row(["---"] * (1 + len(names)))]
    lines += [table_row([method, *("-" if score is None else f"{score:.3f}" for score in of_one)]) for method, of_one in scores.items()]
    return ["## Published", about, "\n".join(lines)]


def table_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def csv_table(rows: list[dict], columns: list[str], measures: Iterable[str] = MEASURES) -> str:
    """CSV of these columns and the measures, empty where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *measures])
    for row in rows:
        writer.writerow([*(row[name] for name in columns), *(f"{row[name]:.6f}" if not math.isnan(row[name]) else "" for name in measures)])
    return text.getvalue()


def report(rows: list[dict], folder: Path, details: dict, judged: Judged = BY_FIXATIONS) -> str:
    """Write scores.json, scores.md, per_video.csv and per_frame.csv.

    Args:
        rows: of a scorer.
        details: for scores.json; scores.md has some of them in words.
        judged: by what.

    Returns:
        The table with its notes, as in scores.md.
    """
    methods = grouped(rows, "method")
    summaries = {method: summarise(rows_of_one, judged) for method, rows_of_one in methods.items()}
    utils.write_json(folder / "scores.json", {"scores": summaries, **details})
    costs = cost_table(details["methods"])
    explained = [COMMON, STRETCH] if judged is BY_FIXATIONS else [RESIZED]
    text = "\n\n".join([table(summaries, judged), *filter(None, [costs, costs and SPEED]), *details["notes"],
                        f"Protocol {details['protocol']}: {'. '.join([details['protocol_means'], *explained])}."])
    of_method = [f"{name}: {chosen(about, ('weights', 'weights_sha256', 'predictions'))}." for name, about in details["methods"].items()]
    made = f"Made with {chosen(details, ('seed', 'sample_frames', 'device', 'precision', 'revision', 'date'))}."
    published = published_sections(details.get("dataset")) if judged is BY_FIXATIONS else []
    sections = [f"# {details['data']}, split {details['split']}", text, *of_method, made, *published]
    utils.write_text(folder / "scores.md", "\n\n".join(sections) + "\n")
    videos = [{"method": method, **row} for method, rows_of_one in methods.items() for row in per_video(rows_of_one, judged)]
    utils.write_text(folder / "per_video.csv", csv_table(videos, ["method", "video", "frames"], judged.labels))
    utils.write_text(folder / "per_frame.csv", csv_table(rows, ["method", "video", "frame"], judged.labels))
    return text


def chosen(about: dict, names: tuple[str, ...]) -> str:
    """Some entries of a dict in words."""
    return ", ".join(f"{name} {about[name]}" for name in names if about.get(name) is not None)


def figures(rows: dict[str, list[dict]], videos: list[Video], maps: dict[str, Path], folder: Path, title: str,
            judged: Judged = BY_FIXATIONS) -> list[str]:
    """Draw the figures, replacing earlier ones; returns their names, none without matplotlib.

    Args:
        rows: method -> its rows, of a `Scorer`.
        videos: the dataset.
        maps: method -> folder of its maps; the frames beside those of several methods are a comparison, of one its best and worst.
        folder: of the figures.
        title: of all.
        judged: by what.
    """
    for name in FIGURES:
        (folder / name).unlink(missing_ok=True)
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print("figures skipped: matplotlib is not installed (pip install '.[figures]' in the checkout)")
        return []
    drawn = {"distributions.png": draw_distributions(rows, Figure(figsize=(12, 7), layout="constrained"), judged)}
    (method, own), several = next(iter(rows.items())), len(maps) > 1
    best_worst = [(kind, {method: row}) for kind, row in best_and_worst(own, judged.leading)]
    examples = side_by_side({name: rows[name] for name in maps}) if several else best_worst
    if examples:
        size = (3 * (2 + len(maps)), 0.7 + 2 * len(examples))
        figure = Figure(figsize=size, layout="constrained")
        drawn[("best_and_worst.png", "comparison.png")[several]] = draw_examples(examples, videos, maps, figure, judged)
    for name, figure in drawn.items():
        figure.suptitle(f"{title}\n{FIGURES[name].format(measure=judged.labels[judged.leading])}")
        with utils.atomic_path(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=100)
    return list(drawn)


def draw_distributions(rows: dict[str, list[dict]], figure, judged: Judged = BY_FIXATIONS):
    """One panel a measure: for each method the videos' means as points beside their box of quartiles."""
    videos = {method: per_video(of_method, judged) for method, of_method in rows.items()}
    axes = figure.subplots(2, -(-len(judged.labels) // 2)).flat
    for axis in axes[len(judged.labels):]:
        axis.set_axis_off()
    for axis, (name, label) in zip(axes, judged.labels.items()):
        axis.set_title(label)
        for place, of_method in enumerate(videos.values()):
            values = [video[name] for video in of_method if not math.isnan(video[name])]
            if values:
                axis.boxplot(values, positions=[place], widths=0.4, showfliers=False)
                spread = np.random.default_rng(0).uniform(0.25, 0.45, len(values))  # sideways, so that none hides another
                axis.plot(place + spread, values, ".", alpha=0.6)
        labels = [f"{method}\n{four_digits(mean_of(of_method, [name])[name])}" for method, of_method in videos.items()]
        axis.set_xticks(range(len(videos)), labels, fontsize=8)
    return figure


def best_and_worst(rows: list[dict], measure: str = "cc") -> list[tuple[str, dict]]:
    """("best" or "worst", row) of up to three videos each: those videos' own best, or worst, frame by a measure."""
    score = lambda row: row[measure]
    videos = [[row for row in frames if not math.isnan(score(row))] for frames in grouped(rows, "video").values()]
    best = sorted((max(frames, key=score) for frames in videos if frames), key=score, reverse=True)
    worst = sorted((min(frames, key=score) for frames in videos if frames), key=score)
    return [("best", row) for row in best[:3]] + [("worst", row) for row in worst[:3]]


def side_by_side(rows: dict[str, list[dict]]) -> list[tuple[str, dict[str, dict]]]:
    """("", method -> its row) of up to six frames, evenly chosen; every method has scored the same ones."""
    count = len(next(iter(rows.values())))
    chosen = sorted({(2 * number + 1) * count // 12 for number in range(6)})
    return [("", {method: of_method[number] for method, of_method in rows.items()}) for number in chosen]


def draw_examples(examples: list[tuple[str, dict[str, dict]]], videos: list[Video], maps: dict[str, Path], figure,
                  judged: Judged = BY_FIXATIONS):
    """A row for each frame: image, density or mask, and the maps of its methods with their leading measure."""
    by_name = {video.name: video for video in videos}
    for (kind, methods), axes in zip(examples, figure.subplots(len(examples), 2 + len(maps), squeeze=False)):
        row = next(iter(methods.values()))
        video = by_name[row["video"]]
        frame = next(path for path in video.frames if path.stem == row["frame"])
        pictures = [read_frame(frame), judged.target(video, row["frame"])]
        pictures += [read_image(stored_files(maps[name], row["video"])[frame_key(row["frame"])], "L") for name in methods]
        titles = [f"{kind}: {row['video']}\nframe {row['frame']}".removeprefix(": "), "density" if judged is BY_FIXATIONS else "mask"]
        titles += [f"{name}, {judged.labels[judged.leading]} {four_digits(own[judged.leading])}" for name, own in methods.items()]
        for axis, picture, title in zip(axes, pictures, titles):
            axis.imshow(picture, cmap="inferno")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    return figure


# The command line

def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=list(DATASETS),
                      help="whose split names are known; folder: your own (default: dhf1k; of smcf vsod)")
    data.add_argument("--data", type=Path, metavar="FOLDER", help=f"where it lies, in any tree of data/README.md (default: {DATASET_FOLDERS})")
    data.add_argument("--split", nargs="+",
                      help="what to score, one or several, each in a run of its own: a folder below --data, a list of names (.txt), numbers such as "
                           "601-700, or all (default: val; hollywood2 and ucf-sports: testing; diem: test; vsod: TestSet/DAVIS)")
    data.add_argument("--skip-bad", action=argparse.BooleanOptionalAction, default=False,
                      help="leave out videos that cannot be read, counted and reported, instead of stopping (default: off)")
    maps = parser.add_argument_group("maps")
    model_argument(maps, nargs="+", default=None)
    source = maps.add_mutually_exclusive_group()
    source.add_argument("--weights", nargs="+", metavar="FILE",
                        help="weight file of each network, or several of one: a path, or an https URL (URL#sha256=HEX: and checked); FILE#KEY: "
                             "one of several state dicts in it; a .json beside it, or the metadata of a .safetensors file, is read for the "
                             "configuration (default: saved_models/RecSalNet.pth, or so "
                             "for the other models)")
    source.add_argument("--predictions", type=Path, nargs="+", metavar="DIR",
                        help="score the maps in DIR/VIDEO/FRAME.png, of any method and size, instead of a model's (default: none)")
    scores = parser.add_argument_group("scores")
    scores.add_argument("--protocol", choices=list(PROTOCOLS),
                        help="float: maps as the network gives them; dhf1k: as their 8-bit files hold them, SIM 0 where the density is all "
                             "zero, as the benchmark (default: float, with --predictions dhf1k; masks of salient objects have one of their own)")
    scores.add_argument("--mask-frames", choices=list(MASK_FRAMES),
                        help="which frames with a mask of salient objects count; inner: without the first and the last "
                             "frame of each sequence, as in DAVIS's own protocol (default: all)")
    scores.add_argument("--sample-frames", type=at_least(1), metavar="N",
                        help="score N annotated frames, drawn at random; the benchmark's code takes 50000. Maps are made of all frames nevertheless "
                             "(default: all)")
    scores.add_argument("--centre-baseline", action=argparse.BooleanOptionalAction,
                        help="score a Gaussian in the centre too (default: on where several methods are compared, else off)")
    scores.add_argument("--seed", type=at_least(0), default=0, help="of the frames drawn for s-AUC and --sample-frames (default: 0)")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("results"), help="folder that holds runs (default: results)")
    output.add_argument("--method", type=run_name, nargs="+", help="name of each method in tables and folders (default: the model's class, or the "
                                                                   "last folder of --predictions)")
    output.add_argument("--run-name", type=run_name, help="name of this run: maps go to OUT/RUN_NAME/METHOD/VIDEO/FRAME.png, tables and figures to "
                                                          "OUT/RUN_NAME (default: DATA_SPLIT_METHODS_PROTOCOL)")
    output.add_argument("--overwrite", action=argparse.BooleanOptionalAction, default=False,
                        help="replace the scores of an earlier run of this name (default: off)")
    flow_arguments(parser)
    engine_arguments(parser)
    device_arguments(parser, "float32, as the paper's numbers")
    return parser


@dataclass
class Method:
    """Something whose maps are scored: its name in tables, where its maps come from, its scorer, and where its files are.

    Attributes:
        finished: its videos, in the order of the dataset, each with its rows; once they are scored.
    """
    name: str
    source: Network | StoredMaps
    scorer: Scorer | ObjectScorer
    folder: Path
    finished: list[tuple[Video, list[dict]]] = field(default_factory=list)


def score_videos(videos: list[Video], chosen: dict[str, list[int]], method: Method, skipped: list[str] | None) -> Iterator[tuple[Video, list[dict]]]:
    """Each video with its rows; one that cannot be read to its end is left out, own maps and all, where `skipped` is a list."""
    for video in tqdm(videos, desc=method.name, unit="video", disable=utils.hide_bar()):
        try:
            maps = method.source.maps(video, chosen[video.name], method.scorer.protocol, method.folder)
            with contextlib.closing(maps):                                 # before its files are removed
                rows = method.scorer(video, chosen[video.name], maps, method.name)
                collections.deque(maps, maxlen=0)                          # frames after the last one that is scored get maps too
            yield video, rows
        except (FileNotFoundError, ValueError) as error:
            if skipped is None:
                raise
            skipped.append(f"video {video.name}: {error}")
            if isinstance(method.source, Network):
                remove_maps(method.folder / video.name, video)


def put_together(method: Method, videos: list[Video], skipped: list[str] | None) -> None:
    """Make what this process has scored, counted and skipped what all processes have, in the order of the dataset: the same as alone."""
    utils.barrier()                                                   # one may have had much longer videos
    method.scorer.gather(videos)
    parts = utils.all_gather({"rows": {video.name: rows for video, rows in method.finished}, "skipped": skipped or []})
    rows = joined(part["rows"] for part in parts)
    if skipped is not None:                                                # those of the listing are the same in all
        skipped[:] = dict.fromkeys(reason for part in parts for reason in part["skipped"])
    method.finished = [(video, rows[video.name]) for video in videos if video.name in rows]


def keep_common(methods: list[Method]) -> None:
    """Leave out videos that not all methods have finished: scores of different frames cannot be compared."""
    common = set.intersection(*({video.name for video, _ in method.finished} for method in methods))
    for method in methods:
        method.finished = [(video, rows) for video, rows in method.finished if video.name in common]


def remove_maps(folder: Path, video: Video) -> None:
    """Remove the maps of a video that was not finished, and their folder if it held nothing else."""
    for frame in video.frames:
        (folder / f"{frame.stem}.png").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def notes_on(methods: list[Method], costs: dict[str, dict], videos: list[Video], judged: Judged, skipped: list[str], interpolate: int,
             frame_size: list[int] | None) -> list[str]:
    """Sentences on what a reader of the scores must know."""
    finished, others = methods[0].finished, methods[0].scorer.others
    frames = sum(len(video.frames) for video, _ in finished)
    annotated, counted = (sum(len(indices(video)) for video, _ in finished)
                          for indices in (judged.annotated, judged.counted))
    density_alone = sum(len(video.annotated()) for video, _ in finished if not video.fixations)
    doubts = collections.Counter(reason for video, _ in finished for reason in methods[0].scorer.remarks[video.name])
    scored = sum(len({row["frame"] for row in rows}) for _, rows in finished)
    unreadable = sorted(others.unreadable) if others else []
    seen = " x ".join(map(str, frame_size or []))
    notes = [
        (annotated < frames, f"{frames - annotated} of {frames} frames have no annotation and were not scored."),
        (counted < annotated, f"**{annotated - counted} of {annotated} frames with a mask were not scored**: the first "
                              "and the last frame of each sequence, by --mask-frames inner, as in DAVIS's protocol."),
        (scored < counted, f"{scored} of {counted} annotated frames were drawn at random and scored."),
        (density_alone, f"**{density_alone} of {annotated} annotated frames have a density map alone**, for their "
                        "videos have no fixation maps: AUC-J, s-AUC and NSS are undefined there and left out."),
        *((True, f"**Annotation of {count} of {scored} frames**: {reason}.") for reason, count in doubts.most_common()),
        (interpolate > 1, f"**APPROXIMATION: one frame in {interpolate} went through the network**, maps between are interpolated."),
        (frame_size, f"**APPROXIMATION unless trained so: the network saw frames of {seen} (H x W) pixels**, by --frame-size."),
        (others and others.same_video, "s-AUC: only one video is annotated, so the other frames are its own."),
        (unreadable, f"s-AUC: unreadable fixation maps of other frames count as empty: {', '.join(unreadable)}."),
        (skipped, f"**Skipped, {len(finished)} of {len(videos)} videos scored.** {' / '.join(skipped)}"),
    ]
    own = [note for method in methods for note in own_notes(method, costs[method.name], judged, scored, named=len(methods) > 1)]
    return [note for holds, note in notes if holds] + own


def own_notes(method: Method, cost: dict, judged: Judged, scored: int, named: bool) -> list[str]:
    """Sentences on one method's maps, with its name where there are several."""
    resized, constant = (sum(counts[video.name] for video, _ in method.finished) for counts in (method.scorer.resized, method.scorer.constant))
    short, made_by = 0, flow_in_words(cost)
    if isinstance(method.source, Network):
        short = sum(len(video.frames) < method.source.model.lookahead() for video, _ in method.finished)
    notes = [
        (resized, f"Maps resized to their annotation's size: {resized} of {scored}."),
        (constant, f"**Constant maps: {constant} of {scored}.**" + " CC, SIM, s-AUC and NSS are undefined there and left out, "
                   "which flatters the method." * (judged is BY_FIXATIONS)),
        (made_by, f"Optical flow: {made_by}."),
        (short, f"Videos too short for all windows before the first frame to be time-reversed, so that this frame fills the others: {short}."),
    ]
    return [f"{method.name}: {note}" if named else note for holds, note in notes if holds]


def flow_in_words(cost: dict) -> str:
    """What made the pictures of flow; empty where there were none."""
    used = cost.get("flow_used") or []
    return ", ".join(f"made by {name.upper()}, drawn as {cost['flow']['picture']}" if name in METHODS else f"pictures in {name}" for name in used)


def run_name(text: str) -> str:
    """An argparse type: a name that can be a folder's."""
    if Path(text).name != text or text in ("", ".."):
        raise argparse.ArgumentTypeError(f"must be a name, not a path, got {text!r}; --out says where runs are")
    return text


def find_maps(args: argparse.Namespace, device: torch.device) -> list[Network | StoredMaps]:
    """Where the maps to score come from, as the command line says."""
    if args.predictions and (args.model or args.precision or args.batch_size or args.compile or args.interpolate > 1 or args.frame_size):
        raise ValueError("--model, --precision, --batch-size, --compile, --interpolate and --frame-size are of a network: "
                         "they have no effect on the files of --predictions")
    if args.predictions:
        return [StoredMaps(folder) for folder in args.predictions]
    models = args.model or ["recsalnet"]
    models = models * len(args.weights) if args.weights and len(models) == 1 else models
    if args.weights and len(args.weights) != len(models):
        raise ValueError(f"--model names {len(models)} networks and --weights {len(args.weights)} files: give one file for each, in the same order")
    options = EngineOptions(batch_size=args.batch_size or default_batch_size(device), interpolate=args.interpolate)
    precision, networks = choose_precision(args.precision or "float32", device, args.force_bfloat16), []
    for name, weights in zip(models, args.weights or map(default_weights, models)):
        model = load_model(weights, device, precision, args.compile, args.frame_size, name)
        flow = flow_for(model, args.flow, args.keep_flow, args.raft_weights, device)
        networks.append(Network(model, weights, flow, options))
        print_configuration(model, weights)
    if (args.flow != AUTO or args.raft_weights) and not any(network.flow for network in networks):
        raise ValueError(f"--flow and --raft-weights are for networks of optical flow, but {', '.join(models)} take none")
    return networks


def name_methods(sources: list[Network | StoredMaps], given: list[str] | None) -> list[str]:
    """A name for each, no two the same."""
    names = given or [source.name for source in sources]
    if len(names) != len(sources) or len(set(names)) < len(names) or BASELINE in names:
        raise ValueError(f"{len(sources)} methods are compared, called {', '.join(names)}: give each a name of its own with --method NAME NAME ..")
    return names


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


def find_splits(data: Path, skipped: dict[str, list[str] | None], dataset: str) -> dict[str, list[Video]]:
    """Split -> its videos, and in `skipped` those that were left out; all are looked for before anything is computed."""
    found = {split: find_videos(data, split, need_annotation=False, skipped=reasons, numbers=DATASETS[dataset].numbers)
             for split, reasons in skipped.items()}
    for split, videos in found.items():
        print(f"{data}, {split}: {inventory(videos)}")
    return found


def main(args: argparse.Namespace) -> None:
    dataset = args.dataset or MODELS[(args.model or ["recsalnet"])[0]].dataset
    data = dataset_folder(dataset, args.data)
    skipped = {split: [] if args.skip_bad else None for split in args.split or [DATASETS[dataset].test]}
    splits = find_splits(data, skipped, dataset)
    judged = {split: find_judged(videos, args.protocol, args.mask_frames) for split, videos in splits.items()}
    device = select_device(args.device)
    keep_freed_memory()
    sources = find_maps(args, device)
    names = name_methods(sources, args.method)
    runs = []
    for split, videos in splits.items():
        chosen = choose_frames(videos, args.sample_frames, args.seed, judged[split])
        for source in sources if args.predictions and not args.skip_bad else ():
            check_all(source, videos, chosen)
        by_fixations = args.protocol or ("dhf1k" if args.predictions else "float")
        protocol = by_fixations if judged[split] is BY_FIXATIONS else OBJECTS_PROTOCOL
        part = Path(split).stem if split.endswith(".txt") else split.replace("/", "_")
        several = part if len(splits) > 1 else ""
        folder = args.out / (f"{args.run_name}/{several}" if args.run_name else f"{data.resolve().name}_{part}_{'+'.join(names)}_{protocol}")
        folders = args.predictions or [folder / name for name in names]
        if folder in (run.folder for run in runs):
            raise ValueError(f"two of the splits {', '.join(splits)} would be written to {folder}: score them one by one, each with a --run-name")
        if not args.overwrite and utils.is_main():
            own_maps = [] if args.predictions else folders
            utils.refuse_to_replace([folder / "scores.json", *own_maps], "--overwrite allows it, --run-name NAME keeps both")
        runs.append(SplitRun(data, split, videos, judged[split], protocol, chosen, folder, dict(zip(names, folders))))

    utils.barrier()                                                   # nobody writes before the first process has looked
    about = {"dataset": dataset, "seed": args.seed, "sample_frames": args.sample_frames, "device": device.type, "hardware": utils.hardware(device),
             "precision": None if args.predictions else args.precision or "float32"}
    for run in runs:
        methods = run.methods(sources, device, args.seed, args.skip_bad, args.centre_baseline)
        costs = score_split(run, methods, skipped[run.split])
        if utils.is_main():
            keep_common(methods)
            left_out = skipped[run.split] or []
            notes = notes_on(methods, costs, run.videos, run.judged, left_out, args.interpolate, args.frame_size)
            mask_frames = {} if run.judged is BY_FIXATIONS else {"mask_frames": args.mask_frames or "all"}
            write_results(run, methods, {"methods": costs, "notes": notes, "skipped": left_out, **mask_frames, **about})


@dataclass(frozen=True)
class SplitRun:
    """What is scored of a split, and where its results go.

    Attributes:
        data, split, videos: the dataset's folder, and what of it.
        judged, protocol: by what, and how.
        chosen: of `choose_frames`.
        folder: of tables and figures.
        maps: method -> folder of its maps, in the order of the sources.
    """
    data: Path
    split: str
    videos: list[Video]
    judged: Judged
    protocol: str
    chosen: dict[str, list[int]]
    folder: Path
    maps: dict[str, Path]

    def methods(self, sources: list[Network | StoredMaps], device: torch.device, seed: int, skip_bad: bool, baseline: bool | None) -> list[Method]:
        """The methods, each with a scorer of its own; the first one's scores the baseline too, by default where there are several."""
        others, batch_size = OtherFixations(self.videos, seed, skip_bad), 1 if device.type == "cpu" else 16
        wanted = [number == 0 and (len(sources) > 1 if baseline is None else baseline) for number in range(len(sources))]
        by_masks = self.judged is not BY_FIXATIONS
        scorers = [ObjectScorer(centre) if by_masks else Scorer(others, self.protocol, device, centre, batch_size) for centre in wanted]
        return [Method(name, source, scorer, place) for (name, place), source, scorer in zip(self.maps.items(), sources, scorers)]


def score_split(run: SplitRun, methods: list[Method], skipped: list[str] | None) -> dict[str, dict]:
    """Make and score all methods' maps of a split, shared out between processes; returns what each is and costs."""
    share = run.videos[utils.rank()::utils.world_size()]
    for method in methods:
        method.finished = list(score_videos(share, run.chosen, method, skipped))
        put_together(method, run.videos, skipped)
    return {method.name: {**method.source.details, **method.source.speed()} for method in methods}


def write_results(run: SplitRun, methods: list[Method], details: dict) -> None:
    """Tables and figures of a split that is scored; `details` are for the report."""
    networks = isinstance(methods[0].source, Network)
    for method in methods if networks else ():
        print(f"maps of {sum(len(video.frames) for video, _ in method.finished)} frames of {len(method.finished)} videos in {method.folder}")
    rows = [row for method in methods for _, rows_of_one in method.finished for row in rows_of_one]
    rows.sort(key=lambda row: row["method"] == BASELINE)                   # it comes last
    if not rows:
        nothing_to_score(run.data / run.split, methods[0].finished, details["skipped"], predicted=networks)
        return
    print(report(rows, run.folder, {
        "data": str(run.data), "split": run.split, "protocol": run.protocol, "protocol_means": methods[0].source.protocols[run.protocol],
        **details, "revision": utils.revision(), "versions": utils.versions(), "date": utils.now(), "other_frames": methods[0].scorer.drawn,
    }, run.judged))
    title = f"{', '.join(run.maps)}, {run.data}, split {run.split}, protocol {run.protocol}"
    drawn = figures(grouped(rows, "method"), run.videos, run.maps, run.folder, title, run.judged)
    print(f"written to {run.folder}: {', '.join(['scores.json', 'scores.md', 'per_video.csv', 'per_frame.csv', *drawn])}")


def nothing_to_score(folder: Path, finished: list, skipped: list[str], predicted: bool) -> None:
    """Say why there are no scores: an error, unless maps were predicted for a set without annotation."""
    if not finished:
        raise ValueError(f"every video of {folder} was skipped: {' / '.join(skipped)}")
    message = (f"no annotation in {folder}: nothing to score. A frame is scored that has a density map and a fixation "
               f"map (a density map, where its video has no fixation maps), or a mask; {TREE}")
    if not predicted:
        raise ValueError(message)
    print(message)


if __name__ == "__main__":
    parser = arguments()
    try:
        given = parser.parse_args()
        with utils.process_group(given.device):
            main(given)
    except (OSError, ValueError, ModuleNotFoundError, torch.cuda.OutOfMemoryError) as error:
        parser.exit(2, f"test.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "test.py: interrupted; the maps written so far are whole\n")
