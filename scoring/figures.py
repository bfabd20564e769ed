"""The figures of a report, by matplotlib where it is installed."""
import math
from pathlib import Path

import numpy as np

import utils
from scoring.methods import stored_files
from scoring.report import four_digits, grouped, per_video
from scoring.targets import BY_FIXATIONS, ScoringTarget, mean_of
from videos.images import read_frame, read_image
from videos.names import frame_key
from videos.video import Video

FIGURES = {"distributions.png": "the videos' averages and their quartiles",
           "best_and_worst.png": "each video's best, and worst, frame by {measure}; three videos of each",
           "comparison.png": "up to six of the frames, evenly chosen"}


def draw_figures(rows: dict[str, list[dict]], videos: list[Video], maps: dict[str, Path], folder: Path, title: str,
                 target: ScoringTarget = BY_FIXATIONS) -> list[str]:
    """Draw the figures, replacing earlier ones.

    Args:
        rows: method -> its rows, of a scorer.
        videos: of the split.
        maps: method -> folder of its maps. Several methods are shown side by side, of one the best and worst frames.
        folder: of the figures.
        title: of all figures.
        target: what maps were scored against.

    Returns:
        The names of the figures' files; none if matplotlib is not installed.
    """
    for name in FIGURES:
        (folder / name).unlink(missing_ok=True)
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print("figures skipped: matplotlib is not installed (pip install '.[figures]' in the checkout)")
        return []
    drawn = {"distributions.png": draw_distributions(rows, Figure(figsize=(12, 7), layout="constrained"), target)}
    (method, own), several = next(iter(rows.items())), len(maps) > 1
    best_worst = [(kind, {method: row}) for kind, row in best_and_worst(own, target.leading)]
    examples = side_by_side({name: rows[name] for name in maps}) if several else best_worst
    if examples:
        size = (3 * (2 + len(maps)), 0.7 + 2 * len(examples))
        figure = Figure(figsize=size, layout="constrained")
        drawn[("best_and_worst.png", "comparison.png")[several]] = draw_examples(examples, videos, maps, figure, target)
    for name, figure in drawn.items():
        figure.suptitle(f"{title}\n{FIGURES[name].format(measure=target.labels[target.leading])}")
        with utils.atomic_path(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=100)
    return list(drawn)


def draw_distributions(rows: dict[str, list[dict]], figure, target: ScoringTarget = BY_FIXATIONS):
    """A panel for each measure: for each method the videos' means as points, beside the box of their quartiles."""
    videos = {method: per_video(of_method, target) for method, of_method in rows.items()}
    axes = figure.subplots(2, -(-len(target.labels) // 2)).flat
    for axis in axes[len(target.labels):]:
        axis.set_axis_off()
    for axis, (name, label) in zip(axes, target.labels.items()):
        axis.set_title(label)
        for place, of_method in enumerate(videos.values()):
            values = [video[name] for video in of_method if not math.isnan(video[name])]
            if values:
                axis.boxplot(values, positions=[place], widths=0.4, showfliers=False)
                spread = np.random.default_rng(0).uniform(0.25, 0.45, len(values))  # so that none hides another
                axis.plot(place + spread, values, ".", alpha=0.6)
        labels = [f"{method}\n{four_digits(mean_of(of_method, [name])[name])}" for method, of_method in videos.items()]
        axis.set_xticks(range(len(videos)), labels, fontsize=8)
    return figure


def best_and_worst(rows: list[dict], measure: str = "cc") -> list[tuple[str, dict]]:
    """Up to three ("best", row), then up to three ("worst", row): each a video's best, or worst, frame by a measure."""
    score = lambda row: row[measure]
    videos = [[row for row in frames if not math.isnan(score(row))] for frames in grouped(rows, "video").values()]
    best = sorted((max(frames, key=score) for frames in videos if frames), key=score, reverse=True)
    worst = sorted((min(frames, key=score) for frames in videos if frames), key=score)
    return [("best", row) for row in best[:3]] + [("worst", row) for row in worst[:3]]


def side_by_side(rows: dict[str, list[dict]]) -> list[tuple[str, dict[str, dict]]]:
    """("", method -> its row) of up to six frames, evenly chosen; every method has scored the same ones."""
    count = len(next(iter(rows.values())))
    chosen = sorted({(2 * number + 1) * count // 12 for number in range(6)})
    return [("", {method: of_method[number] for method, of_method in rows.items()}) for number in chosen]


def draw_examples(examples: list[tuple[str, dict[str, dict]]], videos: list[Video], maps: dict[str, Path], figure,
                  target: ScoringTarget = BY_FIXATIONS):
    """A row for each frame: the frame, its density map or mask, and each method's map with the leading measure."""
    by_name = {video.name: video for video in videos}
    for (kind, methods), axes in zip(examples, figure.subplots(len(examples), 2 + len(maps), squeeze=False)):
        row = next(iter(methods.values()))
        video = by_name[row["video"]]
        frame = next(path for path in video.frames if path.stem == row["frame"])
        pictures = [read_frame(frame), target.picture(video, row["frame"])]
        files = [stored_files(maps[name], row["video"])[frame_key(row["frame"])] for name in methods]
        pictures += [read_image(path, "L") for path in files]
        titles = [f"{kind}: {row['video']}\nframe {row['frame']}".removeprefix(": "), target.picture_name]
        titles += [f"{name}, {target.labels[target.leading]} {four_digits(own[target.leading])}"
                   for name, own in methods.items()]
        for axis, picture, title in zip(axes, pictures, titles):
            axis.imshow(picture, cmap="inferno")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    return figure
