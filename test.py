"""Predict a dataset's saliency maps and score them. With no argument: saved_models/RecSalNet.pth on DHF1K's validation set.

    python test.py
    python test.py --data data/sample --weights saved_models/demo/RecSalNet.pth --centre-baseline
"""
import argparse
import csv
import functools
import io
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import utils
from dataloader import Video, find_videos, read_density, read_fixations, read_frame
from loss import LABELS, MEASURES, measures
from predict import device_arguments, load_model, precision_context, saliency_maps, select_device, whole_number, write_map

OTHERS = 10                                                                # frames whose fixations s-AUC compares with
PROTOCOL = ("float: the map as the network gives it, resized to the frame's size and blurred 11 x 11, not quantised; "
            f"s-AUC against the fixations of {OTHERS} other frames, exact expectation; undefined values left out")


# Scoring

class OtherFixations:
    """For shuffled AUC: the union of the fixations of frames of other videos, drawn at random but reproducibly.

    Args:
        videos: the dataset. If only one is annotated, the other frames are that video's own (`same_video`).
        seed: the frames drawn depend on it, on the video's name and on the frame's index, and on nothing else.
        skipped: None to raise at an unreadable fixation map; a list to leave it out of every union, and append why.
    """

    def __init__(self, videos: list[Video], seed: int, skipped: list[str] | None = None) -> None:
        self.seed, self.skipped, self.files, self.span = seed, skipped, [], {}
        for video in videos:
            files = [video.fixations[video.frames[i].stem] for i in video.annotated()]
            self.span[video.name] = (len(self.files), len(self.files) + len(files))  # where a video's own files are
            self.files += files
        self.same_video = sum(stop > start for start, stop in self.span.values()) == 1
        self.positions = functools.cache(self.read_positions)              # each fixation file is read once

    def read_positions(self, path: Path) -> np.ndarray:
        """The fixations of a file as (n, 2) rows and columns from 0, the first pixel, to 1, the last."""
        try:
            fixations = read_fixations(path)
        except (FileNotFoundError, ValueError) as error:
            if self.skipped is None:
                raise
            self.skipped.append(f"for s-AUC: {error}")
            return np.empty((0, 2))
        return np.argwhere(fixations) / np.maximum(1, np.array(fixations.shape) - 1)

    def draw(self, video: Video, index: int, size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool for frame `index` of a video: 10 other frames (or all, if fewer), coordinates rescaled and rounded."""
        start, stop = self.span[video.name]
        if self.same_video:
            start = self.files.index(video.fixations[video.frames[index].stem])
            stop = start + 1
        generator = np.random.default_rng([self.seed, index, *video.name.encode()])
        available = len(self.files) - (stop - start)
        drawn = generator.choice(available, size=min(OTHERS, available), replace=False)
        union = np.zeros(size, dtype=bool)
        for number in drawn:
            position = self.positions(self.files[number if number < start else number + stop - start])
            row, column = np.round(position * (np.array(size) - 1)).astype(int).T
            union[row, column] = True
        return union


def centre_gaussian(size: tuple[int, int]) -> Tensor:
    """The baseline that looks at no frame, (H, W): a Gaussian in the centre, sigma a quarter of height and width."""
    row, column = (torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) for n in size)
    return row[:, None] * column


def score_frame(saliency: Tensor, density: np.ndarray, fixations: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """The six measures of one map, (H, W), on its device; NaN where undefined."""
    targets = (torch.from_numpy(x).to(saliency.device)[None] for x in (density, fixations, other))
    return {name: value.item() for name, value in measures(saliency[None], *targets).items()}


def summarise(rows: list[dict]) -> dict:
    """Both averages of the measures of many frames.

    Args:
        rows: {"video", "frame", "auc_j", ..}, NaN where undefined.

    Returns:
        {"frames", "videos"}: counts; {"frame_average", "video_average"}: measure -> mean over frames, or over videos of
        the mean over their frames; {"left_out"}: measure -> frames where it is undefined, which no mean counts.
    """
    videos = by_video(rows)
    per_video = [frame_average(rows_of_one) for rows_of_one in videos.values()]
    return {
        "frames": len(rows), "videos": len(videos), "frame_average": frame_average(rows), "video_average": frame_average(per_video),
        "left_out": {name: sum(math.isnan(row[name]) for row in rows) for name in MEASURES},
    }


def by_video(rows: list[dict]) -> dict[str, list[dict]]:
    """Video -> its rows."""
    grouped = {}
    for row in rows:
        grouped.setdefault(row["video"], []).append(row)
    return grouped


def frame_average(rows: list[dict]) -> dict[str, float]:
    """Mean of each measure over the rows where it is defined; NaN where it is defined in none."""
    defined = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in MEASURES}
    return {name: sum(values) / len(values) if values else math.nan for name, values in defined.items()}


# Predicting and scoring videos

def score_video(model: nn.Module, video: Video, folder: Path, score: Callable[[Video, int, Tensor], dict]) -> list[dict]:
    """Write a map for every frame of a video; returns the scores of the annotated ones.

    Args:
        model: in eval mode.
        video: each of its frames is decoded once.
        folder: maps are written to FOLDER/VIDEO/FRAME.png, 8 bits, at the frame's size.
        score: video, index, map (H, W) -> one row of scores.
    """
    frames = (read_frame(path) for path in video.frames)
    rows = []
    maps = tqdm(saliency_maps(model, frames), desc=video.name, total=len(video.frames), unit="frame", leave=False, disable=None)
    for index, saliency in enumerate(maps):
        write_map(folder / video.name / f"{video.frames[index].stem}.png", saliency)
        if video.is_annotated(index):
            rows.append(score(video, index, saliency))
    return rows


def frame_rows(video: Video, index: int, saliency: Tensor, others: OtherFixations, baseline: bool) -> dict:
    """Scores of one map: {"video", "frame", measures, "baseline": measures of the centre Gaussian, where wanted}."""
    stem = video.frames[index].stem
    density, fixations = read_density(video.maps[stem]), read_fixations(video.fixations[stem])
    if not density.shape == fixations.shape == saliency.shape:
        raise ValueError(f"frame {stem} of video {video.name} differs in size from its annotation: frame {tuple(saliency.shape)}, "
                         f"density {density.shape} ({video.maps[stem]}), fixations {fixations.shape} ({video.fixations[stem]})")
    other = others.draw(video, index, density.shape)
    centre = score_frame(centre_gaussian(density.shape).to(saliency.device), density, fixations, other) if baseline else None
    return {"video": video.name, "frame": stem, **score_frame(saliency, density, fixations, other), "baseline": centre}


# Tables

def table(summaries: dict[str, dict]) -> str:
    """Markdown: a row for each method and average, six measures, counts."""
    lines = ["| method | average over | " + " | ".join(LABELS[name] for name in MEASURES) + " |", "|---|---|" + "---|" * len(MEASURES)]
    for method, summary in summaries.items():
        for average, count in (("frame_average", f"{summary['frames']} frames"), ("video_average", f"{summary['videos']} videos")):
            lines.append(f"| {method} | {count} | " + " | ".join(f"{summary[average][name]:.4f}" for name in MEASURES) + " |")
    return "\n".join(lines)


def left_out_line(summary: dict) -> str:
    """How many frames each measure was undefined on."""
    counts = ", ".join(f"{LABELS[name]} {count}" for name, count in summary["left_out"].items() if count)
    return f"Frames left out because a measure is undefined there: {counts or 'none'}."


def video_table(rows: list[dict]) -> str:
    """CSV: a row for each video."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", "frames", *MEASURES])
    for video, rows_of_one in by_video(rows).items():
        means = frame_average(rows_of_one)
        writer.writerow([video, len(rows_of_one), *(f"{means[name]:.6f}" if not math.isnan(means[name]) else "" for name in MEASURES)])
    return text.getvalue()


def report(rows: list[dict], method: str, folder: Path, details: dict) -> str:
    """Write scores.json, scores.md and per_video.csv; returns the table with its notes."""
    summaries = {method: summarise(rows)}
    if rows[0]["baseline"] is not None:
        summaries["centre Gaussian"] = summarise([{"video": row["video"], **row["baseline"]} for row in rows])
    utils.write_json(folder / "scores.json", {"scores": summaries, **details})
    notes = [left_out_line(summaries[method]), *details["notes"], f"Protocol: {details['protocol']}. {details['device']}, {details['precision']}."]
    text = "\n".join([table(summaries), "", *notes])
    utils.write_text(folder / "scores.md", f"# {details['data']}, split {details['split']}\n\n{text}\n")
    utils.write_text(folder / "per_video.csv", video_table(rows))
    return text


# The command line

def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, default=Path("data/DHF1K"),
                      help="folder of the dataset, see data/README.md (default: data/DHF1K)")
    data.add_argument("--split", default="val", help="folder below --data (default: val)")
    data.add_argument("--skip-bad", action=argparse.BooleanOptionalAction, default=False,
                      help="leave out videos that cannot be read, counted and reported, instead of stopping (default: off)")
    parser.add_argument("--weights", type=Path, default=Path("saved_models/RecSalNet.pth"),
                        help="weight file; a .json beside it is read for the configuration (default: saved_models/RecSalNet.pth)")
    parser.add_argument("--out", type=Path, default=Path("results"),
                        help="folder for OUT/DATA_SPLIT/RecSalNet/VIDEO/FRAME.png and the tables in OUT/DATA_SPLIT (default: results)")
    parser.add_argument("--centre-baseline", action=argparse.BooleanOptionalAction, default=False,
                        help="score a Gaussian in the centre too, as a second row (default: off)")
    parser.add_argument("--seed", type=whole_number, default=0, help="of the frames drawn for s-AUC (default: 0)")
    device_arguments(parser, "float32, as the paper's numbers")
    return parser


def score_videos(model: nn.Module, videos: list[Video], folder: Path, score: Callable[[Video, int, Tensor], dict],
                 skipped: list[str] | None) -> Iterator[tuple[Video, list[dict]]]:
    """Each video with its rows; one that cannot be read to its end is left out, maps and all, where `skipped` is a list."""
    for video in tqdm(videos, desc="videos", unit="video", disable=None):
        try:
            yield video, score_video(model, video, folder, score)
        except (FileNotFoundError, ValueError) as error:
            if skipped is None:
                raise
            skipped.append(f"video {video.name}: {error}")
            shutil.rmtree(folder / video.name, ignore_errors=True)


def main(args: argparse.Namespace) -> None:
    skipped = [] if args.skip_bad else None
    videos = find_videos(args.data, args.split, need_annotation=False, skipped=skipped)
    device = select_device(args.device)
    precision = args.precision or "float32"
    model = load_model(args.weights, device)
    method, folder = type(model).__name__, args.out / f"{args.data.resolve().name}_{args.split}"
    others = OtherFixations(videos, args.seed, skipped)
    score = functools.partial(frame_rows, others=others, baseline=args.centre_baseline)
    with precision_context(precision, device):
        finished = list(score_videos(model, videos, folder / method, score, skipped))

    for message in skipped or []:
        print(f"skipped: {message}")
    rows = [row for _, rows_of_one in finished for row in rows_of_one]
    frames = sum(len(video.frames) for video, _ in finished)
    print(f"maps of {frames} frames of {len(finished)} videos in {folder / method}")
    if not finished:
        raise ValueError(f"every video of {args.data / args.split} was skipped")
    if not rows:
        print(f"no annotation in {args.data / args.split}: nothing to score")
        return
    notes = [f"{frames - len(rows)} of {frames} frames have no annotation and were not scored."] if len(rows) < frames else []
    notes += ["s-AUC: only one video is annotated, so the other frames are its own."] if others.same_video else []
    notes += [f"{len(skipped)} files or videos that could not be read were skipped."] if skipped else []
    print(report(rows, method, folder, {
        "data": str(args.data), "split": args.split, "weights": str(args.weights), "protocol": PROTOCOL, "notes": notes, "skipped": skipped or [],
        "seed": args.seed, "device": device.type, "precision": precision, "configuration": model.config,
        "revision": utils.revision(), "versions": utils.versions(),
    }))
    print(f"written to {folder}: scores.json, scores.md, per_video.csv")


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError, torch.cuda.OutOfMemoryError) as error:
        parser.exit(2, f"test.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "test.py: interrupted; the maps written so far are whole\n")
