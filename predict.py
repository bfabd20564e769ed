"""Any video or folder of frames -> one saliency map per frame. Holds the sliding-window engine that test.py uses too.

    python predict.py clip.mp4 frames/ --out saliency
"""
import argparse
import collections
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

import utils
from dataloader import IMAGE_SUFFIXES, list_frames, natural, read_frame, read_video
from model import RecSalNet


def saliency_maps(model: nn.Module, frames: Iterable[np.ndarray], flows: Iterable[np.ndarray] | None = None) -> Iterator[Tensor]:
    """One saliency map per frame, in order; memory holds one window of frames, however long the video.

    The window ends at the frame its map belongs to; before the first frame, the first frame is repeated (as the
    authors do). Every frame is decoded and resized once. Wrap the loop in `precision_context` for bfloat16.

    Args:
        model: in eval mode, on the device to compute on; `model.prepare`, `model.finish`, `clip_len`, `frame_stride`.
        frames: (H, W, 3) uint8, RGB, one after the other.
        flows: for models with `needs_flow`; none so far.

    Yields:
        (H, W) float32 in (0, 1) at the frame's own size, on the model's device.

    Raises:
        ValueError: the model needs another engine than the sliding window, or a frame is too small.
    """
    if flows is not None or model.needs_flow or model.temporal != "window":
        raise ValueError(f"{type(model).__name__} moves through time by \"{model.temporal}\" (needs_flow={model.needs_flow}): "
                         "only \"window\" without flow is built so far")
    like = next(model.parameters())
    window = collections.deque(maxlen=(model.clip_len - 1) * model.frame_stride + 1)
    for frame in frames:
        prepared = model.prepare(frame)
        window.extend([prepared] * (1 if window else window.maxlen))
        clip = torch.stack(list(window)[::model.frame_stride], dim=1)[None]  # (1, 3, T, h, w)
        with torch.no_grad():
            output = model(clip.to(like.device, like.dtype))                # (1, h, w)
            saliency = model.finish(output, frame.shape[:2])[0]
        yield saliency


def to_8_bit(saliency: Tensor) -> np.ndarray:
    """Min-max normalise a map, (H, W), to uint8, as the authors save theirs; a constant one becomes 0, NaN is a ValueError."""
    low, high = saliency.min(), saliency.max()
    if not (high - low).isfinite():
        raise ValueError("the network's map is not finite: its weights are broken, or --precision bfloat16 overflowed; try float32")
    scaled = (saliency - low) / (high - low) if high > low else torch.zeros_like(saliency)
    return (scaled * 255).round().to(torch.uint8).cpu().numpy()


def write_map(path: Path, saliency: Tensor) -> None:
    """Write a map as 8-bit PNG, atomically."""
    with utils.atomic_path(path) as temporary:
        Image.fromarray(to_8_bit(saliency)).save(temporary, format="PNG")


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
    """What to compute in: bfloat16 autocast, or float32 that really is (TF32 off)."""
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return contextlib.nullcontext()


def keep_freed_memory() -> None:
    """Spare the measures the cost of new memory: 18 -> 8 ms a frame on one core (benchmarks/measures.py).

    glibc gives freed blocks of a map's size back to the system, and using them anew costs more than the arithmetic. One
    larger block, never written to, raises its limit (32 MiB at most) for the rest of the process. Elsewhere nothing happens.
    """
    torch.empty(2 ** 25 - 2 ** 16, dtype=torch.uint8)


def device_arguments(parser: argparse.ArgumentParser, precision: str) -> None:
    """The flags every script has; `precision` says what its default is."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto",
                       help="where to compute; auto: CUDA, else MPS, else CPU (default: auto)")
    group.add_argument("--precision", choices=["float32", "bfloat16"],
                       help=f"bfloat16: autocast; float32: TF32 off (default: {precision})")


def load_model(weights: Path, device: torch.device) -> nn.Module:
    """The network of a weight file, in eval mode on the device, and a line that says what it is."""
    model = RecSalNet.from_pretrained(weights)
    if not model.is_described:
        print(f"no {weights.with_suffix('.json').name} beside {weights.name}: the paper's frame size, K and stride are assumed")
    height, width = model.config["frame_size"]
    print(f"{weights}: {type(model).__name__}, K = {model.num_recursions}, frames of {height} x {width}, stride {model.frame_stride}")
    return model.to(device)


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
        return [path.stem for path in frames], (read_frame(path) for path in frames)
    if not source.exists():
        raise FileNotFoundError(f"no input {source}: it does not exist. "
                                f"Expected a video file, or a folder of frames ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if source.suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(f"{source} is a single image: give the folder of frames it belongs to, or a video file")
    return None, read_video(source)


def frame_names(names: list[str] | None) -> Iterator[str]:
    """The stems of the maps' files: the frames' own, or 0001, 0002, .. for a video file."""
    yield from names if names is not None else (f"{number:04d}" for number in range(1, sys.maxsize))


def predict_video(model: nn.Module, source: Path, folder: Path, context: contextlib.AbstractContextManager) -> int:
    """Write the maps of one video to a folder; returns how many."""
    names, frames = open_source(source)
    count = 0
    with context:
        maps = tqdm(saliency_maps(model, frames), desc=source.name, unit="frame", total=len(names) if names else None, disable=None)
        for saliency, name in zip(maps, frame_names(names)):
            write_map(folder / f"{name}.png", saliency)
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
    device_arguments(parser, "bfloat16 on CUDA, else float32")
    return parser


def main(args: argparse.Namespace) -> None:
    sources = expand_sources(args.inputs)
    folders = output_folders(sources, args.out)
    for source in sources:
        open_source(source)                                                # a wrong input is said before anything is computed
    device = select_device(args.device)
    precision = args.precision or default_precision(device)
    model = load_model(args.weights, device)
    for source, folder in zip(sources, folders):
        count = predict_video(model, source, folder, precision_context(precision, device))
        print(f"{source}: {count} maps in {folder} ({device.type}, {precision})")


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError, torch.cuda.OutOfMemoryError) as error:
        parser.exit(2, f"predict.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "predict.py: interrupted; the maps written so far are whole\n")
