"""Any video or folder of frames -> one saliency map per frame. Holds the sliding-window engine that test.py uses too.

    python predict.py clip.mp4 frames/ --out saliency
"""
import argparse
import collections
import contextlib
import ctypes
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

import utils
from dataloader import IMAGE_SUFFIXES, list_frames, natural, read_frame, read_video
from loss import to_device
from model import RecSalNet

DONE = object()


def saliency_maps(model: nn.Module, frames: Iterable[np.ndarray], flows: Iterable[np.ndarray] | None = None, *, batch_size: int = 1,
                  interpolate: int = 1, every: int = 1, skip: int = 0, first_frames: str = "repeat", scene_cuts: bool = False) -> Iterator[Tensor]:
    """One saliency map per frame, in order; memory holds a window and a batch of frames, however long the video.

    The window ends at the frame its map belongs to. Every frame is decoded, resized and moved to the device once, as
    uint8, while the network computes.

    Args:
        model: in eval mode, on the device and in the precision to compute in; `model.prepare`, `normalise`, `finish`,
            `clip_len`, `frame_stride`.
        frames: (H, W, 3) uint8, RGB, one after the other; consumed in a thread.
        flows: for models with `needs_flow`; none so far.
        batch_size: clips computed at once. A video's last batch is filled up, so that all have one shape.
        interpolate: an approximation: only every n-th frame, and the last one, goes through the network; maps between
            are interpolated linearly.
        every: maps of every n-th frame only, the first one included; the network still sees all frames.
        skip: the first `skip` frames only fill the window; they get no map, and `every` counts from the one after.
        first_frames: what fills the window before the first frame: "repeat", that frame (RecSal-Net's authors), or
            "mirror": the window is turned around in time, and begins at the frame its map belongs to (TASED-Net's).
        scene_cuts: begin anew, as at a video's first frame, where `is_cut` sees another scene.

    Yields:
        (H, W) float32 in (0, 1) at the frame's own size, on the model's device.

    Raises:
        ValueError: the model needs another engine than the sliding window, options exclude each other, or a frame is too small.
    """
    if flows is not None or model.needs_flow or model.temporal != "window":
        raise ValueError(f"{type(model).__name__} moves through time by \"{model.temporal}\" (needs_flow={model.needs_flow}): "
                         "only \"window\" without flow is built so far")
    if interpolate > 1 and (every > 1 or skip):
        raise ValueError(f"interpolate={interpolate} draws the maps that every={every} and skip={skip} would leave out: choose one")
    errors = []                                                            # raised when the frames before have their maps
    prepared = until_error(((model.prepare(frame), frame.shape[:2]) for frame in frames), errors)
    prepared = in_background(prepared, ahead=2 * batch_size * interpolate * every)
    outputs = scene_outputs(model, prepared, batch_size, interpolate, every, skip, first_frames, scene_cuts)
    for group, size in of_one_size(outputs, batch_size):
        with torch.no_grad():
            yield from model.finish(torch.stack(group), size)
    if errors:
        raise errors[0]


def until_error(items: Iterable, errors: list[Exception]) -> Iterator:
    """The items before an error, which is put into `errors`."""
    try:
        yield from items
    except Exception as error:
        errors.append(error)


def scene_outputs(model: nn.Module, prepared: Iterable[tuple], batch_size: int, interpolate: int, every: int, skip: int, first_frames: str,
                  scene_cuts: bool) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """The network's output, (h, w), for each frame that gets a map, and the frame's size; scene by scene."""
    for start, scene in itertools.groupby(by_scene(prepared, scene_cuts), key=lambda item: item[0]):
        first = skip - start if start < skip else (skip - start) % every   # of the scene's frames that gets a map
        steps = steps_of((item for _, item in scene), first + 1, interpolate * every, whole=every > 1)
        outputs = network_outputs(model, steps, batch_size, first_frames)
        yield from interpolated(outputs) if interpolate > 1 else ((output, step[-1][1]) for step, output in outputs)


def by_scene(prepared: Iterable[tuple], scene_cuts: bool) -> Iterator[tuple[int, tuple]]:
    """Each frame with the number of its scene's first frame."""
    start, before, change_before = 0, None, 0.0
    for number, (frame, size) in enumerate(prepared):
        if scene_cuts:
            small = F.avg_pool2d(frame.float(), min(8, *frame.shape[1:]))
            change = 0.0 if before is None else (small - before).abs().mean().item()
            start = number if is_cut(change, change_before) else start
            before, change_before = small, change
        yield start, (frame, size)


def is_cut(change: float, change_before: float) -> bool:
    """Whether another scene begins, by how much the picture changed, in grey levels, and by how much one frame earlier.

    Fast movement changes several frames in a row, a cut one. On the clips this was tried with, cuts change 46 levels and
    more, after 20 and less; movement up to 41, after 30.
    """
    return change > 25 and change > 2 * change_before


def steps_of(frames: Iterator[tuple], first: int, length: int, whole: bool) -> Iterator[list[tuple]]:
    """`first` frames, then the others in steps of `length`: the last frame of each step is the network's to predict.

    Frames that remain in the end are a step of their own, unless steps must be `whole`.
    """
    lead = list(itertools.islice(frames, first))
    if len(lead) == first:
        yield lead
    while (step := list(itertools.islice(frames, length))) and (len(step) == length or not whole):
        yield step


def network_outputs(model: nn.Module, steps: Iterator[list[tuple]], batch_size: int, first_frames: str) -> Iterator[tuple[list[tuple], Tensor]]:
    """Each step with the network's output for its last frame, (h, w), batch by batch."""
    like, history = next(model.parameters()), None
    offsets = torch.arange(-(model.clip_len - 1), 1) * model.frame_stride  # of a clip's frames from its last one
    past = -int(offsets[0])                                                # frames to keep from one batch to the next
    ahead = 2 * past if first_frames == "mirror" else 0                    # that must be there before the first map
    while group := take(steps, batch_size, ahead if history is None else 0):
        new = torch.stack([frame for step in group for frame, _ in step], dim=1)
        new = model.normalise(to_device(new, like.device)[None])[0].to(like.dtype)  # (3, frames, h, w)
        starting = history is None
        history = torch.cat([new[:, :1].expand(-1, past, -1, -1) if starting else history[:, history.shape[1] - past:], new], dim=1)
        ends = past - 1 + torch.tensor([len(step) for step in group]).cumsum(0)
        places = ends[:, None] + offsets                                   # (steps, T), of each window's frames in `history`
        if starting and ahead:
            turned = (ends[:, None] - offsets).clamp(max=history.shape[1] - 1)
            places = torch.where(ends[:, None] < 2 * past, turned, places)
        for clips in batches_of(history, to_device(places, like.device), batch_size):
            with torch.no_grad():
                outputs = model(clips)
            yield from zip(itertools.islice(group, len(outputs)), outputs)
            group = group[len(outputs):]


def take(steps: Iterator[list[tuple]], count: int, frames: int) -> list[list[tuple]]:
    """The next `count` steps, and as many more as make `frames` frames."""
    group = list(itertools.islice(steps, count))
    while sum(map(len, group)) < frames and (more := list(itertools.islice(steps, count))):
        group += more
    return group


def batches_of(history: Tensor, places: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The clips, (B, 3, T, h, w), that frames (3, n, h, w) make at (clips, T) places; the last batch is filled up."""
    for some in places.split(batch_size):
        some = torch.cat([some, some[-1:].expand(batch_size - len(some), -1)])
        yield history[:, some].transpose(0, 1)


def interpolated(outputs: Iterator[tuple[list[tuple], Tensor]]) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Each frame's output, (h, w), and the frame's size; within a step, between the outputs before and after."""
    before = None
    for step, output in outputs:
        for number, (_, size) in enumerate(step, start=1):
            yield output if number == len(step) else torch.lerp(before, output, number / len(step)), size
        before = output


def of_one_size(outputs: Iterable[tuple[Tensor, tuple[int, int]]], count: int) -> Iterator[tuple[list[Tensor], tuple[int, int]]]:
    """Up to `count` outputs in a row whose frames have one size, and that size."""
    for size, run in itertools.groupby(outputs, key=lambda item: item[1]):
        while group := [output for output, _ in itertools.islice(run, count)]:
            yield group, size


# Work beside the network's

def in_background(items: Iterable, ahead: int) -> Iterator:
    """The same items; a thread makes up to `ahead` of them before they are asked for."""
    iterator = iter(items)
    thread = ThreadPoolExecutor(1)
    try:
        waiting = collections.deque(thread.submit(next, iterator, DONE) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not DONE:
            waiting.append(thread.submit(next, iterator, DONE))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def in_threads(function: Callable, items: Iterable, workers: int = 4, ahead: int = 16) -> Iterator:
    """function(item) of each item, in order; threads make up to `ahead` of them before they are asked for."""
    threads, waiting = ThreadPoolExecutor(workers), collections.deque()
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


class MapWriter:
    """Writes maps in threads, up to `ahead` of them later; as a context, it ends when all are written.

    An error is raised at a later `write`, or at the end.
    """

    def __init__(self, workers: int = 4, ahead: int = 32) -> None:
        self.threads, self.waiting, self.ahead = ThreadPoolExecutor(workers), collections.deque(), ahead

    def write(self, path: Path, saliency: Tensor) -> None:
        self.waiting.append(self.threads.submit(write_map, path, saliency))
        while len(self.waiting) > self.ahead:
            self.waiting.popleft().result()

    def __enter__(self) -> "MapWriter":
        return self

    def __exit__(self, *error) -> None:
        self.threads.shutdown()
        while self.waiting and error[0] is None:
            self.waiting.popleft().result()


def stretch(saliency: Tensor) -> Tensor:
    """Min-max normalise a map, (H, W), to uint8, as the authors save theirs; a constant one becomes 0."""
    low, high = saliency.min(), saliency.max()
    spread = torch.where(high > low, high - low, torch.ones_like(low))
    return ((saliency - low) / spread * 255).round().to(torch.uint8)


def to_8_bit(saliency: Tensor) -> np.ndarray:
    """`stretch` as an array; a map that is not finite is a ValueError, never a black picture."""
    if not saliency.isfinite().all():
        raise ValueError("the network's map is not finite: its weights are broken, or --precision bfloat16 overflowed; try float32")
    return stretch(saliency).cpu().numpy()


def write_map(path: Path, saliency: Tensor) -> None:
    """Write a map as 8-bit PNG, atomically."""
    with utils.atomic_path(path) as temporary:
        Image.fromarray(to_8_bit(saliency)).save(temporary, format="PNG", compress_level=1)  # a third of the time of level 6


# Device and precision

def select_device(name: str) -> torch.device:
    """The device for `--device`: "auto" is CUDA, else MPS, else the CPU; one that is not there is a ValueError."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in present.items() if there)
    if not present[name]:
        raise ValueError(f"--device {name}: PyTorch {torch.__version__} sees no {name} device on this machine; use --device auto or cpu")
    return torch.device(name)


def default_precision(device: torch.device) -> str:
    """bfloat16 on CUDA, where it is several times faster; float32 elsewhere."""
    return "bfloat16" if device.type == "cuda" else "float32"


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


def device_arguments(parser: argparse.ArgumentParser, precision: str, bfloat16: str = "the whole network but its readout") -> None:
    """The flags every script has; `precision` says what its default is, `bfloat16` what that choice means there."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto",
                       help="where to compute; auto: CUDA, else MPS, else CPU (default: auto)")
    group.add_argument("--precision", choices=["float32", "bfloat16"],
                       help=f"bfloat16: {bfloat16}; float32: TF32 off (default: {precision})")


def engine_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `saliency_maps` and of how its network is run."""
    group = parser.add_argument_group("speed")
    group.add_argument("--batch-size", type=at_least(1), help="clips computed at once (default: 1 on a CPU, else 4)")
    group.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False,
                       help="let PyTorch compile the network first, which takes minutes; meant for GPUs, on CPUs it gained nothing (default: off)")
    group.add_argument("--interpolate", type=at_least(1), default=1, metavar="N",
                       help="APPROXIMATION: only every N-th frame goes through the network, maps between are interpolated (default: 1, exact)")
    group.add_argument("--frame-size", type=at_least(32), nargs=2, metavar=("H", "W"),
                       help="APPROXIMATION: size in pixels, multiples of 32, that the network sees frames at (default: the one it was trained at)")


def engine_options(batch_size: int | None, interpolate: int, device: torch.device) -> dict[str, int]:
    """Keyword arguments of `saliency_maps`."""
    return {"batch_size": batch_size or (1 if device.type == "cpu" else 4), "interpolate": interpolate}


def compile_network(model: nn.Module) -> None:
    """Let PyTorch compile the network, for clips of one shape, at its first clip; one eager pass before builds the masks."""
    like, training = next(model.parameters()), model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, model.clip_len, *model.config["frame_size"], device=like.device, dtype=like.dtype))
    model.train(training).compile(dynamic=False)


def load_model(weights: Path, device: torch.device, precision: str = "float32", compiled: bool = False,
               frame_size: tuple[int, int] | None = None) -> nn.Module:
    """The network of a weight file, in eval mode on the device, in a precision for inference; prints a line that says what it is."""
    model = RecSalNet.from_pretrained(weights, frame_size)
    if not model.is_described:
        print(f"no {weights.with_suffix('.json').name} beside {weights.name}: the paper's frame size, K and stride are assumed")
    height, width = model.config["frame_size"]
    print(f"{weights}: {type(model).__name__}, K = {model.num_recursions}, frames of {height} x {width}, stride {model.frame_stride}")
    float32_is_float32()
    model = (model.bfloat16() if precision == "bfloat16" else model).to(device)
    if compiled:
        compile_network(model)
    return model


# The command line

def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number, `least` or more, and not beyond what a seed or a size can be."""
    def number(text: str) -> int:
        value = int(text)
        if not least <= value < 2 ** 31:
            raise argparse.ArgumentTypeError(f"must be {least} or more and below 2^31, got {text}")
        return value
    return number


def open_source(source: Path) -> tuple[list[str] | None, Iterable[np.ndarray]]:
    """Names (None for a video file, whose frames are counted from 1) and frames of a video file or a folder of frames."""
    if source.is_dir():
        folder = source / "images" if (source / "images").is_dir() else source
        frames = list_frames(folder)
        return [path.stem for path in frames], in_threads(read_frame, frames)
    if not source.exists():
        raise FileNotFoundError(f"no input {source}: it does not exist. "
                                f"Expected a video file, or a folder of frames ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if source.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{source} is a single image: give the folder of frames it belongs to, or a video file")
    return None, read_video(source)


def frame_names(names: list[str] | None) -> Iterator[str]:
    """The stems of the maps' files: the frames' own, or 0001, 0002, .. for a video file."""
    yield from names if names is not None else (f"{number:04d}" for number in range(1, sys.maxsize))


def predict_video(model: nn.Module, source: Path, folder: Path, **options: int) -> int:
    """Write the maps of one video to a folder; returns how many. Options are those of `saliency_maps`."""
    names, frames = open_source(source)
    count = 0
    with MapWriter() as writer:
        maps = tqdm(saliency_maps(model, frames, **options), desc=source.name, unit="frame", total=len(names) if names else None, disable=None)
        for saliency, name in zip(maps, frame_names(names)):
            writer.write(folder / f"{name}.png", saliency)
            count += 1
    return count


def expand_sources(inputs: list[Path]) -> list[Path]:
    """Inputs, with a folder that holds only folders replaced by those (a split of a dataset, say)."""
    sources = []
    for path in inputs:
        below = [p for p in path.iterdir() if not p.name.startswith(".")] if path.is_dir() else []
        folders = bool(below) and all(p.is_dir() for p in below) and not (path / "images").is_dir()
        sources += [path / name for name in natural(p.name for p in below)] if folders else [path]
    return sources


def output_folders(sources: list[Path], out: Path) -> list[Path]:
    """A folder of its own for each source, by name; two sources of one name are an error."""
    names = [source.name if source.is_dir() else source.stem for source in (s.resolve() for s in sources)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        same = [str(source) for source, name in zip(sources, names) if name == twice[0]]
        raise ValueError(f"several inputs are called {twice[0]}, their maps would be mixed: {same}. Predict them into different --out folders")
    return [out / name for name in names]


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT",
                        help="video file, folder of frames, or folder of such folders")
    parser.add_argument("--out", type=Path, default=Path("saliency"),
                        help="maps are written to OUT/VIDEO/FRAME.png (default: saliency)")
    parser.add_argument("--weights", type=Path, default=Path("saved_models/RecSalNet.pth"),
                        help="weight file; a .json beside it is read for the configuration (default: saved_models/RecSalNet.pth)")
    engine_arguments(parser)
    device_arguments(parser, "bfloat16 on CUDA, else float32")
    return parser


def main(args: argparse.Namespace) -> None:
    sources = expand_sources(args.inputs)
    folders = output_folders(sources, args.out)
    for source in sources:
        open_source(source)                                                # a wrong input is said before anything is computed
    device = select_device(args.device)
    precision = args.precision or default_precision(device)
    keep_freed_memory()
    model = load_model(args.weights, device, precision, args.compile, args.frame_size)
    options = engine_options(args.batch_size, args.interpolate, device)
    for source, folder in zip(sources, folders):
        count = predict_video(model, source, folder, **options)
        print(f"{source}: {count} maps in {folder} ({device.type}, {precision})")


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError, torch.cuda.OutOfMemoryError) as error:
        parser.exit(2, f"predict.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "predict.py: interrupted; the maps written so far are whole\n")
