"""The engine of all networks: frames in, one saliency map per frame out, with memory bounded."""
import argparse
import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines import MODELS
from prediction.sources import Source, TimedFrame
from saliency_model import EngineOptions, PreparedFrame, SaliencyModel, StepOutput, stretch
from utils import at_least, default_in_words, in_background
from videos import optical_flow
from videos.optical_flow import Flow, FlowSource


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
        flows: for models with `needs_flow`: each frame's flow as a picture, (H, W, 3) uint8; or a function that
            estimates the flow from a frame to the next one (`optical_flow.METHODS`), which becomes a picture as
            `model.flow_picture` says. Default: estimated by DIS.
        options: how to go through the video; default: exactly, one clip at a time.

    Yields:
        (H, W) float32 in [0, 1] at the frame's own size, on the model's device.

    Raises:
        ValueError: the model takes no flow and some was given, or a frame is too small.
    """
    options = options or EngineOptions()
    if flows is not None and not model.needs_flow:
        raise ValueError(f"{type(model).__name__} takes no optical flow")
    errors = []  # raised after the maps of earlier frames
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
    """Each frame, and its flow as a picture where the model needs one: as given, or estimated here."""
    if not model.needs_flow:
        return zip(frames, itertools.repeat(None))
    if flows is not None and not callable(flows):
        return zip(frames, flows, strict=True)
    shown, seen = itertools.tee(map(checked, frames))
    estimated = optical_flow.flows(seen, flows or optical_flow.dis_flow())
    return zip(shown, map(optical_flow.PICTURES[model.flow_picture], estimated))


def prepare(model: SaliencyModel, frame: np.ndarray, flow: np.ndarray | None) -> PreparedFrame:
    """Bring a frame, and its flow's picture if there is one, to the network's size."""
    if flow is not None and flow.shape != frame.shape:
        flow = cv2.resize(checked(flow), (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_AREA)
    pictures = [model.prepare(checked(picture)) for picture in (frame, flow) if picture is not None]
    return PreparedFrame(torch.cat(pictures) if len(pictures) > 1 else pictures[0], frame.shape[:2])


def checked(frame: np.ndarray) -> np.ndarray:
    """The frame; a ValueError where it is not (H, W, 3) uint8."""
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
    """Whether a new scene begins, from the picture's mean change, in grey levels, and the change one frame earlier.

    Fast movement changes several frames in a row, a cut only one. On the clips tried, cuts change the picture by 46
    levels or more, after 20 or less; movement by up to 41, after 30.
    """
    return change > 25 and change > 2 * change_before


def interpolated(outputs: Iterator[StepOutput]) -> Iterator[RawMap]:
    """The output for each frame; within a step, interpolated between the outputs before and after."""
    before = None
    for step, output in outputs:
        for number, frame in enumerate(step, start=1):
            between = output if number == len(step) else torch.lerp(before, output, number / len(step))
            yield RawMap(between, frame.size)
        before = output


# A source's frames and their maps

class Prediction(NamedTuple):
    """A frame and its map.

    Attributes:
        name, seconds, frame: as in `TimedFrame`.
        saliency: (H, W) float32 in [0, 1].
        quantise: the model's, to 8 bits.
    """
    name: str
    seconds: float
    frame: np.ndarray
    saliency: Tensor
    quantise: Callable[[Tensor], Tensor] = stretch


def predictions(model: SaliencyModel, source: Source, options: EngineOptions, done: int = 0,
                times: dict[str, float] | None = None, flow: FlowSource | None = None) -> Iterator[Prediction]:
    """Every map of a video together with the frame it belongs to.

    Args:
        model: as for `saliency_maps`.
        source: the video.
        options: how to go through it; `skip` follows from `done`.
        done: number of maps that exist already; those after them are computed.
        times: filled with the time in seconds of every frame that has a map, by its name; existing maps included.
        flow: where the flow comes from, for models that need it. Default: DIS, not kept.
    """
    wanted = done * options.every  # index of the first frame that gets a map
    # Its map depends on the frames before, and finding a cut at the first of those takes two more.
    first = max(0, wanted - model.frames_before(wanted) - 2)
    waiting: collections.deque[TimedFrame] = collections.deque()  # for their maps
    times = {} if times is None else times

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


# Flags

def default_batch_size(model: SaliencyModel) -> int:
    """Clips, groups or frames computed at once."""
    return model.cpu_batch_size if next(model.parameters()).device.type == "cpu" else 4


def engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `saliency_maps` and of how its network is run."""
    group, on_a_cpu = parser.add_argument_group("speed"), {name: m.cpu_batch_size for name, m in MODELS.items()}
    group.add_argument("--batch-size", type=at_least(1),
                       help="clips or groups computed at once, or frames of recurrent networks "
                            f"(on a CPU {default_in_words(on_a_cpu)}; elsewhere 4)")
    group.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False,
                       help="let PyTorch compile the network first, which takes minutes; meant for GPUs: on CPUs it "
                            "was no faster (default: off)")
    group.add_argument("--interpolate", type=at_least(1), default=1, metavar="N",
                       help="APPROXIMATION: only every N-th frame goes through the network, maps between are "
                            "interpolated (default: 1, exact)")
    group.add_argument("--frame-size", type=at_least(16), nargs=2, metavar=("H", "W"),
                       help="APPROXIMATION: size in pixels at which the network sees frames: multiples of 32, of 16 "
                            "for SalEMA and its siblings (default: the one it was trained at)")
