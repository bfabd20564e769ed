"""Averages of scores, and the report: tables in Markdown and CSV, scores.json, and the notes that a reader needs."""
import collections
import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

import utils
from scoring.methods import Method
from scoring.published import PUBLISHED
from scoring.targets import BY_FIXATIONS, ScoringTarget, mean_of
from videos.video import Video

SPEED = ("Parameters and operations are those of the network at its own frame size, for one map. Frames/s are those of "
         "this run: reading and resizing frames included, scoring not.")


# Averages

def summarise(rows: list[dict], target: ScoringTarget = BY_FIXATIONS) -> dict:
    """Average the measures over frames, and over videos.

    Args:
        rows: {"video", "frame", "auc_j", ..}, NaN where undefined.
        target: what the rows were scored against.

    Returns:
        "frames" and "videos", their numbers; "frame_average", measure -> mean over frames; "video_average", measure ->
        mean over videos of the mean over their frames; "left_out", measure -> number of frames where it is undefined,
        which no mean includes.
    """
    videos = per_video(rows, target)
    return {
        "frames": len(rows), "videos": len(videos),
        "frame_average": target.average(rows), "video_average": mean_of(videos, target.labels),
        "left_out": {name: sum(math.isnan(row[name]) for row in rows) for name in target.labels},
    }


def grouped(rows: list[dict], by: str) -> dict[str, list[dict]]:
    """Rows by their "method" or "video", in order."""
    groups = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return groups


def per_video(rows: list[dict], target: ScoringTarget = BY_FIXATIONS) -> list[dict]:
    """{"video", "frames", means of the measures} of each video."""
    return [{"video": video, "frames": len(frames), **target.average(frames)}
            for video, frames in grouped(rows, "video").items()]


# The report

def report(rows: list[dict], folder: Path, details: dict, target: ScoringTarget = BY_FIXATIONS) -> str:
    """Write scores.json, scores.md, per_video.csv and per_frame.csv.

    Args:
        rows: of a scorer.
        folder: of the files.
        details: for scores.json; scores.md has some of them in words.
        target: what the rows were scored against.

    Returns:
        The table with its notes, as in scores.md.
    """
    methods = grouped(rows, "method")
    summaries = {method: summarise(rows_of_one, target) for method, rows_of_one in methods.items()}
    utils.write_json(folder / "scores.json", {"scores": summaries, **details})
    costs = cost_table(details["methods"])
    text = "\n\n".join([
        table(summaries, target), *([costs, SPEED] if costs else []), *details["notes"],
        f"Protocol {details['protocol']}: {'. '.join([details['protocol_means'], *target.explained])}."])
    of_method = [f"{name}: {entries_in_words(about, 'weights', 'weights_sha256', 'predictions')}."
                 for name, about in details["methods"].items()]
    made = f"Made with {entries_in_words(details, 'seed', 'sample_frames', 'device', 'precision', 'revision', 'date')}."
    sections = [f"# {details['data']}, split {details['split']}", text, *of_method, made,
                *published_sections(details.get("dataset"), target.labels)]
    utils.write_text(folder / "scores.md", "\n\n".join(sections) + "\n")
    videos = [{"method": method, **row} for method, of_one in methods.items() for row in per_video(of_one, target)]
    utils.write_text(folder / "per_video.csv", csv_table(videos, ["method", "video", "frames"], target.labels))
    utils.write_text(folder / "per_frame.csv", csv_table(rows, ["method", "video", "frame"], target.labels))
    return text


def entries_in_words(about: dict, *names: str) -> str:
    """Some entries of a dict in words, without those that are missing or None."""
    return ", ".join(f"{name} {about[name]}" for name in names if about.get(name) is not None)


def table(summaries: dict[str, dict], target: ScoringTarget = BY_FIXATIONS) -> str:
    """Markdown: a method's rows are its two averages and, if measures may be undefined, the frames left out of both."""
    labels = target.labels
    lines = [table_row(["method", "", *labels.values()]), table_row(["---"] * (2 + len(labels)))]
    for method, summary in summaries.items():
        averages = {"average over frames": summary["frame_average"],
                    f"average over {summary['videos']} videos": summary["video_average"]}
        lines += [table_row([method, label, *(four_digits(average[name]) for name in labels)])
                  for label, average in averages.items()]
        if target.can_be_undefined:
            left_out = (str(summary["left_out"][name]) for name in labels)
            lines.append(table_row([method, f"left out of {summary['frames']} frames", *left_out]))
    return "\n".join(lines)


def four_digits(value: float) -> str:
    """A score in a table; "-" if it is undefined."""
    return "-" if math.isnan(value) else f"{round(value, 4) + 0.0:.4f}"  # + 0.0: no -0.0000


def cost_table(methods: dict[str, dict]) -> str:
    """Markdown: what each method's network costs; empty if no method is a network."""
    costs = {name: details for name, details in methods.items() if "gflop" in details}
    lines = [table_row(["method", "parameters (M)", "GFLOP a map", "frames/s"]), table_row(["---"] * 4)]
    for name, about in costs.items():
        lines.append(table_row([name, f"{about['parameters'] / 1e6:.1f}", f"{about['gflop']:.3g}",
                                f"{about['frames_per_second']:.3g}"]))
    return "\n".join(lines) if costs else ""


def published_sections(dataset: str | None, labels: dict[str, str]) -> list[str]:
    """Markdown: what others have published on a dataset, a key of `DATASETS`, if by the measures of `labels`."""
    if dataset not in PUBLISHED or not set(PUBLISHED[dataset].measures) <= set(labels):
        return []
    about, names, scores = PUBLISHED[dataset]
    lines = [table_row(["method", *(labels[name] for name in names)]), table_row(["---"] * (1 + len(names)))]
    lines += [table_row([method, *("-" if score is None else f"{score:.3f}" for score in of_one)])
              for method, of_one in scores.items()]
    return ["## Published", about, "\n".join(lines)]


def table_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def csv_table(rows: list[dict], columns: list[str], measures: Iterable[str]) -> str:
    """CSV of these columns and the measures, empty where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *measures])
    for row in rows:
        writer.writerow([*(row[name] for name in columns),
                         *("" if math.isnan(row[name]) else f"{row[name]:.6f}" for name in measures)])
    return text.getvalue()


# Notes

def notes_on(methods: list[Method], costs: dict[str, dict], videos: list[Video], target: ScoringTarget,
             skipped: list[str], interpolate: int, frame_size: list[int] | None) -> list[str]:
    """What a reader of the scores must know, in sentences.

    Args:
        methods: scored.
        costs: of each, as `MapSource.costs`.
        videos: of the split.
        target: what maps were scored against.
        skipped: reasons why videos were left out.
        interpolate, frame_size: as on the command line.
    """
    finished, scorer = methods[0].finished, methods[0].scorer
    frames = sum(len(video.frames) for video, _ in finished)
    annotated, counted = (sum(len(indices(video)) for video, _ in finished)
                          for indices in (target.annotated, target.counted))
    density_alone = sum(len(video.annotated()) for video, _ in finished if not video.fixations)
    doubts = collections.Counter(reason for video, _ in finished for reason in scorer.remarks[video.name])
    scored = sum(len({row["frame"] for row in rows}) for _, rows in finished)
    seen = " x ".join(map(str, frame_size or []))
    notes = [
        (annotated < frames, f"{frames - annotated} of {frames} frames have no annotation and were not scored."),
        (counted < annotated, f"**{annotated - counted} of {annotated} frames with a {target.picture_name} were not "
                              f"scored**: {target.not_counted}."),
        (scored < counted, f"{scored} of {counted} annotated frames were drawn at random and scored."),
        (density_alone, f"**{density_alone} of {annotated} annotated frames have a density map alone**, for their "
                        "videos have no fixation maps: AUC-J, s-AUC and NSS are undefined there and left out."),
        *((True, f"**Annotation of {count} of {scored} frames**: {reason}.") for reason, count in doubts.most_common()),
        (interpolate > 1, f"**APPROXIMATION: one frame in {interpolate} went through the network**, "
                          "maps between are interpolated."),
        (frame_size, f"**APPROXIMATION unless trained so: the network saw frames of {seen} (H x W) pixels**, "
                     "by --frame-size."),
        *((True, note) for note in scorer.notes()),
        (skipped, f"**Skipped, {len(finished)} of {len(videos)} videos scored.** {' / '.join(skipped)}"),
    ]
    notes = [note for holds, note in notes if holds]
    for method in methods:
        name = f"{method.name}: " if len(methods) > 1 else ""
        notes += [name + note for note in notes_on_method(method, costs[method.name], target, scored)]
    return notes


def notes_on_method(method: Method, costs: dict, target: ScoringTarget, scored: int) -> list[str]:
    """Sentences on one method's maps."""
    videos = [video for video, _ in method.finished]
    resized, constant = (sum(counts[video.name] for video in videos)
                         for counts in (method.scorer.resized, method.scorer.constant))
    notes = [
        (resized, f"Maps resized to their annotation's size: {resized} of {scored}."),
        (constant, f"**Constant maps: {constant} of {scored}.** {target.constant_maps}".rstrip()),
    ]
    return [note for holds, note in notes if holds] + method.source.notes(costs, videos)
