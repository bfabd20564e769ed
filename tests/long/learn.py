"""Train every network for a few epochs on a generated sample, and see that it beats a Gaussian in the centre: exit code 1 if one does not.

    PYTHONPATH=.:data .venv/bin/python tests/long/learn.py

Small frames, a quarter of SalGAN's channels, random initial weights, and learning rates that suit those: the recipes' own belong to
pretrained networks. CC is that of
train.py's validation, the mean over the clips of the sample's validation set at full resolution; the Gaussian is measured on the same frames.
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
from baselines import MODELS, salema
from benchmarks.timing import print_table
from dataloader import ClipDataset, clip_loader, find_videos
from loss import cc
from test import centre_gaussian

# What differs from the recipe. An epoch of a network that carries a state is a step for every 10 frames of every video, of the others one a video.
RECURRENT = "--frame-size 48 64 --lr 5e-4 --epochs 10"
SMALL = {
    "recsalnet": "--frame-size 32 64 --embed-dim 48 --depths 2 2 2 2 --num-heads 2 4 8 16 --width 16 --patch-norm --drop-path 0 --lr 3e-4 --batch-size 2 "
                 "--epochs 25 --val-every 5",
    "tased_net": "--frame-size 32 64 --lr 0.05 --batch-size 2 --accumulate 1 --epochs 10 --val-every 5",  # its averages take in a thousandth a step
    **dict.fromkeys(("salema", "salgan", "salclstm30"), RECURRENT),
    "salclstm56": "--frame-size 32 48 --lr 5e-4 --epochs 8 --kl-weight 1 --cc-weight 1 --bce-weight 1",
}


def learn(name: str, data: Path, run_dir: Path) -> dict:
    """Train a network; its row of the table."""
    started = time.perf_counter()
    flags = f"--model {name} --data {data} --run-dir {run_dir} --encoder-weights none --workers 1 --device cpu --no-tensorboard --flip"
    if train.main(train.arguments().parse_args([*flags.split(), *SMALL[name].split()])):
        raise SystemExit(f"the training of {name} did not end well")
    best = json.loads((run_dir / f"{MODELS[name].__name__}.json").read_text())
    return {"network": name, "CC": best["validation"]["cc"], "of epoch": str(best["epoch"]), "minutes": (time.perf_counter() - started) / 60}


def centre_cc(data: Path, clip_len: int) -> float:
    """The centre Gaussian's mean CC on the frames that a network of such clips is validated on."""
    loader = clip_loader(ClipDataset(find_videos(data, "val"), lambda frame: torch.zeros(3, 1, 1, dtype=torch.uint8), clip_len, every=clip_len), 1, 0, shuffle=False)
    values = torch.cat([cc(centre_gaussian(tuple(batch["density"].shape[1:]))[None], batch["density"]) for batch in loader])
    return values[~values.isnan()].mean().item()


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    salema.STAGES = tuple(tuple(width // 4 for width in stage) for stage in salema.STAGES)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_sample.main(make_sample.arguments().parse_args(["--out", str(data), "--train-videos", "40"]))
        rows = [learn(name, data, Path(folder) / name) for name in args.models]
        rows = [{**row, "centre Gaussian's CC": centre_cc(data, MODELS[row["network"]].clip_len)} for row in rows]
    print_table(rows)
    sys.exit(0 if all(row["CC"] > row["centre Gaussian's CC"] for row in rows) else 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SMALL), default=list(SMALL), help="(default: all)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: 2)")
    main(parser.parse_args())
