"""Everything that needs a GPU in one command: what must hold there, then every figure, most valuable first.

    python -m benchmarks.gpu --out results/gpu                             # `make gpu`: 8 minutes at most
    python -m benchmarks.gpu --out results/gpu --stages checks forward     # some of the stages
    python -m benchmarks.gpu --out tiny --device cpu --tiny                # every stage, tiny: whether it runs

Each stage (`gpu_stages.py`) is a process with a time limit. What it measures goes to OUT/STAGE.json row by row, so a
stage that fails or is stopped keeps what it had, and does not affect the others. OUT/gpu.md has all rows as tables.

It runs from a plain checkout, without any installation, where Python has torch, torchvision, einops, numpy,
OpenCV, scipy, tqdm, Pillow, safetensors and pytest. What reads or writes video files needs PyAV too, and says so where
it is missing; the rest runs without. Its wheel for Python 3.12 on x86-64 (35 MB): `pip download --no-deps
--only-binary=:all: --python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 av==18.1.0`.
"""
import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.timing import markdown_table
from utils import positive

ROOT = Path(__file__).resolve().parent.parent
# Stage -> the seconds it is given, 8 minutes in all, of which those after it get what it leaves; and its heading.
STAGES = {
    "machine": (40, "The machine, and what it can do at most"),
    "checks": (105, "What must hold"),
    "forward": (90, "Forward passes"),
    "step": (105, "Training steps"),
    "evaluation": (75, "Evaluation end to end, and reading clips"),
    "profile": (35, "Where the time goes"),
    "networks": (30, "The other networks"),
}
LEAST = 0.5  # of its seconds, or a stage is not started


def run_stage(name: str, seconds: float, out: Path, flags: list[str]) -> dict:
    """Run a stage in a process of its own.

    Args:
        name: a key of `STAGES`.
        seconds: after which it is stopped.
        out: folder for STAGE.json.
        flags: of `gpu_stages.py`.

    Returns:
        What STAGE.json holds: {"stage", "status": "done" or why not, "seconds", "rows": what it measured}, and "log",
        the end of its output, where it did not end well.
    """
    path, started = out / f"{name}.json", time.monotonic()
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_stages", name, "--out", str(path.resolve()), *flags]
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(seconds)
            status = "done" if code == 0 else f"failed (exit code {code})"
        except subprocess.TimeoutExpired:
            status = f"stopped after {seconds:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # with what it started: loader processes
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        lines = log.read().splitlines()
    content = {"stage": name, "status": status, "seconds": round(time.monotonic() - started, 1),
               "rows": json.loads(path.read_text())["rows"] if path.is_file() else []}
    if status != "done":
        content["log"] = lines[-40:]
    path.write_text(json.dumps(content, indent=1) + "\n")
    return content


def report(stages: list[dict], heading: str) -> str:
    """All stages as Markdown: a table for consecutive rows of the same columns."""
    parts = [f"# {heading}"]
    for stage in stages:
        _, title = STAGES[stage["stage"]]
        parts.append(f"## {title}\n\n`{stage['stage']}`: {stage['status']}, {stage['seconds']:.0f} s.")
        parts += [markdown_table(list(rows)) for _, rows in itertools.groupby(stage["rows"], key=tuple)]
        if "log" in stage:
            parts.append("The end of its output:\n\n```\n" + "\n".join(stage["log"]) + "\n```")
    return "\n\n".join(parts) + "\n"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder for STAGE.json and gpu.md, which are replaced")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default: cuda)")
    parser.add_argument("--tiny", action=argparse.BooleanOptionalAction, default=False,
                        help="tiny sizes: whether every stage runs; the figures mean nothing (default: off)")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), metavar="STAGE",
                        help=f"of {', '.join(STAGES)}, which are run in this order (default: all)")
    parser.add_argument("--minutes", type=positive, default=8.0,
                        help="for all stages together; the last ones are stopped earlier, or left out (default: 8)")
    return parser


def main(args: argparse.Namespace) -> int:
    """Run the stages one after the other; returns 0 where all are done, else 1."""
    args.out.mkdir(parents=True, exist_ok=True)
    flags, stages = ["--device", args.device, *["--tiny"] * args.tiny], []
    heading = f"python -m benchmarks.gpu {' '.join(flags)}, {time.strftime('%Y-%m-%d')}"
    due = time.monotonic()  # when the stages so far should have ended
    end = due + 60 * args.minutes
    for name in (name for name in STAGES if name in args.stages):
        given = STAGES[name][0] * (4 if args.tiny else 1)  # a CPU may have other work
        due += given
        seconds = min(due, end) - time.monotonic()
        if seconds < LEAST * given:
            stage = {"stage": name, "status": "left out, too little time was left", "seconds": 0.0, "rows": []}
        else:
            stage = run_stage(name, seconds, args.out, flags)
        stages.append(stage)
        why = f": {stage['log'][-1]}" if stage.get("log") else ""
        print(f"{name}: {stage['status']}, {stage['seconds']:.0f} s, {len(stage['rows'])} rows{why}", flush=True)
        (args.out / "gpu.md").write_text(report(stages, heading))  # after each: the machine may be taken away
    print(f"tables: {args.out / 'gpu.md'}")
    return 0 if all(stage["status"] == "done" for stage in stages) else 1


if __name__ == "__main__":
    parser = arguments()
    try:
        parser.exit(main(parser.parse_args()))
    except FileExistsError as error:
        parser.exit(2, f"gpu.py: error: --out must be a folder: {error}\n")
