"""What a frame of an evaluation costs, stage by stage and end to end, beside the plain formulation in the same run.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --device cuda --frames 500 --batch-size 8 --precision bfloat16

A video of generated frames, 360 x 640 as in DHF1K, with its annotation, is predicted and scored by both. The stages are
timed alone; end to end, ours overlap. "all but forward" is our whole evaluation with a network that costs nothing, and
"without measures" the same of predict.py: on one core with `taskset -c 0 python -m benchmarks.evaluation --threads 1`.
The plain formulation (`plain.py`, and the plain measures) goes frame by frame, in one thread. The whole is timed once,
after one frame that does not count; stages, and the whole without the network, are medians.
"""
import argparse
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import utils
from benchmarks import plain
from benchmarks.measures import PLAIN
from benchmarks.timing import median_seconds, report
from loss import MEASURES, measures
from model import RecSalNet
from predict import predict_source
from prediction.engine import default_batch_size
from prediction.outputs import write_map
from prediction.sources import Source
from saliency_model import EngineOptions, WindowModel, prepare_frame
from scoring.methods import Network
from scoring.other_fixations import OtherFixations
from scoring.scorers import Scorer
from utils import at_least, float32_is_float32, keep_freed_memory, select_device
from videos.images import read_frame
from videos.video import Video, open_video


class Costless(WindowModel):
    """A network that answers at once, with the newest frame: what remains is everything around it."""

    def __init__(self, model: RecSalNet) -> None:
        super().__init__(model.config["frame_size"], prepare_frame)
        self.normalise = model.normalise
        self.finish, self.quantise, self.blank = model.finish, model.quantise, model.blank
        self.weight = nn.Parameter(torch.zeros(1, dtype=next(model.parameters()).dtype,
                                               device=next(model.parameters()).device))

    def forward(self, clip: Tensor) -> Tensor:
        return clip[:, 0, -1].sigmoid()


def make_video(folder: Path, frames: int, size: tuple[int, int]) -> Video:
    """Smooth moving noise, a blob of density, and fixations on it, as PNG."""
    generator = np.random.default_rng(0)
    for number in range(frames):
        picture = cv2.resize(generator.integers(0, 256, (18, 32, 3), np.uint8), size[::-1],
                             interpolation=cv2.INTER_CUBIC)
        density, fixations = np.zeros(size, np.float32), np.zeros(size, np.uint8)
        places = np.clip(generator.normal((0.5, 0.5), 0.1, (200, 2)) * size, 0, np.array(size) - 1).astype(int)
        fixations[places[:, 0], places[:, 1]] = 255
        density = cv2.GaussianBlur(fixations.astype(np.float32), (0, 0), 12)
        for kind, content in (("images", picture), ("maps", (density / density.max() * 255).astype(np.uint8)),
                              ("fixation", fixations)):
            path = folder / kind / f"{number + 1:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)
    return open_video(folder)


# The two evaluations of the whole video

def plain_evaluation(video: Video, weights: dict[str, Tensor], size: tuple[int, int], scorer: Scorer,
                     device: torch.device,
                     folder: Path) -> None:
    for index, saliency in enumerate(plain.saliency_maps(weights, list(video.frames), size, device)):
        targets = {name: x.numpy() for name, x in scorer.targets(video, index).items() if isinstance(x, Tensor)}
        plain_measures(saliency.astype(np.float64), targets)
        plain.write(folder / f"{index}.png", saliency)


def plain_measures(saliency: np.ndarray, targets: dict[str, np.ndarray]) -> None:
    for name, measure in PLAIN.items():
        measure(saliency, *(targets[target] for target in MEASURES[name].targets))


def our_evaluation(video: Video, network: Network, scorer: Scorer, folder: Path) -> None:
    indices = video.annotated()
    scorer(video, indices, network.maps(video, indices, "float", folder), "ours")


def stages(video: Video, model: RecSalNet, weights: dict[str, Tensor], scorer: Scorer, options: EngineOptions,
           folder: Path) -> dict[str, tuple[Callable, Callable, int]]:
    """Stage -> the plain call, ours, and how many frames ours does at once."""
    like, count, size = next(model.parameters()), options.batch_size, tuple(model.config["frame_size"])
    clip = torch.randn(count, 3, 32, *size, device=like.device, dtype=like.dtype)
    output = torch.rand(count, *size, device=like.device)
    finished = model.finish(output, read_frame(video.frames[0]).shape[:2])
    targets = scorer.targets(video, 0)
    ours = {name: torch.stack([x] * scorer.batch_size) for name, x in targets.items() if isinstance(x, Tensor)}
    ours = {name: x if x.dtype == torch.bool else x.to(like.device) for name, x in ours.items()}
    arrays = {name: x.numpy() for name, x in targets.items() if isinstance(x, Tensor)}
    no_grad, one_map = torch.no_grad(), finished[0].cpu().numpy()
    return {
        "decode and resize": (lambda: plain.prepare(video.frames[0], size),
                              lambda: model.prepare(read_frame(video.frames[0])), 1),
        "forward": (no_grad(lambda: plain.forward(weights, clip[:1].float())), no_grad(lambda: model(clip)), count),
        "post": (lambda: plain.finish(output[0], finished.shape[1:]),
                 no_grad(lambda: model.finish(output, finished.shape[1:])), count),
        "measures": (lambda: plain_measures(one_map.astype(np.float64), arrays),
                     lambda: measures(finished[:1].expand(scorer.batch_size, -1, -1), **ours), scorer.batch_size),
        "write": (lambda: plain.write(folder / "a.png", one_map), lambda: write_map(folder / "b.png", finished[0]), 1),
    }


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=at_least(1), default=8, help="of the video (default: 8)")
    parser.add_argument("--frame-size", type=at_least(32), nargs=2, default=[224, 384], metavar=("H", "W"),
                        help="size the network sees, in pixels (default: 224 384)")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32",
                        help="of our network (default: float32)")
    parser.add_argument("--batch-size", type=at_least(1),
                        help="clips our network computes at once (default: 1 on a CPU, else 4)")
    parser.add_argument("--repeats", type=at_least(1), default=3,
                        help="of each stage, of which the median counts (default: 3)")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads of PyTorch (default: as many as it takes)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto",
                        help="(default: auto: CUDA, else MPS, else CPU)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/evaluation.json"),
                        help="JSON file (default: results/benchmarks/evaluation.json)")
    return parser


def measure(video: Video, folder: Path, size: tuple[int, int], precision: str, batch_size: int | None, repeats: int,
            device: torch.device, plain_frames: int | None = None,
            whole_repeats: int | None = None) -> list[dict]:
    """A row for each stage, and those for the whole.

    Args:
        video, folder, size, precision, batch_size, repeats, device: as on the command line.
        plain_frames: of which the plain formulation's whole is (default: all).
        whole_repeats: of the whole without the network (default: `repeats`).
    """
    whole_repeats = whole_repeats or repeats
    torch.manual_seed(0)
    model, count = RecSalNet(frame_size=size).eval().to(device), len(video.frames)
    weights, options = model.state_dict(), EngineOptions(batch_size=batch_size or default_batch_size(model))
    torch.save(weights, folder / "weights.pth")
    weights = {name: x.clone() for name, x in weights.items()}
    scorer = Scorer(OtherFixations([video], 0), "float", device, batch_size=1 if device.type == "cpu" else 16)
    plain_call = functools.partial(plain_evaluation, weights=weights, size=size, scorer=scorer, device=device,
                                   folder=folder)
    of_plain = dataclasses.replace(video, frames=video.frames[:plain_frames])
    plain_seconds = time_whole(plain_call, of_plain, device)  # before our programs' settings
    keep_freed_memory()
    model = model.bfloat16() if precision == "bfloat16" else model
    rows = []
    for stage, (plain_stage, our_stage, together) in stages(video, model, weights, scorer, options, folder).items():
        rows.append((stage, median_seconds(plain_stage, repeats, device, 1),
                     median_seconds(our_stage, repeats, device, 1) / together))
    costless, network = (Network(m, folder / "weights.pth", options=options) for m in (Costless(model), model))
    evaluate = functools.partial(our_evaluation, scorer=scorer, folder=folder)
    engine = functools.partial(predict_source, costless.model, Source(video.frames[0].parent), folder,
                               options=options)
    rows += [("all but forward", None,
              median_seconds(lambda: evaluate(video, costless), whole_repeats, device, 1) / count),
             ("the same without measures", None, median_seconds(engine, whole_repeats, device, 1) / count),
             ("end to end", plain_seconds, time_whole(functools.partial(evaluate, network=network), video, device))]
    return [{"stage": stage, "plain, ms a frame": plain_s and 1000 * plain_s, "ours, ms a frame": 1000 * our_s,
             "times plain": plain_s and plain_s / our_s} for stage, plain_s, our_s in rows]


def time_whole(evaluate: Callable[[Video], None], video: Video, device: torch.device) -> float:
    """Seconds a frame of a whole evaluation, once, after a video of one frame."""
    evaluate(dataclasses.replace(video, frames=video.frames[:1]))
    return median_seconds(lambda: evaluate(video), 1, device, warm_up=0) / len(video.frames)


def main(args: argparse.Namespace) -> None:
    device = select_device(args.device)
    float32_is_float32()
    if args.precision == "bfloat16" and not utils.computes_bfloat16(device):
        print(utils.NO_BFLOAT16)
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        video = make_video(Path(folder) / "video", args.frames, (360, 640))
        rows = measure(video, Path(folder), tuple(args.frame_size), args.precision, args.batch_size, args.repeats,
                       device)
    report(args.out, rows, vars(args), device,
           f"{args.frames} frames of 360 x 640, network at {args.frame_size[0]} x {args.frame_size[1]}, "
           f"{args.precision}")


if __name__ == "__main__":
    main(arguments().parse_args())
