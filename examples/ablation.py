"""RecSal-Net's ablation: train it with K = 0, 1, 2 and 3 recursions, and score all of them in one table and one figure.

    python examples/ablation.py                                            # on data/DHF1K, by the paper's recipe
    python examples/ablation.py --data data/sample -- --epochs 100 --batch-size 4

What comes after -- goes to train.py. The run of each K is in RUN/K0, RUN/K1 ..; the same command continues an
interrupted training.
"""
import argparse
import shlex
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = ("--dataset", "--data", "--device", "--run-dir", "--num-recursions", "--model", "--resume", "--overwrite")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage="%(prog)s [options] [-- options of train.py]")
    parser.add_argument("--recursions", type=int, nargs="+", default=[0, 1, 2, 3], metavar="K",
                        help="numbers of recursions (default: 0 1 2 3)")
    parser.add_argument("--dataset", default="dhf1k", help="as in train.py and test.py (default: dhf1k)")
    parser.add_argument("--data", metavar="FOLDER", help="its folder (default: as in train.py and test.py)")
    parser.add_argument("--run-dir", type=Path, default=Path("saved_models/ablation"), metavar="RUN",
                        help="gets a run folder for each K (default: saved_models/ablation)")
    parser.add_argument("--out", type=Path, default=Path("results"),
                        help="gets tables, figures and maps in a folder named like RUN (default: results)")
    parser.add_argument("--overwrite", action="store_true",
                        help="replace the tables and maps of an earlier call; trained runs are always kept and "
                             "continued (default: off)")
    parser.add_argument("--device", default="auto", help="as in train.py and test.py (default: auto)")
    return parser


def run(program: str, *words: str | Path) -> None:
    """Run one of the scripts; where it fails, so does this one, with the same exit code."""
    command = [sys.executable, str(ROOT / program), *map(str, words)]
    print("$", shlex.join([program, *command[2:]]), flush=True)
    signal.signal(signal.SIGINT, lambda *unused: None)  # the script gets Ctrl-C too, ends its step
    with subprocess.Popen(command) as process:
        signal.signal(signal.SIGTERM, lambda *unused: process.terminate())
    if process.returncode:
        sys.exit(process.returncode if process.returncode > 0 else 128 - process.returncode)


def main(args: argparse.Namespace, train_flags: list[str]) -> None:
    taken = [flag for flag in train_flags  # train.py takes abbreviations too
             if flag.startswith("--") and any(own.startswith(flag.partition("=")[0]) for own in OWN)]
    if taken:
        raise ValueError(f"{', '.join(taken)} cannot follow --: what is the same for all runs goes in front of it, "
                         "the rest is decided here")
    if len(set(args.recursions)) < len(args.recursions) or min(args.recursions) < 0:
        raise ValueError(f"expected different --recursions from 0, got {args.recursions}")
    scores = args.out / args.run_dir.resolve().name
    if scores.exists() and not args.overwrite:  # checked before days of training
        raise FileExistsError(f"{scores} is there: --overwrite replaces it (and keeps trained runs), "
                              "another --out keeps both")
    both = ["--dataset", args.dataset, *(["--data", args.data] if args.data else []), "--device", args.device]
    runs = [args.run_dir / f"K{number}" for number in args.recursions]
    for number, folder in zip(args.recursions, runs):
        resume = ["--resume"] if (folder / "last.pt").is_file() else []  # trains no more if the run is finished
        run("train.py", *both, "--num-recursions", number, "--run-dir", folder, *resume, *train_flags)
    run("test.py", *both, "--weights", *(folder / "RecSalNet.pth" for folder in runs),
        "--method", *(f"K={number}" for number in args.recursions),
        "--out", args.out, "--run-name", scores.name, *(["--overwrite"] if args.overwrite else []))


if __name__ == "__main__":
    parser, words = arguments(), sys.argv[1:]
    middle = words.index("--") if "--" in words else len(words)
    try:
        main(parser.parse_args(words[:middle]), words[middle + 1:])
    except (OSError, ValueError) as error:
        parser.exit(2, f"ablation.py: error: {error}\n")
