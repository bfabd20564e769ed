"""Any video or folder of frames -> one saliency map per frame: pictures, arrays, videos. Holds the sliding-window engine that test.py uses too.

    python predict.py clip.mp4 frames/ "holiday/*.mov" --save png overlay --out saliency
    python predict.py clip.mp4 --model tased_net --weights TASED_updated.pt
    python predict.py --export RecSalNet.onnx
"""
import argparse
import collections
import contextlib
import ctypes
import functools
import glob
import importlib.util
import inspect
import itertools
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn
from tqdm import tqdm

import utils
from baselines import MODELS, optical_flow
from baselines.optical_flow import AUTO, Flow, FlowSource, flow_arguments
from dataloader import folders_in, images_in, list_frames, natural, natural_key
from saliency_model import FIRST_FRAMES, EngineOptions, PreparedFrame, SaliencyModel, Step, stretch
from utils import in_threads
from videos.decoding import (
    FFMPEG_ERRORS,
    av,
    beginning,
    check_av,
    is_video,
    open_container,
    orientation,
    picture_stream,
    promised_seconds,
    seek,
    timed_frames,
)
from videos.images import IMAGE_SUFFIXES, READING, is_animation, read_frame, timed_pictures
from weights import save_safetensors, sha256_of

PRECISIONS = ("float32", "bfloat16")


def saliency_maps(model: SaliencyModel, frames: Iterable[np.ndarray],
                  flows: Iterable[np.ndarray] | Flow | None = None,
                  options: EngineOptions | None = None) -> Iterator[Tensor]:
    """One saliency map per frame, in order; memory holds a window and a batch of frames, however long the video.

    A window ends at the frame its map belongs to; a recurrent network's state is carried through the video; groups
    follow each other, and the last frame fills the last one. Every frame is decoded, resized and moved to the device
    once, as uint8, while the network computes.

    Args:
        model: in eval mode, on the device and in the precision to compute in.
        frames: (H, W, 3) uint8, RGB, one after the other; consumed in a thread.
        flows: for models with `needs_flow`: each frame's flow as a picture, (H, W, 3) uint8; or what makes the flow from
            a frame to the next one (`optical_flow.METHODS`), which becomes a picture as `model.flow_picture` says.
            Default: made by DIS.
        options: how to go through the video; default: exactly, one clip at a time.

    Yields:
        (H, W) float32 in [0, 1] at the frame's own size, on the model's device.

    Raises:
        ValueError: the model takes no flow and some was given, or a frame is too small.
    """
    options = options or EngineOptions()
    if flows is not None and not model.needs_flow:
        raise ValueError(f"{type(model).__name__} takes no optical flow")
    errors = []                                                            # raised when the frames before have their maps
    prepared = (prepare(model, frame, flow) for frame, flow in with_flows(model, frames, flows))
    ahead = 2 * options.batch_size * options.interpolate * options.every
    prepared = in_background(until_error(prepared, errors), ahead=max(2 * options.batch_size, min(64, ahead)))
    for size, run in itertools.groupby(raw_maps(model, prepared, options), key=lambda raw: raw.size):
        while group := [raw.output for raw in itertools.islice(run, options.batch_size)]:
            # Left before a map is handed over, or the caller would have no gradients.
            with torch.no_grad():
                finished = model.finish(torch.stack(group), size if options.resize else tuple(group[0].shape[-2:]))
            yield from finished
    if errors:
        raise errors[0]


def with_flows(model: nn.Module, frames: Iterable[np.ndarray],
               flows: Iterable[np.ndarray] | Flow | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Each frame, and its flow as a picture where the model needs one: those that are given, or made here."""
    if not model.needs_flow:
        return zip(frames, itertools.repeat(None))
    if flows is not None and not callable(flows):
        return zip(frames, flows, strict=True)
    shown, seen = itertools.tee(map(checked, frames))
    return zip(shown, map(optical_flow.PICTURES[model.flow_picture], optical_flow.flows(seen, flows or optical_flow.dis_flow())))


def prepare(model: SaliencyModel, frame: np.ndarray, flow: np.ndarray | None) -> PreparedFrame:
    """Bring a frame, and its flow's picture if there is one, to the network's size."""
    if flow is not None and flow.shape != frame.shape:
        flow = cv2.resize(checked(flow), (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_AREA)
    pictures = [model.prepare(checked(picture)) for picture in (frame, flow) if picture is not None]
    return PreparedFrame(torch.cat(pictures) if len(pictures) > 1 else pictures[0], frame.shape[:2])


def checked(frame: np.ndarray) -> np.ndarray:
    """The frame, if it is one."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frames must be arrays (H, W, 3) of uint8, RGB, got {type(frame).__name__} "
                         f"{getattr(frame, 'dtype', '')} {tuple(getattr(frame, 'shape', ()))}")
    return frame


def until_error(items: Iterable, errors: list[Exception]) -> Iterator:
    """Yield the items until an exception, which is stored in `errors`."""
    try:
        yield from items
    except Exception as error:
        errors.append(error)


class RawMap(NamedTuple):
    """The network's output for a frame, (h, w), and the frame's size, (H, W)."""
    output: Tensor
    size: tuple[int, int]


def raw_maps(model: SaliencyModel, prepared: Iterable[PreparedFrame], options: EngineOptions) -> Iterator[RawMap]:
    """The network's output for each frame that gets a map, scene by scene."""
    for start, scene in itertools.groupby(by_scene(prepared, options.scene_cuts), key=lambda item: item.start):
        # Index of the scene's first frame that gets a map.
        first = options.skip - start if start < options.skip else (options.skip - start) % options.every
        outputs = model.raw_maps((item.frame for item in scene), first, options)
        if options.interpolate > 1:
            yield from interpolated(outputs)
        else:
            yield from (RawMap(output, step[-1].size) for step, output in outputs)


class SceneFrame(NamedTuple):
    """A frame, and the index of its scene's first frame."""
    start: int
    frame: PreparedFrame


def by_scene(prepared: Iterable[PreparedFrame], scene_cuts: bool) -> Iterator[SceneFrame]:
    """Each frame with the beginning of its scene; without `scene_cuts` the video is one scene."""
    start, before, change_before = 0, None, 0.0
    for index, frame in enumerate(prepared):
        if scene_cuts:
            small = F.avg_pool2d(frame.pixels[:3].float(), min(8, *frame.pixels.shape[1:]))
            change = 0.0 if before is None else (small - before).abs().mean().item()
            start = index if is_cut(change, change_before) else start
            before, change_before = small, change
        yield SceneFrame(start, frame)


def is_cut(change: float, change_before: float) -> bool:
    """Whether another scene begins, by how much the picture changed, in grey levels, and by how much one frame earlier.

    Fast movement changes several frames in a row, a cut one. On the clips this was tried with, cuts change 46 levels and
    more, after 20 and less; movement up to 41, after 30.
    """
    return change > 25 and change > 2 * change_before


def interpolated(outputs: Iterator[tuple[Step, Tensor]]) -> Iterator[RawMap]:
    """The output for each frame; within a step, interpolated between the outputs before and after."""
    before = None
    for step, output in outputs:
        for number, frame in enumerate(step, start=1):
            between = output if number == len(step) else torch.lerp(before, output, number / len(step))
            yield RawMap(between, frame.size)
        before = output


# Work beside the network's

def in_background(items: Iterable, ahead: int) -> Iterator:
    """The same items; a thread makes up to `ahead` of them before they are asked for."""
    iterator, end = iter(items), object()
    return itertools.takewhile(lambda item: item is not end,
                               in_threads(lambda _: next(iterator, end), itertools.repeat(None), 1, ahead))


class BoundedExecutor:
    """Calls functions in threads, in order if there is one thread; as a context, it ends when all calls have.

    At most `ahead` calls wait. An error is raised at a later call, or at the end; calls that wait are made all the same.
    """

    def __init__(self, workers: int = 4, ahead: int = 16) -> None:
        self.threads, self.waiting, self.ahead = ThreadPoolExecutor(workers), collections.deque(), ahead

    def __call__(self, function: Callable, *args) -> None:
        self.waiting.append(self.threads.submit(function, *args))
        while len(self.waiting) > self.ahead:
            self.waiting.popleft().result()

    def __enter__(self) -> "BoundedExecutor":
        return self

    def __exit__(self, kind: type | None, *unused) -> None:
        self.threads.shutdown()
        while self.waiting and kind is None:
            self.waiting.popleft().result()


def to_8_bit(saliency: Tensor, quantise: Callable[[Tensor], Tensor] = stretch) -> np.ndarray:
    """A map as a model's `quantise` makes it 8 bits; one that is not finite is a ValueError, never a black picture."""
    if not saliency.isfinite().all():
        raise ValueError("the network's map is not finite: its weights are broken, or --precision bfloat16 overflowed; try float32")
    return quantise(saliency).cpu().numpy()


def write_map(path: Path, saliency: Tensor, quantise: Callable[[Tensor], Tensor] = stretch) -> None:
    """Write a map as 8-bit PNG, atomically."""
    with utils.atomic_path(path) as temporary:
        Image.fromarray(to_8_bit(saliency, quantise)).save(temporary, format="PNG", compress_level=1)  # a third of the time of level 6


def to_half(saliency: Tensor) -> np.ndarray:
    """The map as float16: its error is 0.0005 at most."""
    return saliency.half().cpu().numpy()


# Device and precision

def select_device(name: str) -> torch.device:
    """The device for `--device`: "auto" is CUDA, else MPS, else the CPU; one that is not there is a ValueError."""
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"device must be auto, cpu, cuda or mps, got {name!r}")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in present.items() if there)
    if not present[name]:
        raise ValueError(f"--device {name}: PyTorch {torch.__version__} sees no {name} device on this machine; use --device auto or cpu")
    return torch.device(name)


def default_precision(device: torch.device) -> str:
    """bfloat16 on CUDA, where it is several times faster; float32 elsewhere."""
    return "bfloat16" if device.type == "cuda" else "float32"


def choose_precision(asked: str | None, device: torch.device, force_bfloat16: bool = False) -> str:
    """The precision that was asked for, else the device's default.

    Raises:
        ValueError: bfloat16 was asked of a CPU that has no instructions for it, and not forced.
    """
    if asked == "bfloat16" and not force_bfloat16 and not utils.computes_bfloat16(device):
        raise ValueError("--precision bfloat16: this CPU has no instructions for it, and float32 is about 300 times faster here: use --precision "
                         "float32 (same maps within 0.01), or --force-bfloat16 to wait all the same")
    return asked or default_precision(device)


def precision_context(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """What to train in: bfloat16 autocast, or float32 that really is (TF32 off)."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    float32_is_float32()
    return contextlib.nullcontext()


def float32_is_float32() -> None:
    """No TF32, which would round float32 to 10 bits on NVIDIA's GPUs."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, for the next ones. For programs, not for libraries.

    glibc gives large blocks back to the system, and getting them anew, page by page, costs the network 7 % of its time on
    a CPU and the measures of a frame more than the arithmetic (benchmarks). Elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)                                                # M_MMAP_MAX: no block is a mapping of its own
        libc.mallopt(-1, 2 ** 31 - 1)                                      # M_TRIM_THRESHOLD
        libc.mallopt(-8, 1)                                                # M_ARENA_MAX: one heap for all threads, or it would grow for hours


def device_arguments(parser: argparse.ArgumentParser, precision: str, bfloat16: str = "the whole network but its readout") -> None:
    """The flags every script has; `precision` says what its default is, `bfloat16` what that choice means there."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto",
                       help="where to compute; auto: CUDA, else MPS, else CPU (default: auto)")
    group.add_argument("--precision", choices=PRECISIONS,
                       help=f"bfloat16: {bfloat16}; float32: TF32 off (default: {precision})")
    group.add_argument("--force-bfloat16", action=argparse.BooleanOptionalAction, default=False,
                       help="compute in bfloat16 on a CPU without instructions for it too, hundreds of times slower than in float32 (default: off)")


def model_argument(group, **options) -> None:
    """The flag that says which network."""
    group.add_argument("--model", choices=list(MODELS), **{"default": "recsalnet", **options},
                       help=f"{'networks, one or several' if 'nargs' in options else 'the network'} (default: recsalnet)")


def engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `saliency_maps` and of how its network is run."""
    group = parser.add_argument_group("speed")
    group.add_argument("--batch-size", type=at_least(1),
                       help="clips or groups computed at once, frames of the other networks (default: 1 on a CPU, else 4)")
    group.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False,
                       help="let PyTorch compile the network first, which takes minutes; meant for GPUs, on CPUs it gained nothing (default: off)")
    group.add_argument("--interpolate", type=at_least(1), default=1, metavar="N",
                       help="APPROXIMATION: only every N-th frame goes through the network, maps between are interpolated (default: 1, exact)")
    group.add_argument("--frame-size", type=at_least(16), nargs=2, metavar=("H", "W"),
                       help="APPROXIMATION: size in pixels, multiples of 32, of 16 for the recurrent ones, that the network sees frames at "
                            "(default: the one it was trained at)")


def default_batch_size(device: torch.device) -> int:
    """Clips computed at once: a CPU is busy with one."""
    return 1 if device.type == "cpu" else 4


def compile_network(model: nn.Module, backend: str = "inductor") -> None:
    """Let PyTorch compile the network, for clips of one shape, at its first clip; one eager pass before builds the masks."""
    if "compile" not in model.abilities:
        raise ValueError(f"--compile is for networks of windows: {type(model).__name__} goes through a video in pieces of any length")
    training = model.training
    with torch.no_grad():
        model.eval()(*model.blank())
    model.train(training).compile(dynamic=False, backend=backend)


def default_weights(name: str) -> Path:
    """Where the weights of a key of `MODELS` are: what train.py wrote (the first one's in saved_models itself), else its authors' file there."""
    own = default_folder(name) / f"{MODELS[name].__name__}.pth"
    authors = Path("saved_models") / (MODELS[name].authors_file or own.name)
    return authors if authors.is_file() and not own.is_file() else own


def default_folder(name: str) -> Path:
    """The run folder of a key of `MODELS`."""
    return Path("saved_models") / ("" if name == next(iter(MODELS)) else name)


def load_model(weights: str | Path, device: torch.device, precision: str = "float32", compiled: bool = False,
               frame_size: tuple[int, int] | None = None, name: str = "recsalnet") -> nn.Module:
    """The network, a key of `MODELS`, of a weight file (path or https URL), in eval mode on the device, in a precision for inference."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    if name not in MODELS:
        raise ValueError(f"model must be one of {list(MODELS)}, got {name!r}")
    model = MODELS[name].from_pretrained(weights, frame_size)
    float32_is_float32()
    model = (model.bfloat16() if precision == "bfloat16" else model).to(device)
    if compiled:
        compile_network(model)
    return model


def print_configuration(model: nn.Module, weights: str | Path) -> None:
    """Print what a weight file turned out to hold: the configuration as far as it is not the paper's."""
    if not model.is_described:
        print(f"no configuration in or beside {weights}: what its entries do not tell, such as the frame size, is assumed to be the paper's")
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(model)).parameters.items()}
    changed = [f"{name} {value}" for name, value in model.config.items() if name != "frame_size" and value != defaults[name]
               and tuple(value if isinstance(value, list) else ()) != defaults[name]]
    size = model.config["frame_size"]
    frames = f"frames of {size[0]} x {size[1]}" if size else "frames of their own sizes"
    print(", ".join([f"{weights}: {type(model).__name__}", frames, *changed]))


# From Python

class Predictor:
    """Saliency maps of anybody's video, from Python.

        for seconds, saliency in Predictor("saved_models/RecSalNet.pth").predict_video("clip.mp4"):
            ...                                                            # saliency: (H, W) float32 in (0, 1), NumPy

    Args:
        weights: path or https URL of a weight file (`find_file`); default: saved_models/RecSalNet.pth, or the model's.
        device: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda" or "mps".
        precision: "float32" or "bfloat16"; default bfloat16 on CUDA, else float32.
        force_bfloat16: allow bfloat16 on a CPU without instructions for it, where it is hundreds of times slower than float32.
        frame_size: (H, W) that the network sees frames at, if not the one it was trained at.
        compiled: let PyTorch compile the network at its first clip.
        model: a key of `baselines.MODELS`.
        options: those of `saliency_maps`: batch_size, every, interpolate, first_frames, scene_cuts, resize.

    For the whole process, it turns TF32 off.

    Raises:
        FileNotFoundError, ValueError: there are no such weights, or they are none; there is no such device, or it is a CPU without bfloat16.
    """

    def __init__(self, weights: str | Path | None = None, device: str = "auto", precision: str | None = None, *, force_bfloat16: bool = False,
                 frame_size: tuple[int, int] | None = None, compiled: bool = False, model: str = "recsalnet", **options) -> None:
        self.device = select_device(device)
        precision = choose_precision(precision, self.device, force_bfloat16)
        self.model = load_model(weights or default_weights(model), self.device, precision, compiled, frame_size, model)
        self.options = EngineOptions(**{"batch_size": default_batch_size(self.device), **options})

    def predict_video(self, path: str | Path, start: float = 0.0, end: float = math.inf, fps: float = 25.0,
                      flow: FlowSource | None = None) -> Iterator[tuple[float, np.ndarray]]:
        """Time in seconds and map, (H, W) float32 in [0, 1], of each frame of a video file, or a folder of frames shown at `fps`.

        Networks that need optical flow get DIS's, or that of `flow`.
        """
        source = Source(Path(path), fps, start, end)
        source.check()
        for prediction in predictions(self.model, source, self.options, flow=flow):
            yield prediction.seconds, prediction.saliency.cpu().numpy()

    def predict_frames(self, frames: Iterable[np.ndarray], flows: Iterable[np.ndarray] | Flow | None = None) -> Iterator[np.ndarray]:
        """A map, (H, W) float32 in [0, 1], for each frame, (H, W, 3) uint8, RGB; `flows` as of `saliency_maps`."""
        return (saliency.cpu().numpy() for saliency in saliency_maps(self.model, frames, flows, self.options))


class Prediction(NamedTuple):
    """A frame and its map: the frame's name (of files), its time in seconds, (H, W, 3) uint8 RGB, and (H, W) float32 in [0, 1]."""
    name: str
    seconds: float
    frame: np.ndarray
    saliency: Tensor
    quantise: Callable[[Tensor], Tensor] = stretch                         # how its model makes 8 bits of it


def predictions(model: SaliencyModel, source: "Source", options: EngineOptions, done: int = 0,
                times: dict[str, float] | None = None, flow: FlowSource | None = None) -> Iterator[Prediction]:
    """Every map of a video together with the frame it belongs to.

    Args:
        model: as for `saliency_maps`.
        source: the video.
        options: how to go through it; `skip` follows from `done`.
        done: maps that are there already; those after them are computed.
        times: gets the name and time of every frame that has a map, those already there included.
        flow: where the flow comes from, for models that need it; of a folder's frames or of a video file's. Default: DIS, not kept.
    """
    wanted = done * options.every                                          # index of the first frame to compute a map of
    # That map depends on the frames before, and a cut at the beginning of those on two more.
    first = max(0, wanted - model.frames_before(wanted) - 2)
    waiting, times = collections.deque(), {} if times is None else times   # frames whose maps are still to come

    def frames() -> Iterator[np.ndarray]:
        for index, timed in enumerate(source.frames()):
            if index % options.every == 0:
                times[timed.name] = timed.seconds
                if index >= wanted:
                    waiting.append(timed)
            if index >= first:
                yield timed.frame

    flows = source.flows(flow or FlowSource("dis", model.flow_picture, keep=False), first) if model.needs_flow else None
    for saliency in saliency_maps(model, frames(), flows, replace(options, skip=wanted - first)):
        yield Prediction(*waiting.popleft(), saliency, model.quantise)


# Inputs

class TimedFrame(NamedTuple):
    """A frame: its name (of files), its time in seconds, and (H, W, 3) uint8 RGB."""
    name: str
    seconds: float
    frame: np.ndarray


class TimedImage(NamedTuple):
    """A frame's time in seconds, and its image file."""
    seconds: float
    path: Path


@dataclass(frozen=True)
class Source:
    """A video file, or a folder of frames that are shown at `fps`; from `start` to `end`, in seconds.

    An animated PNG or WebP is a video file too, and so is a TIFF file of several pages, which are shown at `fps`. With
    `stills`, a single picture is a video of one frame.
    """
    path: Path
    fps: float = 25.0
    start: float = 0.0
    end: float = math.inf
    stills: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"the start, second {self.start:g}, must be 0 or more and before the end, second {self.end:g}")

    @property
    def is_pictures(self) -> bool:
        """Whether its frames are picture files."""
        return self.path.is_dir() or self.is_still

    @property
    def is_still(self) -> bool:
        is_image = self.path.suffix.lower() in IMAGE_SUFFIXES and self.path.is_file()
        return self.stills and is_image and not self.is_animation

    @functools.cached_property
    def is_animation(self) -> bool:
        """Whether it is a file of several pictures, which is read without FFmpeg."""
        return is_animation(self.path)

    @property
    def name(self) -> str:
        """What its outputs are called."""
        path = Path(os.path.abspath(self.path))                            # not where a link leads: those may be called otherwise
        return path.name if path.is_dir() else path.stem

    def identity(self) -> dict:
        """What tells it from another of the same name."""
        if not self.is_pictures:
            rate = {"fps": self.fps} if self.is_animation else {}
            return {"bytes": self.path.stat().st_size, "modified": self.path.stat().st_mtime_ns, **rate}
        files = [image.path for image in self.images()]
        return {"frames": len(files), "last": files[-1].name, "bytes": sum(path.stat().st_size for path in files), "fps": self.fps}

    def check(self) -> None:
        """Raise what is wrong with it, as far as can be told before it is decoded."""
        if self.is_pictures:
            self.images()
        elif not self.path.exists():
            missing = "nothing matches this pattern" if glob.has_magic(str(self.path)) else "it does not exist"
            raise FileNotFoundError(f"no input {self.path}: {missing}. "
                                    f"Expected a video file, or a folder of frames ({', '.join(sorted(IMAGE_SUFFIXES))})")
        elif self.is_animation:
            return
        elif self.path.suffix.lower() in IMAGE_SUFFIXES and self.path.is_file():
            read_frame(self.path)                                          # or it is none, which is said
            networks = ", ".join(name for name, model in MODELS.items() if model.takes_stills)
            raise ValueError(f"{self.path} is a single image: give the folder of frames it belongs to, or a video file "
                             f"(of single images, {networks} make maps)")
        else:
            open_container(self.path).close()

    def images(self) -> list[TimedImage]:
        """Times and files of a folder's frames."""
        folder = self.path / "images" if (self.path / "images").is_dir() else self.path
        files = [self.path] if self.is_still else list_frames(folder)
        shown = [TimedImage(index / self.fps, path) for index, path in enumerate(files)]
        shown = [image for image in shown if self.start <= image.seconds < self.end]
        if not shown:
            raise ValueError(f"{folder} has no frame from second {self.start:g} to {self.end:g} at {self.fps:g} frames a second")
        return shown

    def frames(self) -> Iterator[TimedFrame]:
        """Each frame in order; a video file's are called 0001, 0002 and so on."""
        if self.is_pictures:
            images = self.images()
            pictures = in_threads(read_frame, (image.path for image in images))
            yield from (TimedFrame(path.stem, seconds, picture) for (seconds, path), picture in zip(images, pictures))
        else:
            timed = timed_frames(self.path, self.start, self.end, self.fps)
            yield from (TimedFrame(f"{number:04d}", *frame) for number, frame in enumerate(timed, start=1))

    def flows(self, flow: FlowSource, first: int) -> Iterator[np.ndarray] | Flow:
        """The pictures of its frames' flow from frame `first` (an index) on; of a video file, what makes them."""
        if not self.is_pictures:
            return flow.maker(str(self.path))
        paths = [image.path for image in self.images()]
        pictures = flow.pictures(paths)
        return (pictures[index] for index in range(first, len(paths)))

    def names(self) -> Iterator[str]:
        """The names of its frames; without an end for a video file."""
        if self.is_pictures:
            return (image.path.stem for image in self.images())
        return (f"{number:04d}" for number in itertools.count(1))

    def expected_frames(self) -> int | None:
        """About how many frames there will be, for a progress bar; None where a video file's header does not tell."""
        if self.is_pictures:
            return len(self.images())
        if self.is_animation:
            return None
        with open_container(self.path) as container:
            estimate = container.duration and container.duration / av.time_base
            lasts, rate = promised_seconds(container) or estimate, picture_stream(container).average_rate
            return max(1, round((min(lasts, self.end) - self.start) * rate)) if lasts and rate else None


def find_sources(inputs: list[str], **options) -> list[Source]:
    """The videos that the command line names: files, folders of frames, folders of either, and patterns such as clips/*.mp4."""
    paths = []
    for text in inputs:
        found = [Path(text)] if Path(text).exists() else [Path(name) for name in natural(glob.glob(text, recursive=True))]
        for path in found or [Path(text)]:
            paths += videos_below(path) or [path]
    return [Source(path, **options) for path in dict.fromkeys(paths)]


def videos_below(path: Path) -> list[Path]:
    """The videos in a folder that is none itself: files (`is_video`), and folders of frames; empty for everything else.

    What else such a folder holds is printed.

    Raises:
        ValueError: the folder holds videos and pictures, so it could be meant as one video or as several.
    """
    if not path.is_dir() or (path / "images").is_dir():
        return []
    files = [p for p in path.iterdir() if p.is_file() and not p.name.startswith(".")]
    below = sorted([*folders_in(path), *files], key=lambda p: natural_key(p.name))
    if images_in(path):
        # One file of each suffix: beside frames there may be thousands.
        others = {p.suffix.lower(): p for p in reversed(below) if p.is_file()}
        video = next((p for suffix, p in others.items() if suffix not in IMAGE_SUFFIXES and is_video(p)), None)
        if video:
            raise ValueError(f"{path} holds pictures and videos, {video.name} for one: "
                             f"name the videos, such as \"{path}/*{video.suffix}\"")
        return []
    videos = [p for p in below if (is_video(p) if p.is_file() else images_in(p) or images_in(p / "images"))]
    left_out = [p.name for p in sorted({*below} - {*videos})]
    if videos and left_out:
        named = ", ".join(left_out[:5]) + ", .." * (len(left_out) > 5)
        print(f"{path}: left out, as no video: {len(left_out)} of {len(below)} ({named})")
    return videos


# Outputs

SHEET = 4                                                                  # rows and columns of a contact sheet
Write = Callable[[Prediction], None]


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
    with utils.atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
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
        if len(kept) > 8 * SHEET ** 2:                                     # twice as far apart: bounded, however long the video
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
        open: (path, source) -> a context that gives the function to write a prediction with; what it writes is whole,
            or not there, when it ends.
        per_frame: whether `place` is such a folder.
        shows_frames: whether maps are laid on the frames, and must have their size.
        threads: that write; one keeps the order of the frames.
    """
    place: str
    help: str
    open: Callable[[Path, Source], contextlib.AbstractContextManager[Write]]
    per_frame: bool = False
    shows_frames: bool = False
    threads: int = 1


OUTPUTS = {                                                                # what --save takes
    "png": Output("{name}/", "8-bit maps OUT/VIDEO/FRAME.png, as the model's authors save theirs (RecSal-Net's: each stretched to 0 .. 255)",
                  png_maps, per_frame=True, threads=4),
    "npy": Output("{name}/", "float16 maps OUT/VIDEO/FRAME.npy, as the network gives them, in [0, 1]", npy_maps, per_frame=True, threads=4),
    "npz": Output("{name}.npz", "all of those in one file, under the frames' names", archive),
    "map-video": Output("{name}_map.mp4", "the 8-bit maps as a grey video", map_video),
    "overlay": Output("{name}_overlay.mp4", "the video with the map as heat on it, and its sound", overlay, shows_frames=True),
    "sheet": Output("{name}_sheet.png", "16 frames with their heat on one page", contact_sheet, shows_frames=True),
}


def output_path(out: Path, name: str, kind: str) -> Path:
    """Where a video's output of a kind goes: a file, or the folder of its frames' files."""
    return out / OUTPUTS[kind].place.format(name=name)


# Video output

@contextlib.contextmanager
def video_file(path: Path, source: Source, sound: bool) -> Iterator[Callable[[np.ndarray, float], None]]:
    """An H.264 video in MP4, which browsers play: gives a function of a picture, (H, W, 3) uint8, and its time in the source.

    With `sound`, the source's is copied.
    """
    check_av()
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(utils.atomic_path(path.absolute()))  # FFmpeg takes a relative "a:b.mp4" for a protocol
        container = stack.enter_context(av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}))
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
        source: tells the average rate, the shape of a pixel, and how long the last picture stands.
    """

    def __init__(self, container: "av.container.OutputContainer", source: Source) -> None:
        self.rate, self.aspect, end = playback(source)
        self.container, self.until = container, min(source.end, end) - source.start
        # Without B-frames: packets come in the order of the pictures.
        self.stream = container.add_stream("libx264", rate=self.rate, options={"crf": "20", "preset": "veryfast", "bf": "0"})
        self.last, self.step = None, round(TICKS / self.rate)              # in ticks: the last picture, and how long it stands

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
            packet.duration = self.step                                    # counts for the last one, which no other follows
            self.container.mux(packet)

    def end(self) -> None:
        """Write what the encoder still holds."""
        if self.last is not None:
            self.step = max(1, round(self.until * TICKS) - self.last) if self.until < math.inf else self.step
            self.mux(None)


TICKS = 90000                                                              # a second of a video file's clock


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
    stream.codec_context.color_range = 1                                   # 16 .. 235
    if aspect:
        stream.codec_context.sample_aspect_ratio = aspect


BT709 = 1                                                                  # FFmpeg's number of the usual colours of HD video


def video_frame(picture: np.ndarray, stream: "av.VideoStream", ticks: int) -> "av.VideoFrame":
    """A picture, (H, W, 3) uint8, as the encoder wants it: at its size (a video may change its own), the last row repeated if odd."""
    height, width = stream.height - picture.shape[0], stream.width - picture.shape[1]
    if {height, width} <= {0, 1}:
        picture = np.pad(picture, ((0, height), (0, width), (0, 0)), mode="edge")
    else:
        picture = cv2.resize(picture, (stream.width, stream.height), interpolation=cv2.INTER_AREA)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p", dst_colorspace=BT709)
    frame.pts, frame.time_base = ticks, Fraction(1, TICKS)
    return frame


# What browsers play in an MP4 file.
SOUND_CODECS = {"aac", "mp3", "opus", "flac", "ac3", "eac3", "alac"}


class TimedPacket(NamedTuple):
    """A packet of a sound track, and its time in the source, in seconds."""
    seconds: float
    packet: "av.Packet"


@contextlib.contextmanager
def sound_of(source: Source, output: "av.container.OutputContainer") -> Iterator[Iterator[TimedPacket]]:
    """The packets of a video file's sound track, with their times, ready to be copied; none where an MP4 file cannot hold it."""
    with contextlib.ExitStack() as stack:
        silent = source.is_pictures or source.is_animation
        container = None if silent else stack.enter_context(open_container(source.path))
        track = container and container.streams.best("audio")
        codec = track.codec_context.codec.canonical_name if track is not None and track.codec_context is not None else "unknown"
        if track is not None and codec not in SOUND_CODECS:
            print(f"{source.path}: its sound ({codec}) is left out, MP4 files that browsers play hold {', '.join(sorted(SOUND_CODECS))}")
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
        with contextlib.suppress(av.FFmpegError):                          # without an index it is read from the beginning
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


# A run over many videos

def predict_source(model: SaliencyModel, source: Source, out: Path, kinds: Iterable[str] = ("png",),
                   options: EngineOptions | None = None, done: int = 0,
                   flow: FlowSource | None = None) -> dict[str, float]:
    """Write the outputs of one video.

    Args:
        model: as for `saliency_maps`.
        source: the video.
        out: folder; the names in it are those of `OUTPUTS`.
        kinds: keys of `OUTPUTS`.
        options: how to go through the video; default: exactly.
        done: maps that are there already.
        flow: of `predictions`.

    Returns:
        The time in seconds of each frame that has a map, by its name.
    """
    options = options or EngineOptions()
    times, total = {}, source.expected_frames()
    total = total and -(-total // options.every)
    with contextlib.ExitStack() as stack:
        writes = [stack.enter_context(OUTPUTS[kind].open(output_path(out, source.name, kind), source)) for kind in kinds]
        lanes = [stack.enter_context(BoundedExecutor(OUTPUTS[kind].threads)) for kind in kinds]
        maps = predictions(model, source, options, done, times, flow)
        for prediction in tqdm(maps, desc=source.name, unit="frame", initial=done, total=total, disable=None):
            for lane, write in zip(lanes, writes):
                lane(write, prediction)
    return times


def check_kinds(kinds: list[str], resized: bool) -> None:
    """Maps that are smaller than the frames cannot be laid on them."""
    laid = [kind for kind, output in OUTPUTS.items() if output.shows_frames]
    if not resized and {*laid} & {*kinds}:
        raise ValueError(f"--no-resize leaves maps smaller than the frames that --save {' and '.join(laid)} lay them on: "
                         "leave out one of them")


class Plan(NamedTuple):
    """What is left to do of a video.

    Attributes:
        done: maps that an earlier run wrote, and that this one keeps; it goes on after them.
        complete: whether nothing is left to do.
    """
    done: int
    complete: bool = False


def plan(source: Source, out: Path, kinds: list[str], settings: dict, overwrite: bool, skip_existing: bool) -> Plan:
    """Find what an earlier run with the same settings left to do.

    Raises:
        FileExistsError: something is there that no earlier run wrote, or neither `overwrite` nor `skip_existing` says
            what to do.
        ValueError: what is there was made with other settings.
    """
    path, stored = description(out, source.name), read_description(out, source.name)
    ours = stored["kinds"] if stored else []
    foreign = [file for kind in kinds if kind not in ours for file in files_of(out, source.name, kind)]
    if path.exists() and not stored:
        foreign.append(path)
    if foreign:
        raise FileExistsError(f"{foreign[0]} is there, and {path} does not say that this program wrote it: move it away, "
                              "or choose another --out")
    if overwrite or stored is None:
        return Plan(0)
    if not skip_existing:
        raise FileExistsError(f"{path} says that {source.name} was predicted already: --skip-existing keeps what is "
                              "there and goes on after it, --overwrite replaces it")
    earlier = stored["settings"]
    changed = [f"{name} was {earlier.get(name)}, is {value}"
               for name, value in settings.items() if earlier.get(name) != value]
    if changed:
        raise ValueError(f"{path}: {source.name} was predicted otherwise: {'; '.join(changed)}. "
                         "Give --overwrite, the same options as then, or another --out")
    present = maps_present(source, out, kinds, stored["frames"], settings["every"])
    # Interpolated maps depend on those before.
    return Plan(0) if settings["interpolate"] > 1 and not present.complete else present


def maps_present(source: Source, out: Path, kinds: list[str], frames: dict[str, float] | None, every: int) -> Plan:
    """Count the maps before the first one that is missing, as far as a run can go on after them.

    Args:
        source, out, kinds, every: what is asked for.
        frames: the names of all maps if an earlier run came to its end, else None.
    """
    names = frames or itertools.islice(source.names(), 0, None, every)
    per_frame = [kind for kind in kinds if OUTPUTS[kind].per_frame]
    whole = [output_path(out, source.name, kind) for kind in kinds if not OUTPUTS[kind].per_frame]

    def is_there(name: str) -> bool:
        return all((output_path(out, source.name, kind) / f"{name}.{kind}").exists() for kind in per_frame)

    done = sum(1 for _ in itertools.takewhile(is_there, names)) if per_frame else 0
    if frames and all(path.exists() for path in whole) and (done == len(frames) or not per_frame):
        return Plan(len(frames), complete=True)
    return Plan(0 if whole else done)                                      # a file of all frames cannot be continued


def description(out: Path, name: str) -> Path:
    """The file that says what made a video's outputs."""
    return out / f"{name}.json"


def read_description(out: Path, name: str) -> dict | None:
    """What an earlier run wrote about a video's outputs; None if there is no such file, or another program's."""
    path = description(out, name)
    try:
        stored = utils.read_json(path) if path.exists() else {}
    except ValueError:
        return None
    kinds = stored.get("kinds")
    ours = isinstance(stored.get("settings"), dict) and isinstance(kinds, list) and all(isinstance(k, str) and k in OUTPUTS for k in kinds)
    return stored if ours and isinstance(stored.get("frames", ...), (dict, type(None))) else None  # None: it was interrupted


def files_of(out: Path, name: str, kind: str) -> list[Path]:
    """A video's outputs of one kind that are there."""
    path = output_path(out, name, kind)
    return sorted(path.glob(f"*.{kind}")) if OUTPUTS[kind].per_frame else [path] * path.exists()


def clear(out: Path, name: str) -> None:
    """Remove all outputs of a video that an earlier run wrote, as its description says."""
    stored = read_description(out, name)
    if stored:
        for file in [file for kind in stored["kinds"] for file in files_of(out, name, kind)]:
            file.unlink()
        description(out, name).unlink()


@contextlib.contextmanager
def described(out: Path, name: str, kinds: list[str], about: dict) -> Iterator[dict[str, float]]:
    """Describe a video's outputs while they are written, so that an interrupted run can be continued, and afterwards.

    Args:
        out: folder.
        name: the video's.
        kinds: of output that are written now; those of an earlier run are described too.
        about: what else the description says.

    Yields:
        A dict to fill with the time in seconds of each frame that has a map, by its name.
    """
    earlier = read_description(out, name)
    about = {**about, "kinds": sorted({*kinds, *(earlier["kinds"] if earlier else [])})}
    times = {}
    utils.write_json(description(out, name), {**about, "frames": None})
    try:
        yield times
    except BaseException:
        if not any(files_of(out, name, kind) for kind in about["kinds"]):
            description(out, name).unlink()                                # there is nothing that it could describe
        raise
    frames = {frame: round(seconds, 6) for frame, seconds in times.items()}
    utils.write_json(description(out, name), {**about, "frames": frames})


def check_names(sources: list[Source]) -> None:
    """Two sources whose outputs would be called the same are an error."""
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        same = [str(source.path) for source in sources if source.name == twice[0]]
        raise ValueError(f"several inputs are called {twice[0]}, their maps would be mixed: {same}. Predict them into different --out folders")


def check_outputs(sources: list[Source], out: Path) -> None:
    """Outputs that would replace an input, or fall among its frames, are an error."""
    inputs = {path.resolve(): source for source in sources for path in (source.path, source.path / "images")}
    for source in sources:
        for path in (description(out, source.name), *(output_path(out, source.name, kind) for kind in OUTPUTS)):
            if path.resolve() in inputs:
                raise ValueError(f"the outputs of {source.path} would be written over or into the input {inputs[path.resolve()].path}: "
                                 "choose another --out")


# DHF1K's test set, for its organisers

TEST_SET = [f"{number:04d}" for number in range(701, 1001)]


def check_test_set(names: list[str]) -> None:
    """Raise a ValueError unless the videos are those of the test set; DHF1K's own files have three digits, 701.AVI."""
    numbered = [f"{int(name):04d}" if name.isdecimal() else name for name in names]
    if sorted(numbered) != TEST_SET:
        missing, other = sorted(set(TEST_SET) - set(numbered)), sorted(set(numbered) - set(TEST_SET))
        raise ValueError("--submission needs the 300 videos 0701 to 1000 of DHF1K's test set, in folders or files of these names; "
                         f"missing: {len(missing)}, the first {missing[:3]}; not of the set: {len(other)}, the first {other[:3]}")


def pack_submission(out: Path, names: list[str], archive_path: Path, method: str) -> int:
    """Zip the maps as METHOD/VIDEO/FRAME.png, after checking names, counts and kind; returns how many maps there are.

    Raises:
        ValueError: it is not the whole test set, or a video's maps are not one 8-bit PNG for each of its frames.
    """
    check_test_set(names)
    maps = [path for name in sorted(names, key=int) for path in checked_maps(out, name)]
    with utils.atomic_path(archive_path) as temporary, zipfile.ZipFile(temporary, "w") as file:  # stored: PNG is compressed already
        for path in maps:
            file.write(path, f"{method}/{int(path.parent.name):04d}/{path.name}")
    return len(maps)


def checked_maps(out: Path, name: str) -> list[Path]:
    """The maps of one video: 0001.png to the number of its frames, 8 bits, one channel."""
    frames = (read_description(out, name) or {}).get("frames") or {}
    maps = sorted((out / name).glob("*.png"))
    expected = [f"{number:04d}" for number in range(1, len(frames) + 1)]
    if not frames or [path.stem for path in maps] != expected:
        raise ValueError(f"video {name}: expected the maps 0001.png to {len(frames):04d}.png in {out / name}, one for each frame; "
                         f"there are {len(maps)}: {maps[0].name if maps else 'none'} to {maps[-1].name if maps else 'none'}")
    for path in maps:
        with Image.open(path) as image:
            if image.mode != "L":
                raise ValueError(f"{path} must be an 8-bit grey picture, its mode is {image.mode}")
    return maps


# Export

EXPORTABLE = "2.6"                                                         # torch.export of 2.4 trips over the authors' names in state dicts


def export(model: nn.Module, path: Path) -> str:
    """Write the network for other programs, and compare what it gives with ours; returns a sentence on it.

    Args:
        model: in eval mode, float32, on the CPU.
        path: `.pt2` (torch.export) or `.onnx`: from a clip (B, 3, 32, H, W), normalised, of any B, to the map (B, h, w);
            or `.safetensors`: the weights, with the configuration in the file's metadata.

    Raises:
        ValueError: another suffix, a recurrent network with another one than `.safetensors`, or the outputs differ by more than 1e-4.
        ModuleNotFoundError: ONNX needs the packages onnx and onnxscript.
    """
    if path.suffix == ".safetensors":
        save_safetensors(model.state_dict(), model.config, path)
        return "weights and configuration"
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"--export {path}: the name must end in .pt2, .onnx or .safetensors")
    if "export" not in model.abilities:
        raise ValueError(f"--export to {path.suffix} is for networks of windows: {type(model).__name__} takes one frame after the other, or groups. "
                         "Its weights can be written as .safetensors")
    if path.suffix == ".onnx" and model.onnx_differs:
        raise ValueError(f"{type(model).__name__}'s maps from ONNX differ by more than rounding: export it as .pt2, which is exact, or .safetensors")
    if torch.__version__ < EXPORTABLE:
        raise ValueError(f"--export to {path.suffix} needs PyTorch {EXPORTABLE} or newer, this is {torch.__version__}")
    clip = torch.randn(2, 3, model.clip_len, *model.config["frame_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")                                    # of PyTorch, about its own formats
        expected = [model(clip), model(clip[:1])]                          # each in its batch: rounding may move TASED-Net's maxima
        program = torch.export.export(model, (clip,), dynamic_shapes={"clip": {0: torch.export.Dim("batch")}})
        with utils.atomic_path(path) as temporary:
            outputs = {".pt2": export_pt2, ".onnx": export_onnx}[path.suffix](program, clip, temporary)
            if outputs is None:
                return f"clip {tuple(clip.shape[1:])} -> map; NOT compared with PyTorch's output, for onnxruntime is not installed"
            error = max((output - ours).abs().max().item() for output, ours in zip(outputs, expected))
            if not error <= 1e-4:
                raise ValueError(f"the exported network's output differs from PyTorch's by {error:.2g}, more than 1e-4: {path} was not written")
    return f"clip {tuple(clip.shape[1:])} -> map; differs from PyTorch's output by {error:.1g} at most"


def export_pt2(program: torch.export.ExportedProgram, clip: Tensor, path: Path) -> list[Tensor]:
    """Write it with torch.export, read it again, and return its outputs for two clips and for one."""
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return [module(clip), module(clip[:1])]


def export_onnx(program: torch.export.ExportedProgram, clip: Tensor, path: Path) -> list[Tensor] | None:
    """Write it as ONNX, and return onnxruntime's outputs for two clips and for one; None where that is not installed."""
    if importlib.util.find_spec("onnxscript") is None:
        raise ModuleNotFoundError("ONNX needs packages of its own: pip install \".[onnx]\"")
    torch.onnx.export(program, (clip,), str(path), dynamo=True, external_data=False, input_names=["clip"], output_names=["saliency"], verbose=False)
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, {"clip": some.numpy()})[0]) for some in (clip, clip[:1])]


# The command line

def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number, `least` or more, and not beyond what a seed or a size can be."""
    def number(text: str) -> int:
        value = int(text)
        if not least <= value < 2 ** 31:
            raise argparse.ArgumentTypeError(f"must be {least} or more and below 2^31, got {text}")
        return value
    return number


def positive(text: str) -> float:
    """An argparse type: above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def seconds(text: str) -> float:
    """An argparse type: a time as seconds, MM:SS or HH:MM:SS."""
    parts = [float(part) for part in text.split(":")]
    if not all(0 <= part < math.inf for part in parts):
        raise argparse.ArgumentTypeError(f"must be a time, 0 or more, got {text}")
    return sum(part * 60 ** power for power, part in enumerate(reversed(parts)))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", metavar="INPUT",
                        help="video file, folder of frames, folder of either, or a pattern such as \"clips/*.mp4\"")
    model_argument(parser)
    parser.add_argument("--weights",
                        help="weight file: a path, or an https URL, which is downloaded once (URL#sha256=HEX: and checked); FILE#KEY: one of "
                             "several state dicts in it; a .json beside it, or the metadata of a .safetensors file, is read for the "
                             "configuration (default: saved_models/RecSalNet.pth, or so for "
                             "the other models)")
    parser.add_argument("--export", type=Path, metavar="FILE",
                        help="write the network as FILE.pt2 (torch.export), FILE.onnx, or its weights as FILE.safetensors (default: none)")
    output_arguments(parser.add_argument_group("output"))
    video_arguments(parser.add_argument_group("video"))
    flow_arguments(parser)
    engine_arguments(parser)
    device_arguments(parser, "bfloat16 on CUDA, else float32")
    return parser


def output_kind(text: str) -> str:
    """An argparse type: a key of `OUTPUTS`."""
    if text not in OUTPUTS:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(OUTPUTS)}; if it is an INPUT, put it before --save")
    return text


def output_arguments(group) -> None:
    kinds = "; ".join(f"{kind}: {output.help}" for kind, output in OUTPUTS.items())
    group.add_argument("--out", type=Path, default=Path("saliency"),
                       help="folder for all outputs, and VIDEO.json with the frames' times (default: saliency)")
    group.add_argument("--save", nargs="+", type=output_kind, default=["png"], metavar="KIND", help=f"{kinds} (default: png)")
    existing = group.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace the outputs of an earlier run")
    existing.add_argument("--skip-existing", action="store_true", help="keep them, and go on after them: continues an interrupted run")
    group.add_argument("--submission", type=Path, metavar="FILE.zip",
                       help="pack the maps of DHF1K's test set, METHOD/VIDEO/FRAME.png, for the benchmark's organisers (default: none)")
    group.add_argument("--method", help="name of the method in the submission (default: the model's class, such as RecSalNet)")


def video_arguments(group) -> None:
    group.add_argument("--start", type=seconds, default=0.0, metavar="TIME",
                       help="begin there, in seconds or MM:SS; the window begins there, too (default: 0)")
    group.add_argument("--end", type=seconds, default=math.inf, metavar="TIME", help="stop before this time (default: the video's end)")
    group.add_argument("--fps", type=positive, default=25.0,
                       help="frames a second of a folder of frames, or of a TIFF file's pages (default: 25)")
    group.add_argument("--every", type=at_least(1), default=1, metavar="N",
                       help="maps of every N-th frame only; the network still sees all (default: 1)")
    group.add_argument("--skip-bad", action=argparse.BooleanOptionalAction, default=False,
                       help="leave out videos that cannot be read to their end, reported, instead of stopping (default: off)")
    group.add_argument("--first-frames", choices=FIRST_FRAMES,
                       help="what fills the window before the first frame: that frame, as RecSal-Net's authors do, or the frames after it in "
                            "reverse, as TASED-Net's (default: the model's own)")
    group.add_argument("--resize", action=argparse.BooleanOptionalAction, default=True,
                       help="bring maps to the frame's size; --no-resize leaves them at the network's, as TASED-Net's and SalEMA's authors save "
                            "theirs (default: on)")
    group.add_argument("--scene-cuts", action=argparse.BooleanOptionalAction, default=False,
                       help="begin anew, as at the first frame, where the picture changes at once (default: off)")


def main(args: argparse.Namespace) -> None:
    if not args.inputs and (args.submission or not args.export):
        raise ValueError("nothing to do: give a video, a folder of frames or videos, or --export FILE; "
                         "--help lists everything")
    if any(Path(text).is_dir() and Path(text).resolve() == args.out.resolve() for text in args.inputs):
        raise ValueError(f"--out {args.out} is an input: its outputs would be taken for videos the next time. "
                         "Choose another --out")
    kinds = list(dict.fromkeys(args.save))
    check_kinds(kinds, args.resize)
    if args.every > 1 and args.interpolate > 1:
        raise ValueError("--every leaves out the maps that --interpolate draws: choose one")
    if args.submission and ("png" not in kinds or args.every > 1 or args.start or args.end < math.inf):
        raise ValueError("--submission needs the maps of all frames as PNG: give --save png, without --every, --start and --end")
    sources = find_sources(args.inputs, fps=args.fps, start=args.start, end=args.end, stills=MODELS[args.model].takes_stills)
    check_names(sources)
    check_outputs(sources, args.out)
    if args.submission:
        check_test_set([source.name for source in sources])
    if not args.overwrite:
        utils.refuse_to_replace(filter(None, [args.export, args.submission]), "--overwrite replaces it")
    sources = usable(sources, args.skip_bad)                               # a wrong input is said before anything is computed
    weights = args.weights or default_weights(args.model)
    if args.export:
        model = load_model(weights, torch.device("cpu"), frame_size=args.frame_size, name=args.model)
        print_configuration(model, weights)
        print(f"{args.export}: {export(model, args.export)}")
    if not sources:
        return

    device = select_device(args.device)
    precision = choose_precision(args.precision, device, args.force_bfloat16)
    keep_freed_memory()
    model = load_model(weights, device, precision, args.compile, args.frame_size, args.model)
    print_configuration(model, weights)
    if args.first_frames and not model.first_frames:
        raise ValueError(f"--first-frames is for networks of windows: {type(model).__name__}'s first map needs no frame before")
    flow = flow_for(model, args.flow, args.keep_flow, args.raft_weights, device, strict=True)
    exact = {"every": args.every, "interpolate": args.interpolate, "first_frames": args.first_frames or model.first_frames,
             "scene_cuts": args.scene_cuts, "resize": args.resize}
    options = EngineOptions(batch_size=args.batch_size or default_batch_size(device), **exact)
    # What the maps depend on: outputs of a run with other settings are not continued.
    settings = {"model": type(model).__name__, "configuration": model.config, "weights_sha256": sha256_of(weights),
                "frame_size": model.config["frame_size"], "flow": flow and flow.describe(),
                "precision": precision, "reading": READING,
                "start": args.start, "end": args.end if args.end < math.inf else None, **exact}
    run = {"model": type(model).__name__, "weights": str(weights), "configuration": model.config, "device": device.type,
           "revision": utils.revision(), "versions": utils.versions(), "date": utils.now()}
    how = [f"{device.type}, {precision}"]
    if args.interpolate > 1:
        how.append(f"APPROXIMATION: one frame in {args.interpolate} was predicted")
    if args.frame_size:
        how.append(f"APPROXIMATION: frames seen at {args.frame_size}")

    all_settings = [{**settings, "input": source.identity()} for source in sources]
    plans = [plan(source, args.out, kinds, own, args.overwrite, args.skip_existing)
             for source, own in zip(sources, all_settings)]                # all, before anything is removed
    for source, own, (done, complete) in zip(sources, all_settings, plans):
        if complete:
            print(f"{source.path}: everything is there already")
            continue
        if args.overwrite:
            clear(args.out, source.name)
        about = {**run, "source": str(source.path), "settings": own}
        try:
            with described(args.out, source.name, kinds, about) as times:
                times.update(predict_source(model, source, args.out, kinds, options, done, flow))
        except ValueError as error:
            if not args.skip_bad:
                raise
            print(f"skipped: {error}")
            continue
        kept = f" ({done} of them from an earlier run)" if done else ""
        places = ", ".join(dict.fromkeys(str(output_path(args.out, source.name, kind)) for kind in kinds))
        print(f"{source.path}: {len(times)} map{'s' * (len(times) != 1)}{kept} in {places} ({'; '.join(how)})")
        if len(times) * args.every < (needed := model.lookahead(args.first_frames)):
            print(f"{source.path}: fewer frames than {needed}: the first one fills the windows that do not fit time-reversed")
    if args.submission:
        count = pack_submission(args.out, [source.name for source in sources], args.submission, args.method or type(model).__name__)
        print(f"{args.submission}: {count} maps of {len(sources)} videos")


def flow_for(model: SaliencyModel, source: str, keep: bool, raft_weights: str | None, device: torch.device,
             strict: bool = False) -> FlowSource | None:
    """Where a network's flow comes from; None where it needs none, or not in this stage of its training.

    Args:
        model: the network.
        source, keep, raft_weights: the flags of `flow_arguments`.
        device: where flow is computed.
        strict: whether the flags are an error for networks without flow.
    """
    if strict and not type(model).needs_flow and (source != AUTO or raft_weights):
        raise ValueError(f"--flow and --raft-weights are for networks of optical flow: {type(model).__name__} takes none")
    return FlowSource(source, model.flow_picture, keep, raft_weights, device.type) if model.needs_flow else None


def usable(sources: list[Source], skip_bad: bool) -> list[Source]:
    """The sources that can be opened; one that cannot is an error, or with `skip_bad` a line."""
    good = []
    for source in sources:
        try:
            source.check()
            good.append(source)
        except (OSError, ValueError) as error:
            if not skip_bad:
                raise
            print(f"skipped: {error}")
    return good


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError, ModuleNotFoundError, *FFMPEG_ERRORS, torch.cuda.OutOfMemoryError) as error:
        parser.exit(2, f"predict.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "predict.py: interrupted; what is written is whole, and the same command with --skip-existing goes on, "
                         "without --overwrite\n")
