"""Train every network for a few epochs on a generated sample, and see that it beats a Gaussian in the centre: exit code 1 if one does not.

    PYTHONPATH=.:data .venv/bin/python tests/long/learn.py

Small frames, a quarter of SalGAN's channels, an eighth of the two-stream networks', trunks of a few blocks, random initial weights, and learning
rates that suit those: the recipes' own belong to pretrained networks, or to larger frames. CC is that of train.py's validation, the mean over the
clips, or groups, of the sample's validation set at full resolution, of the epoch where it is best; the Gaussian is measured on the same frames. The
sample is the one with gaze; for SMCF, which goes through its three stages, the one with masks, and CC is with those.
"""
import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import make_sample
import torch

import train
from baselines import MODELS, salema, stsnet
from benchmarks.timing import markdown_table
from dataloader import ClipDataset, clip_loader
from loss import cc
from saliency_model import SaliencyModel
from scoring.scorers import centre_gaussian
from videos.video import find_videos

# What differs from the recipe. An epoch of a network that carries a state is a step for every 10 frames of every video, of one that takes windows a
# clip of every video, of the others every frame.
RECURRENT = "--flip --frame-size 48 64 --lr 5e-4 --epochs 10"
TWO_STREAM = "--frame-size 48 64 --lr 5e-5 --epochs 4"
SMALL = {
    "recsalnet": "--flip --frame-size 32 64 --embed-dim 24 --depths 1 1 1 1 --num-heads 1 2 4 8 --width 32 --patch-norm --drop-path 0 --lr 1e-3 --warmup 100 "
                 "--batch-size 2 --epochs 20 --val-every 5",               # make demo's, and its number of steps
    "tased_net": "--flip --frame-size 32 64 --lr 0.05 --batch-size 2 --accumulate 1 --epochs 10 --val-every 5",  # its averages take in a thousandth a step
    **dict.fromkeys(("salema", "salgan", "salclstm30"), RECURRENT),
    "salclstm56": "--flip --frame-size 32 48 --lr 5e-4 --epochs 8 --kl-weight 1 --cc-weight 1 --bce-weight 1",
    **dict.fromkeys(("ssnet", "tsnet", "stsmaxnet", "stsconvnet"), TWO_STREAM),
    "smcf": "--frame-size 64 96 --scales 1 --trunk-width 16 --trunk-blocks 1 1 1 1 --epochs 2 --val-every 1 --val-split TestSet/sample",  # each stage
    "recsal_lite": "--flip --frame-size 64 96 --width 16 --no-thaw --lr 1e-3 --accumulate 1 --epochs 8 --val-every 2",
}
SAMPLES = {"density": ("gaze", "--train-videos 40", "val"), "mask": ("vsod", "", "TestSet/sample")}  # a network learns -> kind, size, what to validate on


def learn(name: str, data: Path, run_dir: Path) -> dict:
    """Train a network, in all its stages; its row of the table."""
    started, model_class = time.perf_counter(), MODELS[name]
    for stage in model_class.stages or [None]:
        start = f"--train-type {stage} --encoder-weights {'auto' if stage == 'finetune' else 'none'}" if stage else "--encoder-weights none"
        flags = f"--model {name} --data {data} --run-dir {run_dir} {start} --workers 1 --device cpu --no-tensorboard"
        if train.main(train.arguments().parse_args([*flags.split(), *SMALL[name].split()])):
            raise SystemExit(f"the training of {name} did not end well")
    minutes, weights = (time.perf_counter() - started) / 60, run_dir / f"{model_class.__name__}.pth"
    best = json.loads(weights.with_suffix(".json").read_text())
    model = model_class.from_pretrained(weights)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    return {"network": name, "M parameters": millions, "CC": best["validation"]["cc"], "centre Gaussian's CC": centre_cc(data, model),
            "of epoch": str(best["epoch"]), "minutes": minutes}


def centre_cc(data: Path, model: SaliencyModel) -> float:
    """The centre Gaussian's mean CC on the frames that a network is validated on."""
    videos = find_videos(data, SAMPLES[model.target][2], annotation=model.target)
    frames = ClipDataset(videos, lambda frame: torch.zeros(3, 1, 1, dtype=torch.uint8), model.clip_len, every=model.validated_every, masks=model.target == "mask")
    values = torch.cat([cc(centre_gaussian(tuple(batch["density"].shape[1:]))[None], batch["density"]) for batch in clip_loader(frames, 1, 0, shuffle=False)])
    return values[~values.isnan()].mean().item()


def shrink() -> None:
    """Take channels away from networks whose arguments cannot."""
    salema.STAGES = tuple(tuple(width // 4 for width in stage) for stage in salema.STAGES)
    for name in ("STREAM", "TAIL"):
        layers = getattr(stsnet, name)
        setattr(stsnet, name, {layer: (max(3, before // 8), max(1, after // 8), side) for layer, (before, after, side) in layers.items()})


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    shrink()
    with tempfile.TemporaryDirectory() as folder:
        data = {learns: Path(folder) / kind for learns, (kind, *_) in SAMPLES.items()}
        for learns in {MODELS[name].target for name in args.models}:
            kind, size, _ = SAMPLES[learns]
            make_sample.main(make_sample.arguments().parse_args(["--kind", kind, "--out", str(data[learns]), *size.split()]))
        rows = [learn(name, data[MODELS[name].target], Path(folder) / name) for name in args.models]
    print(markdown_table(rows))
    sys.exit(0 if all(row["CC"] > row["centre Gaussian's CC"] for row in rows) else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SMALL), default=list(SMALL), help="(default: all)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: 2)")
    main(parser.parse_args())
