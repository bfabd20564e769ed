"""Where maps come from: a network, or files. Both have a name, details for the report, and what they cost."""
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
from baselines.optical_flow import FlowSource
from dataloader import Video, folder_called, frame_key, images_by, natural
from predict import BoundedExecutor, saliency_maps, write_map
from scoring.scorers import OBJECTS_PROTOCOL, ObjectScorer, Scorer
from scoring.targets import PROTOCOLS
from utils import in_threads
from videos.annotation import read_prediction
from videos.images import IMAGE_SUFFIXES, read_frame
from weights import sha256_of

WITH_MASKS = {OBJECTS_PROTOCOL: "maps of 8 bits, as their files hold them, against masks whose objects are above 128, by the library pysodmetrics; "
                                "every frame that has a mask counts alike, whatever its sequence"}
STORED = {**PROTOCOLS, "float": "maps as their files have them, resized without rounding; undefined values are left out of the averages"}


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

    def __init__(self, model: nn.Module, weights: str | Path, flow: FlowSource | None = None, **options: int) -> None:
        self.model, self.flow, self.options, self.frames, self.seconds = model, flow, options, 0, 0.0
        self.name, self.protocols = type(model).__name__, {**PROTOCOLS, **WITH_MASKS}
        self.details = {"model": self.name, "weights": str(weights), "weights_sha256": sha256_of(weights),
                        "configuration": model.config, "parameters": sum(p.numel() for p in model.parameters()), "gflop": gflop(model),
                        "flow": flow and flow.describe(), **options}

    def maps(self, video: Video, indices: list[int], protocol: str, folder: Path) -> Iterator[Tensor]:
        """The maps of these frames, as the network gives them ("float") or as the files hold them (other protocols)."""
        frames, wanted = in_threads(read_frame, video.frames), set(indices)
        pictures = self.flow and self.flow.pictures(video.frames)
        flows = pictures and (pictures[index] for index in range(len(video.frames)))
        maps = self.timed(saliency_maps(self.model, frames, flows=flows, **self.options))
        with BoundedExecutor() as later:
            bar = tqdm(maps, desc=video.name, total=len(video.frames), unit="frame", leave=False, disable=utils.hide_bar())
            for index, saliency in enumerate(bar):
                later(write_map, folder / video.name / f"{video.frames[index].stem}.png", saliency, self.model.quantise)
                if index in wanted:
                    yield saliency if protocol == "float" else self.model.quantise(saliency)

    def speed(self) -> dict:
        """Of all processes together: "frames_per_second", since this was asked last; "flow_used": what the pictures of flow came
        from, methods or names of folders, None where the network needs none.
        """
        frames, = utils.all_reduce_sum([self.frames])
        seconds = max(utils.all_gather(self.seconds))
        self.frames, self.seconds = 0, 0.0
        flow_used = sorted(set().union(*utils.all_gather(self.flow.used))) if self.flow else None
        return {"frames_per_second": frames / seconds if seconds else math.nan, "flow_used": flow_used}

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
    return counter.get_total_flops() / 1e9 / (model.clip_len if model.temporal == "group" else 1)


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
        """The maps of these frames, (H, W): uint8, so that resizing rounds as the benchmark's does; for "float" float32, 0 to 255."""
        self.check(video, indices)
        files, dtype = stored_files(self.folder, video.name), torch.float32 if protocol == "float" else torch.uint8
        read = lambda path: torch.from_numpy(read_prediction(path)).to(dtype)
        return in_threads(read, [files[frame_key(video.frames[index].stem)] for index in indices])

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


def remove_maps(folder: Path, video: Video) -> None:
    """Remove the maps of a video that was not finished, and their folder if it held nothing else."""
    for frame in video.frames:
        (folder / f"{frame.stem}.png").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


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
