"""Optical flow between a video's frames, as arrays and as pictures, made on demand and kept on disk.

Between each frame and the next one, at the frames' own size, by OpenCV's DIS (preset medium, on grey frames) or by
torchvision's RAFT; the last frame repeats the flow before it, and the flow of a single frame is zero.
"""
import argparse
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

import utils
from videos.images import read_frame, state_digest
from videos.names import frame_key
from videos.video import images_by
from weights import load_entries, read_weights, sha256_of, torchvision_weights

SMALLEST = 16  # pixels of a side, for DIS
Flow = Callable[[np.ndarray, np.ndarray], np.ndarray]


def dis_flow() -> Flow:
    """OpenCV's DIS: fast, needs no weights; zeros for frames below 16 pixels, where it fails.

    Source: Kroeger et al., ECCV 2016.
    """
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flow(frame: np.ndarray, following: np.ndarray) -> np.ndarray:
        if min(frame.shape[:2]) < SMALLEST:
            return np.zeros((*frame.shape[:2], 2), np.float32)
        return estimator.calc(*(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY) for x in (frame, following)), None)

    return flow


def raft_flow(weights: str | Path | None = None, device: str = "cpu") -> Flow:
    """torchvision's RAFT (small). Source: Teed, Deng, ECCV 2020.

    Args:
        weights: a file in torchvision's format; None: torchvision's own, from its cache or the internet.
        device: where to compute.

    Raises:
        FileNotFoundError: there are no weights.
        ValueError: they are not RAFT's.
    """
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small  # takes as long as all other imports

    model = raft_small().eval().to(device)
    if weights:
        entries = read_weights(weights, model.state_dict())[0]
    else:
        try:
            entries = torchvision_weights(Raft_Small_Weights.DEFAULT)
        except OSError as error:
            raise FileNotFoundError(f"no weights of RAFT: {error}. Fetch it elsewhere and give its path "
                                    "(--raft-weights), or take DIS, which needs none") from error
    load_entries(model, entries, str(weights or "torchvision's RAFT"))
    return functools.partial(estimate, model)


@torch.no_grad()
def estimate(model: torch.nn.Module, frame: np.ndarray, following: np.ndarray) -> np.ndarray:
    """RAFT's flow, computed at a size that it can halve three times, then resized to the frame's."""
    (height, width), like = frame.shape[:2], next(model.parameters())
    size = [max(128, round(n / 8) * 8) for n in (height, width)]  # its correlations need 16 x 16 positions
    pair = [torch.from_numpy(x.copy()).permute(2, 0, 1)[None].to(like) / 127.5 - 1 for x in (frame, following)]
    pair = [F.interpolate(x, size=size, mode="bilinear", antialias=True) for x in pair]
    flow = F.interpolate(model(*pair)[-1], size=(height, width), mode="bilinear")[0]
    scale = torch.tensor([width / size[1], height / size[0]], device=like.device).view(2, 1, 1)
    return (flow * scale).permute(1, 2, 0).cpu().numpy()


METHODS = {"dis": dis_flow, "raft": raft_flow}


def flows(frames: Iterable[np.ndarray], flow: Flow) -> Iterator[np.ndarray]:
    """The flow from each frame to the next one, and for the last frame the flow before it.

    Args:
        frames: (H, W, 3) uint8, RGB. A frame of another size than the one before starts a new sequence; the flow of a
            frame that is alone in its sequence is zero.
        flow: made by one of `METHODS`.

    Yields:
        (H, W, 2) float32: how far each pixel moves, in pixels to the right and down.
    """
    last = None
    for frame, following in itertools.pairwise(itertools.chain(frames, [None])):
        if following is not None and following.shape == frame.shape:
            last = flow(frame, following)
        elif last is None or last.shape[:2] != frame.shape[:2]:
            last = np.zeros((*frame.shape[:2], 2), np.float32)
        yield last


def components(flow: np.ndarray) -> np.ndarray:
    """A flow, (H, W, 2), as a picture, (H, W, 3) uint8: x, y and magnitude, times 16, plus 128, rounded, clipped."""
    if np.isnan(flow).any():
        raise ValueError(f"parts of a flow of {flow.shape[0]} x {flow.shape[1]} are not numbers")
    channels = np.dstack([flow, np.hypot(flow[..., 0], flow[..., 1])])
    return np.clip(np.rint(channels * 16 + 128), 0, 255).astype(np.uint8)


def wheel(flow: np.ndarray) -> np.ndarray:
    """A flow, (H, W, 2), as a picture, (H, W, 3) uint8: direction is hue, length over the longest is saturation."""
    from torchvision.utils import flow_to_image  # takes as long as all other imports, and few networks need it

    picture = flow_to_image(torch.from_numpy(np.ascontiguousarray(flow)).permute(2, 0, 1).float())
    return picture.permute(1, 2, 0).numpy()


PICTURES = {"components": components, "wheel": wheel}


class FlowFolder:
    """The flow of a video's frames, kept in files beside them: FOLDER/flow_METHOD/FRAME-DIGEST.npy.

    A file is (H, W, 2) float16, in pixels. Its name is that of the first of the two frames that it was made from, and a
    digest of the state of both (`state_digest`): flow between other frames, or from an earlier state of these, is never
    used.

    Args:
        frames: the video's image files, in order.
        method: a key of `METHODS`.
        make: computes a flow.
        keep: whether flow is kept in files; else it is computed each time.
        key: what else the flow depends on, such as weights.
    """

    def __init__(self, frames: Sequence[Path], method: str, make: Flow, keep: bool = True, key: str = "") -> None:
        self.frames, self.make, self.keep, self.key = frames, make, keep, key
        self.place = frames[0].parent / f"flow_{method}"

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> np.ndarray:
        """A frame's flow, (H, W, 2) float32; computed and written first if its file is missing."""
        pair = self.pair(index)
        if not self.keep or len(pair) == 1:  # a frame alone does not move
            return self.compute(pair)
        file = self.file_of(pair)
        if not file.is_file():
            self.write(file, self.compute(pair))
        return read_flow(file)

    def pair(self, index: int) -> Sequence[Path]:
        """The frames that a frame's flow is computed from: it and the next one; for the last, it and the one before."""
        last = len(self.frames) - 1
        if not 0 <= index <= last:  # which also ends a loop over the folder
            raise IndexError(f"frame {index} of {len(self.frames)}")
        return self.frames[min(index, max(0, last - 1)):][:2]

    def file_of(self, pair: Sequence[Path]) -> Path:
        """The file of the flow between two frames in their present state."""
        return self.place / f"{pair[0].stem}-{state_digest(pair, self.key)}.npy"

    def compute(self, pair: Sequence[Path]) -> np.ndarray:
        """The flow from a frame to the next, (H, W, 2) float32; zeros for one frame."""
        return next(flows(map(read_frame, pair), self.make))

    def write(self, file: Path, flow: np.ndarray) -> None:
        """Write a flow, atomically."""
        try:
            with utils.atomic_path(file) as temporary, temporary.open("wb") as out:
                np.save(out, flow.astype(np.float16))  # 0.016 at 32 pixels: below a method's error
        except OSError as error:
            raise OSError(error.errno, f"the flow of a frame cannot be kept beside it ({error.strerror}): "
                                       "--no-keep-flow makes it each time", str(file)) from error


def read_flow(file: Path) -> np.ndarray:
    """A flow from its file, (H, W, 2) float32; a ValueError where the file holds no flow."""
    try:
        flow = np.load(file, mmap_mode="r", allow_pickle=False)  # mapped: a false shape takes no memory
    except Exception as error:  # NumPy raises many kinds on a damaged file; all mean the same here
        raise ValueError(f"{file} cannot be read as a flow: {error}. Delete it, and it is made again") from error
    has_shape = isinstance(flow, np.ndarray) and flow.ndim == 3 and flow.shape[2] == 2 and flow.size > 0
    if not has_shape or flow.dtype.kind != "f" or not np.isfinite(flow).all():
        got = f"{getattr(flow, 'dtype', type(flow).__name__)} {getattr(flow, 'shape', '')}"
        raise ValueError(f"{file} must hold a flow, (H, W, 2) of finite floating-point numbers, got {got}. "
                         "Delete it, and it is made again")
    return flow.astype(np.float32)


# Where the programs take flow from

PUBLISHED = ("OF_FlowNet2", "Flow")  # folders of colour wheels in SMCF's datasets
AUTO = "auto"


@dataclass
class FlowSource:
    """The flow of any video's frames as pictures: from files, or computed here.

    Attributes:
        source: a key of `METHODS`; or the name of a folder of pictures beside a video's frames or beside their folder,
            or the path of one, which may have a folder for each video; or "auto": one of `PUBLISHED` where it exists
            and colour wheels are wanted, else DIS.
        picture: how flow that is computed here becomes a picture, a key of `PICTURES`.
        keep: whether flow that is computed here is kept in files beside the frames.
        raft_weights, device: RAFT's.
        used: what pictures have come from so far, folders' names and methods.
        owners: a folder of pictures that `source` is the path of -> the folder of frames that it belongs to.
    """
    source: str = AUTO
    picture: str = "wheel"
    keep: bool = True
    raft_weights: str | None = None
    device: str = "cpu"
    used: set[str] = field(default_factory=set, repr=False)
    owners: dict[Path, Path] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def make(self) -> Flow:
        """Computes a flow; set up when the first one is missing, in each process."""
        return raft_flow(self.raft_weights, self.device) if self.source == "raft" else dis_flow()

    def __getstate__(self) -> dict:
        # OpenCV's objects cannot be sent to loader processes.
        return {name: value for name, value in self.__dict__.items() if name != "make"}

    def pictures(self, frames: Sequence[Path]) -> "FlowPictures | StoredPictures":
        """The pictures of a video's frames, (H, W, 3) uint8 each, by index.

        Raises:
            FileNotFoundError: there is no such folder of pictures, or one is missing.
            ValueError: one folder of pictures would be taken for several videos.
        """
        named = self.source not in (AUTO, *METHODS)
        names = (self.source,) if named else PUBLISHED if self.source == AUTO and self.picture == "wheel" else ()
        found = next((folder for name in names for folder in picture_folders(frames, name, anywhere=named)), None)
        if found is not None:
            owner = self.owners.setdefault(found, frames[0].parent) if found == Path(self.source) else frames[0].parent
            if owner != frames[0].parent:
                raise ValueError(f"the pictures of optical flow in {found} cannot belong to both {owner} and "
                                 f"{frames[0].parent}: put each video's into a folder {found}/VIDEO")
            self.used.add(found.name)
            return StoredPictures(frames, found)
        if named:
            raise FileNotFoundError(f"no pictures of optical flow for the frames in {frames[0].parent}: expected a "
                                    f"folder {self.source} there, beside it, or with a folder for the video; or "
                                    f"--flow {' or '.join(METHODS)}, which make them")
        self.used.add(self.method)
        make = lambda *pair: self.make(*pair)  # `self.make` only when a flow is missing
        return FlowPictures(FlowFolder(frames, self.method, make, self.keep, self.weights_digest), self.picture)

    @functools.cached_property
    def weights_digest(self) -> str:
        """The identity of RAFT's weights; empty for torchvision's own, and for DIS."""
        return sha256_of(self.raft_weights) if self.source == "raft" and self.raft_weights else ""

    def maker(self, video: str) -> Flow:
        """What computes the flow of a video file; a ValueError if `source` is a folder of pictures."""
        if self.source not in (AUTO, *METHODS):
            raise ValueError(f"--flow {self.source} names pictures for folders of frames, but {video} is a video file: "
                             f"give --flow {' or '.join(METHODS)}, or its frames as a folder")
        return self.make

    @property
    def method(self) -> str:
        """The key of `METHODS` by which missing flow is computed."""
        return self.source if self.source in METHODS else "dis"

    def describe(self) -> dict:
        """How the pictures were made, for the record."""
        stored = self.source not in (AUTO, *METHODS)
        made_by, picture = (None, None) if stored else (self.method, self.picture)
        weights = {"raft_weights_sha256": self.weights_digest} if self.weights_digest else {}
        return {"source": self.source, "made_by": made_by, "picture": picture, **weights}


@dataclass
class FlowPictures:
    """Pictures of flow that is computed here."""
    flow: FlowFolder
    picture: str

    def __getitem__(self, index: int) -> np.ndarray:
        """A frame's, (H, W, 3) uint8."""
        return PICTURES[self.picture](self.flow[index])


class StoredPictures:
    """Pictures of flow in a folder, named like the frames; the last frame may have none, and repeats the one before."""

    def __init__(self, frames: Sequence[Path], folder: Path) -> None:
        self.frames, self.folder, self.files = frames, folder, listed(folder)

    def __getitem__(self, index: int) -> np.ndarray:
        """A frame's, (H, W, 3) uint8."""
        last = index == len(self.frames) - 1
        stems = [self.frames[i].stem for i in (index, index - 1)[:1 + (last and index > 0)]]
        file = next((self.files[frame_key(stem)] for stem in stems if frame_key(stem) in self.files), None)
        if file is None:
            raise FileNotFoundError(f"no picture of optical flow for frame {stems[0]} in {self.folder} "
                                    f"({len(self.files)} pictures): they are named like the frames, and only a video's "
                                    f"last one may be missing; or --flow {' or '.join(METHODS)} makes them")
        return read_frame(file)


def picture_folders(frames: Sequence[Path], name: str, anywhere: bool) -> list[Path]:
    """Folders of this name near a video's frames, or `anywhere`, that hold a picture of its first frame's flow."""
    place = frames[0].parent  # VIDEO, VIDEO/Frame or Imgs/VIDEO
    folders = [place / name, place.parent / name, place.parent.parent / name / place.name]  # the last: Flow/VIDEO
    if anywhere:  # `name` is a path, perhaps above VIDEO
        folders += [Path(name) / place.parent.name, Path(name) / place.name, Path(name)]
    return [folder for folder in folders if folder.is_dir() and frame_key(frames[0].stem) in listed(folder)]


@functools.lru_cache(maxsize=10000)
def listed(folder: Path) -> dict[str, Path]:
    """A frame's `frame_key` -> the picture of its flow, in a folder that does not change during a run."""
    return images_by(folder, "pictures of optical flow", frame_key)


# Flags of the programs

def flow_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of programs whose networks may need flow."""
    group = parser.add_argument_group("optical flow (of networks that need it)")
    group.add_argument("--flow", default=AUTO, metavar=f"{{{','.join([AUTO, *METHODS])},FOLDER}}",
                       help="dis, raft: made here; FOLDER: pictures named like the frames, in a folder of this name "
                            "beside the frames or their folder, or in FOLDER/VIDEO or FOLDER; auto: the pictures that "
                            f"SMCF's datasets come with where they are there ({', '.join(PUBLISHED)}; for smcf), else "
                            "dis (default: auto)")
    group.add_argument("--keep-flow", action=argparse.BooleanOptionalAction, default=True,
                       help="keep what is made beside the frames, in FRAMES/flow_METHOD: 4 bytes a pixel (default: on)")
    raft_argument(group)


def raft_argument(group) -> None:
    """The flag for RAFT's weights."""
    group.add_argument("--raft-weights", metavar="FILE",
                       help="weights of torchvision's small RAFT, or FILE#KEY (default: downloaded)")
