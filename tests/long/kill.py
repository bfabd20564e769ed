"""Kill a training run at random moments, again and again, and see that nothing is lost: exit code 1 if something is.

    PYTHONPATH=.:data .venv/bin/python tests/long/kill.py                         # 24 kills: 5 minutes on 2 CPU cores

A tiny network is trained once without interruption. The same run is then killed (SIGKILL) while it starts, during steps, validations
and, whenever a half-written file shows, during the writing of a checkpoint, and resumed each time. After each kill every file must be whole; in
the end weights, best weights and log must be those of the uninterrupted run, bit for bit.
"""
import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import make_sample
import torch

from utils import at_least

NETWORK = ("--frame-size 32 64 --width 32 --embed-dim 24 --depths 1 1 1 1 --num-heads 1 1 2 2 --drop-path 0.1 --encoder-weights none "
           "--workers 1 --device cpu --no-tensorboard --val-every 1").split()
VARIES = ("time", "seconds", "clips_per_second", "data_wait")


def start(data: Path, run_dir: Path, epochs: int, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "train.py", *NETWORK, "--data", str(data), "--run-dir", str(run_dir), "--epochs", str(epochs), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, happened, seconds: float) -> bool:
    """Whether something happened within a time, and before the process ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if happened():
            return True
        time.sleep(0.0005)
    return False


def check_files(run_dir: Path) -> None:
    """Every file under a final name can be read."""
    for path in (path for path in run_dir.glob("*.pt*") if not path.name.startswith(".")):
        torch.load(path, weights_only=True)
    for path in run_dir.glob("*.json"):
        json.loads(path.read_text())


def log_of(run_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in VARIES} for line in lines]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kill_once(process: subprocess.Popen, run_dir: Path, moments: random.Random, number: int) -> str:
    """Kill a run; returns when: of six kills two while a checkpoint is being written, one while it starts, the others while it trains."""
    writing = lambda: any(run_dir.glob(".*.part"))
    log = run_dir / "log.jsonl"
    lines = len(log.read_text().splitlines()) if log.is_file() else 0
    begun = lambda: log.is_file() and len(log.read_text().splitlines()) != lines
    if number % 3 == 0:
        wait_for(process, begun, 120)
        caught = wait_for(process, writing, 60)
        moment = "while a file was being written" if caught else "without seeing a file being written"
    elif number % 6 == 1:
        delay = moments.uniform(0, 5)
        wait_for(process, lambda: False, delay)
        moment = f"{delay:.2f} s after its start"
    else:
        delay = moments.uniform(0, 3)
        wait_for(process, begun, 120)
        wait_for(process, lambda: False, delay)
        moment = f"{delay:.2f} s after the first epoch that it finished"
    ended = process.poll() is not None                                     # what its loader process says when it is alone is of no concern
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    if ended:
        raise SystemExit(f"the run ended by itself:\n{output}")
    return moment


def main(args: argparse.Namespace) -> None:
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        data, straight, killed = (Path(folder) / name for name in ("data", "straight", "killed"))
        make_sample.main(make_sample.arguments().parse_args(f"--out {data} --train-videos 4 --val-videos 2 --frames 36 --size 45 80".split()))
        output, _ = start(data, straight, args.epochs).communicate()
        assert (straight / "last.pt").is_file(), output
        kills, flags = 0, ()
        while True:
            process = start(data, killed, args.epochs, *flags)
            if kills == args.kills:
                output, _ = process.communicate()
                break
            print(f"kill {kills + 1}: {kill_once(process, killed, moments, kills)}, ", end="", flush=True)
            check_files(killed)
            flags = ("--resume",) if (killed / "last.pt").is_file() else ("--overwrite",)
            print(f"{len(log_of(killed)) if (killed / 'log.jsonl').is_file() else 0} epochs done", flush=True)
            kills += 1
        last, expected = (torch.load(run / "last.pt", weights_only=True) for run in (killed, straight))
        best, expected_best = (torch.load(run / "RecSalNet.pth", weights_only=True) for run in (killed, straight))
        assert process.returncode == 0 and last["epoch"] == args.epochs, output
        assert same(last["model"], expected["model"]), "the last weights differ"
        assert same(best, expected_best) and last["best_cc"] == expected["best_cc"], "the best weights differ"
        assert log_of(killed) == log_of(straight), "the logs differ"
        assert not list(killed.glob(".*.part")), "half-written files are left"
    print(f"{kills} kills, {args.epochs} epochs: weights, best weights and log are those of the uninterrupted run, bit for bit")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=at_least(1), default=24, help="(default: 24)")
    parser.add_argument("--epochs", type=at_least(2), default=150, help="of the run; enough that no part between two kills reaches the end (default: 150)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    main(parser.parse_args())
