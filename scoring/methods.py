"""Where maps come from, a network or files; a method is such a source with its name, its scorer and its folder."""
import contextlib
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import utils
from prediction.engine import saliency_maps
from prediction.outputs import write_map
from saliency_model import EngineOptions
from scoring.scorers import ObjectScorer, Scorer
from utils import BoundedExecutor, in_threads
from videos.annotation import read_prediction
from videos.images import IMAGE_SUFFIXES, read_frame
from videos.names import folder_called, frame_key, natural
from videos.optical_flow import METHODS, FlowSource
from videos.video import Video, images_by
from weights import sha256_of

# How maps are scored -> what the report says about it.
PROTOCOLS = {
    "float": "maps as the network and its authors' way of finishing give them (RecSal-Net: blurred 11 x 11), at the "
             "frame's size, not quantised; undefined values are left out of the averages",
    "dhf1k": "maps of 8 bits, as their files hold them and the benchmark reads them; SIM of an all-zero density map "
             "counts as 0, as in its code; other undefined values are left out of the averages",
    ObjectScorer.protocol: "maps of 8 bits, as their files hold them, against masks whose objects are above 128, by "
                           "the library pysodmetrics; every frame that has a mask counts alike, whatever its sequence",
}


class MapSource:
    """Where maps come from: a subclass says what the script and the report need of it.

    Attributes:
        name: in tables, unless the command line gives another.
        details: entries of scores.json about the method.
        protocols: as `PROTOCOLS`, for these maps.
        default_protocol: for fixations.
        writes_maps: whether maps are written to files as they are scored, or are files already.
    """
    name: str
    details: dict
    protocols = PROTOCOLS
    default_protocol: str
    writes_maps: bool

    def maps(self, video: Video, indices: list[int], protocol: str, folder: Path) -> Iterator[Tensor]:
        """The maps, (H, W), of these frames: uint8, or float32 if the protocol is "float".

        Args:
            video, indices: whose maps.
            protocol: a key of `PROTOCOLS`.
            folder: of the method's files.
        """
        raise NotImplementedError

    def folder_of_maps(self, folder: Path) -> Path:
        """Where its files are; `folder` is where they would be written."""
        return folder

    def check(self, videos: list[Video], chosen: dict[str, list[int]]) -> None:
        """Raise a FileNotFoundError if maps of the chosen frames are missing."""

    def discard(self, folder: Path, video: Video) -> None:
        """Remove what was written for a video that was not finished."""

    def costs(self) -> dict:
        """What maps have cost since the last call, all processes together: entries of scores.json beside `details`."""
        return {}

    def notes(self, costs: dict, videos: list[Video]) -> list[str]:
        """Sentences for the report on the maps of these videos."""
        return []


class Network(MapSource):
    """A network's maps: one for every frame of a video, written to FOLDER/VIDEO/FRAME.png, 8 bits, at the frame's size.

    Args:
        model: in eval mode.
        weights: the file it comes from, for the report.
        flow: where its flow comes from, if it needs any.
        options: how to go through videos; default: exactly.

    Attributes:
        frames, seconds: maps made since the last call of `costs`, and the time that took, reading the frames included.
    """
    default_protocol, writes_maps = "float", True

    def __init__(self, model: nn.Module, weights: str | Path, flow: FlowSource | None = None,
                 options: EngineOptions | None = None) -> None:
        self.model, self.flow, self.options = model, flow, options or EngineOptions()
        self.frames, self.seconds = 0, 0.0
        self.name = type(model).__name__
        self.details = {"model": self.name, "weights": str(weights), "weights_sha256": sha256_of(weights),
                        "configuration": model.config, "parameters": sum(p.numel() for p in model.parameters()),
                        "gflop": gflop(model), "flow": flow and flow.describe(),
                        "batch_size": self.options.batch_size, "interpolate": self.options.interpolate}

    def maps(self, video: Video, indices: list[int], protocol: str, folder: Path) -> Iterator[Tensor]:
        frames, wanted = in_threads(read_frame, video.frames), set(indices)
        pictures = self.flow and self.flow.pictures(video.frames)
        flows = pictures and (pictures[index] for index in range(len(video.frames)))
        maps = self.timed(saliency_maps(self.model, frames, flows, self.options))
        with BoundedExecutor() as submit:
            maps = tqdm(maps, desc=video.name, total=len(video.frames), unit="frame", leave=False,
                        disable=utils.hide_bar())
            for index, saliency in enumerate(maps):
                path = folder / video.name / f"{video.frames[index].stem}.png"
                submit(write_map, path, saliency, self.model.quantise)
                if index in wanted:
                    yield saliency if protocol == "float" else self.model.quantise(saliency)

    def timed(self, maps: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same maps; the time spent waiting for each is added to `seconds`, not what is done with it in between."""
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

    def discard(self, folder: Path, video: Video) -> None:
        """Remove the video's maps, and their folder if it holds nothing else."""
        for frame in video.frames:
            (folder / video.name / f"{frame.stem}.png").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (folder / video.name).rmdir()

    def costs(self) -> dict:
        """"frames_per_second"; "flow_used": the methods, or names of folders, that flow came from, or None."""
        frames, = utils.all_reduce_sum([self.frames])
        seconds = max(utils.all_gather(self.seconds))
        self.frames, self.seconds = 0, 0.0
        flow_used = sorted(set().union(*utils.all_gather(self.flow.used))) if self.flow else None
        return {"frames_per_second": frames / seconds if seconds else math.nan, "flow_used": flow_used}

    def notes(self, costs: dict, videos: list[Video]) -> list[str]:
        notes = []
        if costs["flow_used"]:
            made_by = (f"made by {name.upper()}, drawn as {self.details['flow']['picture']}" if name in METHODS
                       else f"pictures in {name}" for name in costs["flow_used"])
            notes.append(f"Optical flow: {', '.join(made_by)}.")
        if short := sum(len(video.frames) < self.model.lookahead() for video in videos):
            notes.append("Videos too short for all windows before the first frame to be time-reversed, so that "
                         f"this frame fills the others: {short}.")
        return notes


def gflop(model: nn.Module) -> float:
    """Billions of operations for one map at the network's own frame size, a multiply-add counted as two.

    Nothing is computed: the network is on the meta device.
    """
    shadow = copy.deepcopy(model).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(*shadow.blank())
    return counter.get_total_flops() / 1e9 / model.maps_per_forward


class StoredMaps(MapSource):
    """Any method's maps, in files FOLDER/VIDEO/FRAME.png (or another kind of image).

    Args:
        folder: of the videos' folders.
    """
    protocols = {**PROTOCOLS, "float": "maps as their files have them, resized without rounding; "
                                       "undefined values are left out of the averages"}
    default_protocol, writes_maps = "dhf1k", False

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no predictions {folder}: {'it is a file' if folder.exists() else 'the folder does not exist'}; "
                "expected a folder with VIDEO/FRAME.png, videos and frames named like the dataset's")
        self.folder, self.name, self.details = folder, folder.resolve().name, {"predictions": str(folder)}

    def maps(self, video: Video, indices: list[int], protocol: str, folder: Path) -> Iterator[Tensor]:
        self.check_video(video, indices)
        dtype = torch.float32 if protocol == "float" else torch.uint8  # uint8: resizing rounds, as in the benchmark
        read = lambda path: torch.from_numpy(read_prediction(path)).to(dtype)
        files = stored_files(self.folder, video.name)
        return in_threads(read, [files[frame_key(video.frames[index].stem)] for index in indices])

    def folder_of_maps(self, folder: Path) -> Path:
        return self.folder

    def check(self, videos: list[Video], chosen: dict[str, list[int]]) -> None:
        """Raise the first video's problem, with the number of videos that have one."""
        problems = []
        for video in videos:
            try:
                self.check_video(video, chosen[video.name])
            except FileNotFoundError as error:
                problems.append(str(error))
        if problems:
            raise FileNotFoundError(f"{problems[0]}. {len(problems)} of {len(videos)} videos lack maps; "
                                    "--skip-bad scores the others")

    def check_video(self, video: Video, indices: list[int]) -> None:
        """Raise a FileNotFoundError if a frame to score has no map: what was expected where, and what is there."""
        files = stored_files(self.folder, video.name)
        missing = [video.frames[index].stem for index in indices if frame_key(video.frames[index].stem) not in files]
        if missing:
            place = folder_called(self.folder, video.name)
            place = place if place.is_dir() else self.folder
            held = natural(path.name for path in place.iterdir())
            present = f"holds {held[0]} to {held[-1]}, {len(held)} in all" if held else "is empty"
            raise FileNotFoundError(
                f"no map for {len(missing)} of the {len(indices)} frames to score of video {video.name}: expected "
                f"{self.folder / video.name / missing[0]}.png (or {', '.join(sorted(IMAGE_SUFFIXES - {'.png'}))}), "
                f"but {place} {present}. Names are those of the dataset")


def stored_files(folder: Path, video: str) -> dict[str, Path]:
    """A frame's `frame_key` -> file of a video's maps."""
    return images_by(folder_called(folder, video), "maps", frame_key)


@dataclass
class Method:
    """What is compared: maps with their name in tables, their scorer, and the folder of their files.

    Attributes:
        finished: its videos, in the order of the dataset, each with its rows; filled as they are scored.
    """
    name: str
    source: MapSource
    scorer: Scorer | ObjectScorer
    folder: Path
    finished: list[tuple[Video, list[dict]]] = field(default_factory=list)
