"""The log of an epoch: a line on the screen, one in log.jsonl, points in TensorBoard."""
import math
from pathlib import Path

import utils
from loss import LABELS
from training.progress import Progress
from training.run import Run


def log_epoch(run: Run, progress: Progress, scores: dict | None, seconds: float, writer) -> None:
    """One line on the screen, one in log.jsonl, one point a curve in TensorBoard."""
    terms = progress.mean_terms()
    left_out = {name: count for name, count in progress.sums.items() if name.endswith("_left_out")}
    speed = {"clips_per_second": progress.clips / progress.seconds, "data_wait": progress.waited / progress.seconds}
    print(epoch_line(run, terms, left_out, progress.skipped, scores, seconds, speed), flush=True)
    val = {f"val_{name}": value for name, value in (scores or {}).items()}
    record = {"epoch": run.epoch, **terms, **left_out, "skipped": progress.skipped, **val, "seconds": round(seconds, 3),
              **{name: round(value, 4) for name, value in speed.items()}}
    utils.append_log(run.folder / "log.jsonl", record)
    if writer is not None:
        for name, value in {**terms, **val}.items():
            writer.add_scalar(f"val/{name[4:]}" if name in val else f"train/{name}", value, run.epoch)
        writer.flush()


def epoch_line(run: Run, terms: dict, left_out: dict, skipped: int, scores: dict | None, seconds: float,
               speed: dict) -> str:
    """An epoch's line on the screen: mean terms, what was left out, validation, time and speed."""
    parts = [f"epoch {run.epoch}", *(f"{LABELS.get(name, name)} {value:.4f}" for name, value in terms.items())]
    samples = run.model.samples
    undefined = ", ".join(f"{LABELS[name.removesuffix('_left_out')]} {count}"
                          for name, count in left_out.items() if count)
    parts += [f"({samples} left out as undefined: {undefined})"] if undefined else []
    parts += [f"{skipped} clips skipped"] if skipped else []
    if scores is not None:
        measured = " ".join(f"{LABELS[name]} {value:.4f}" for name, value in scores.items() if name in LABELS)
        skipped_too = f" ({scores['skipped']} skipped)" if scores["skipped"] else ""
        best = shown_cc(run.best_cc)
        parts.append(f"| validation on {scores['clips']} clips{skipped_too}: {measured} (best CC {best})")
    rate, wait = speed["clips_per_second"], speed["data_wait"]
    return "  ".join([*parts, f"| {seconds:.1f} s, {rate:.3g} {samples}/s, {wait:.0%} waiting for clips"])


def shown_cc(value: float) -> str:
    """The best mean CC in words; minus infinity stands for none that is defined."""
    return f"{value:.4f}" if math.isfinite(value) else "undefined, for all maps are constant"


def open_tensorboard(folder: Path, wanted: bool):
    """A TensorBoard writer, or None where it is not wanted or not installed."""
    if not wanted or not utils.is_main():
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard curves: it is not installed (pip install tensorboard)")
        return None
    return SummaryWriter(folder / "tensorboard")
