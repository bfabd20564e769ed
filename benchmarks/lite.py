"""How fast RecSal-Lite is: its forward pass beside a plain formulation in the same run, and whole programs with it.

    python -m benchmarks.lite                    # 2 minutes on 2 CPU cores

Plain means the network as its encoder was released: batch norms as layers of their own, channels before pixels. The
programs read frames of 360 x 640: predict.py from a video file to an overlay, test.py from PNG to maps, six measures
and files. Frames a second of a whole video, after one that does not count.
"""
import argparse
import copy
import functools
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from baselines.recsal_lite import RecSalLite
from benchmarks.evaluation import make_video, our_evaluation
from benchmarks.timing import matrix_rate, median_seconds, report
from predict import predict_source
from prediction.engine import default_batch_size
from prediction.sources import Source
from saliency_model import EngineOptions
from scoring.methods import Network
from scoring.other_fixations import OtherFixations
from scoring.scorers import Scorer
from utils import at_least, float32_is_float32, keep_freed_memory, select_device

CLIP = Path(__file__).parent.parent / "examples" / "big_buck_bunny.mp4"


def plain(model: RecSalLite) -> RecSalLite:
    """The same network with a batch norm after each convolution of the encoder, channels before pixels."""
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    for module in list(model.encoder.modules()):
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d):
                setattr(module, name, nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)))
    return model.to(next(model.parameters()).device).eval()


@torch.no_grad()
def one_frame(model: RecSalLite, clip: Tensor, state: tuple) -> Tensor:
    return model.maps(model.normalise(clip), state)[0]


@torch.no_grad()
def forward_row(size: tuple[int, int], weights: Path, repeats: int, device: torch.device) -> dict:
    """Seconds of a forward pass at a frame size, plain and ours."""
    model = RecSalLite.from_pretrained(weights, size).to(device)
    clip = torch.randint(0, 256, (1, 3, 1, *size), dtype=torch.uint8, device=device)
    state = model.maps(model.normalise(clip))[1]
    plain_s, ours_s = (median_seconds(functools.partial(one_frame, m, clip, state), repeats, device)
                       for m in (plain(model), model))
    return row(f"forward, {size[0]} x {size[1]}", plain_s, ours_s)


def row(what: str, plain_s: float | None, ours_s: float) -> dict:
    return {"what": what, "plain, ms a frame": plain_s and 1000 * plain_s, "ours, ms a frame": 1000 * ours_s,
            "times plain": plain_s and plain_s / ours_s, "frames/s": 1 / ours_s}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=RecSalLite.shipped_weights,
                        help="RecSal-Lite's (default: those of this repository)")
    parser.add_argument("--frames", type=at_least(1), default=40, help="that test.py scores (default: 40)")
    parser.add_argument("--repeats", type=at_least(1), default=15,
                        help="of each forward pass, of which the median counts (default: 15)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto",
                        help="(default: auto: CUDA, else MPS, else CPU)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/lite.json"),
                        help="JSON file (default: results/benchmarks/lite.json)")
    return parser


def main(args: argparse.Namespace) -> None:
    device = select_device(args.device)
    float32_is_float32()
    keep_freed_memory()
    own = RecSalLite.from_pretrained(args.weights).to(device)
    sizes = dict.fromkeys([tuple(own.config["frame_size"]), (192, 256)])
    rows = [forward_row(size, args.weights, args.repeats, device) for size in sizes]
    options = EngineOptions(batch_size=default_batch_size(own))
    with tempfile.TemporaryDirectory() as folder:
        overlay = functools.partial(predict_source, own, Source(CLIP), Path(folder), ["overlay"], options)
        count = len(overlay())
        rows.append(row("predict.py, to an overlay", None, median_seconds(overlay, 3, device, warm_up=0) / count))
        video = make_video(Path(folder) / "video", args.frames, (360, 640))
        network = Network(own, args.weights, options=options)
        scorer = Scorer(OtherFixations([video], 0), "float", device)
        evaluate = functools.partial(our_evaluation, video, network, scorer, Path(folder))
        rows.append(row("test.py, six measures", None, median_seconds(evaluate, 3, device, warm_up=1) / args.frames))
    rate = matrix_rate(torch.float32, device) / 1e9
    report(args.out, rows, vars(args), device, f"float32; forward of 1 frame, programs of {options.batch_size}; "
                                               f"a matrix product at {rate:.0f} GFLOP/s")


if __name__ == "__main__":
    main(arguments().parse_args())
