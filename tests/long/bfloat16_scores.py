"""Whether bfloat16 changes a network's scores: its maps by at most 0.01, each measure by at most 0.002, or exit code 1.

    make demo && PYTHONPATH=. .venv/bin/python tests/long/bfloat16_scores.py
"""
import argparse
import sys
from pathlib import Path

import torch

import utils
from baselines.loading import load_model
from prediction.engine import saliency_maps
from saliency_model import EngineOptions
from scoring.other_fixations import OtherFixations
from scoring.report import summarise
from scoring.scorers import Scorer
from videos.images import read_frame
from videos.video import find_videos

MAP_TOLERANCE, SCORE_TOLERANCE = 0.01, 0.002


def main(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    if not utils.computes_bfloat16(device):
        print(utils.NO_BFLOAT16)
        return
    videos = find_videos(args.data, args.split)
    models = {precision: load_model(args.weights, device, precision) for precision in ("float32", "bfloat16")}
    scorers = {precision: Scorer(OtherFixations(videos, 0), "float", device) for precision in models}
    rows, farthest = {precision: [] for precision in models}, 0.0
    for video in videos:
        frames, indices = [read_frame(path) for path in video.frames], video.annotated()
        maps = {precision: list(saliency_maps(model, frames, options=EngineOptions(batch_size=4))) for precision, model in models.items()}
        farthest = max(farthest, *(abs(a - b).max().item() for a, b in zip(*maps.values())))
        for precision, scorer in scorers.items():
            rows[precision] += scorer(video, indices, [maps[precision][index] for index in indices], precision)
    exact, rounded = (summarise(rows[precision])["frame_average"] for precision in models)
    changes = {name: rounded[name] - exact[name] for name in exact}
    print(f"{len(rows['float32'])} frames; maps differ by at most {farthest:.4f}; measures by",
          ", ".join(f"{name} {change:+.5f}" for name, change in changes.items()))
    if farthest > MAP_TOLERANCE or any(not abs(change) <= SCORE_TOLERANCE for change in changes.values()):
        sys.exit(f"too much: at most {MAP_TOLERANCE} and {SCORE_TOLERANCE} are allowed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/sample"), help="dataset (default: data/sample)")
    parser.add_argument("--split", default="val", help="folder below --data (default: val)")
    parser.add_argument("--weights", type=Path, default=Path("saved_models/demo/RecSalNet.pth"), help="weight file (default: the demo's)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    main(parser.parse_args())
