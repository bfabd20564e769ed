"""Averages of the rows of scores, and the report: tables in Markdown and CSV, scores.json, and the notes a reader needs."""
import collections
import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

import utils
from baselines.optical_flow import METHODS
from dataloader import Video
from loss import LABELS, MEASURES
from predict import mirrored_length
from scoring.methods import Method, Network
from scoring.other_fixations import OTHERS
from scoring.published import PUBLISHED
from scoring.targets import BY_FIXATIONS, Judged, mean_of

STRETCH = ("Files that test.py and predict.py write are made 8 bits as each network's authors do (RecSal-Net: stretched to 0 .. 255 frame by frame). "
           "KL depends on that stretch, the other measures do not: compare KL within one protocol only")
RESIZED = "Maps that differ from their mask in size are resized to it bilinearly"
COMMON = ("AUC-J is the expectation over the random breaking of ties, s-AUC the exact expectation over random splits against the fixations of "
          f"{OTHERS} other frames. Maps that differ from their annotation in size are resized to it as MATLAB's imresize does (bicubic, antialiased)")
SPEED = ("Parameters and operations are those of the network at its own frame size, for one map. Frames/s are those of this run: reading and "
         "resizing frames included, scoring not.")


# Averages

def summarise(rows: list[dict], judged: Judged = BY_FIXATIONS) -> dict:
    """Both averages of the measures of many frames.

    Args:
        rows: {"video", "frame", "auc_j", ..}, NaN where undefined.
        judged: by what.

    Returns:
        {"frames", "videos"}: counts; {"frame_average", "video_average"}: measure -> mean over frames, or over videos of
        the mean over their frames; {"left_out"}: measure -> frames where it is undefined, which no mean counts.
    """
    videos = per_video(rows, judged)
    return {
        "frames": len(rows), "videos": len(videos), "frame_average": judged.average(rows), "video_average": mean_of(videos, judged.labels),
        "left_out": {name: sum(math.isnan(row[name]) for row in rows) for name in judged.labels},
    }


def grouped(rows: list[dict], by: str) -> dict[str, list[dict]]:
    """"method" or "video" -> its rows, in order."""
    groups = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return groups


def per_video(rows: list[dict], judged: Judged = BY_FIXATIONS) -> list[dict]:
    """{"video", "frames", means of the measures} of each video."""
    return [{"video": video, "frames": len(frames), **judged.average(frames)} for video, frames in grouped(rows, "video").items()]


# The report

def report(rows: list[dict], folder: Path, details: dict, judged: Judged = BY_FIXATIONS) -> str:
    """Write scores.json, scores.md, per_video.csv and per_frame.csv.

    Args:
        rows: of a scorer.
        details: for scores.json; scores.md has some of them in words.
        judged: by what.

    Returns:
        The table with its notes, as in scores.md.
    """
    methods = grouped(rows, "method")
    summaries = {method: summarise(rows_of_one, judged) for method, rows_of_one in methods.items()}
    utils.write_json(folder / "scores.json", {"scores": summaries, **details})
    costs = cost_table(details["methods"])
    explained = [COMMON, STRETCH] if judged is BY_FIXATIONS else [RESIZED]
    text = "\n\n".join([table(summaries, judged), *filter(None, [costs, costs and SPEED]), *details["notes"],
                        f"Protocol {details['protocol']}: {'. '.join([details['protocol_means'], *explained])}."])
    of_method = [f"{name}: {chosen(about, ('weights', 'weights_sha256', 'predictions'))}." for name, about in details["methods"].items()]
    made = f"Made with {chosen(details, ('seed', 'sample_frames', 'device', 'precision', 'revision', 'date'))}."
    published = published_sections(details.get("dataset")) if judged is BY_FIXATIONS else []
    sections = [f"# {details['data']}, split {details['split']}", text, *of_method, made, *published]
    utils.write_text(folder / "scores.md", "\n\n".join(sections) + "\n")
    videos = [{"method": method, **row} for method, rows_of_one in methods.items() for row in per_video(rows_of_one, judged)]
    utils.write_text(folder / "per_video.csv", csv_table(videos, ["method", "video", "frames"], judged.labels))
    utils.write_text(folder / "per_frame.csv", csv_table(rows, ["method", "video", "frame"], judged.labels))
    return text


def chosen(about: dict, names: tuple[str, ...]) -> str:
    """Some entries of a dict in words."""
    return ", ".join(f"{name} {about[name]}" for name in names if about.get(name) is not None)


def table(summaries: dict[str, dict], judged: Judged = BY_FIXATIONS) -> str:
    """Markdown: for each method a row for either average, and one for the frames left out of both; by masks all measures are defined."""
    labels = judged.labels
    lines = [table_row(["method", "", *labels.values()]), table_row(["---"] * (2 + len(labels)))]
    for method, summary in summaries.items():
        averages = {"frame_average": "average over frames", "video_average": f"average over {summary['videos']} videos"}
        lines += [table_row([method, label, *(four_digits(summary[average][name]) for name in labels)]) for average, label in averages.items()]
        if judged is BY_FIXATIONS:
            lines.append(table_row([method, f"left out of {summary['frames']} frames", *(str(summary["left_out"][name]) for name in labels)]))
    return "\n".join(lines)


def four_digits(value: float) -> str:
    """A score in a table; "-" where it is defined nowhere."""
    return "-" if math.isnan(value) else f"{round(value, 4) + 0.0:.4f}"    # + 0.0: no -0.0000


def cost_table(methods: dict[str, dict]) -> str:
    """Markdown: what each method's network costs; empty where none has one."""
    costs = {name: details for name, details in methods.items() if "gflop" in details}
    lines = [table_row(["method", "parameters (M)", "GFLOP a map", "frames/s"]), table_row(["---"] * 4)]
    for name, about in costs.items():
        lines.append(table_row([name, f"{about['parameters'] / 1e6:.1f}", f"{about['gflop']:.3g}", f"{about['frames_per_second']:.3g}"]))
    return "\n".join(lines) if costs else ""


def published_sections(dataset: str) -> list[str]:
    """Markdown: what others have published on a dataset, a key of `DATASETS`; nothing where no table is known."""
    if dataset not in PUBLISHED:
        return []
    about, names, scores = PUBLISHED[dataset]
    lines = [table_row(["method", *(LABELS[name] for name in names)]), table_row(["---"] * (1 + len(names)))]
    lines += [table_row([method, *("-" if score is None else f"{score:.3f}" for score in of_one)]) for method, of_one in scores.items()]
    return ["## Published", about, "\n".join(lines)]


def table_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def csv_table(rows: list[dict], columns: list[str], measures: Iterable[str] = MEASURES) -> str:
    """CSV of these columns and the measures, empty where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *measures])
    for row in rows:
        writer.writerow([*(row[name] for name in columns), *(f"{row[name]:.6f}" if not math.isnan(row[name]) else "" for name in measures)])
    return text.getvalue()


# Notes

def notes_on(methods: list[Method], costs: dict[str, dict], videos: list[Video], judged: Judged, skipped: list[str], interpolate: int,
             frame_size: list[int] | None) -> list[str]:
    """Sentences on what a reader of the scores must know."""
    finished, others = methods[0].finished, methods[0].scorer.others
    frames = sum(len(video.frames) for video, _ in finished)
    annotated, counted = (sum(len(indices(video)) for video, _ in finished)
                          for indices in (judged.annotated, judged.counted))
    density_alone = sum(len(video.annotated()) for video, _ in finished if not video.fixations)
    doubts = collections.Counter(reason for video, _ in finished for reason in methods[0].scorer.remarks[video.name])
    scored = sum(len({row["frame"] for row in rows}) for _, rows in finished)
    unreadable = sorted(others.unreadable) if others else []
    seen = " x ".join(map(str, frame_size or []))
    notes = [
        (annotated < frames, f"{frames - annotated} of {frames} frames have no annotation and were not scored."),
        (counted < annotated, f"**{annotated - counted} of {annotated} frames with a mask were not scored**: the first "
                              "and the last frame of each sequence, by --mask-frames inner, as in DAVIS's protocol."),
        (scored < counted, f"{scored} of {counted} annotated frames were drawn at random and scored."),
        (density_alone, f"**{density_alone} of {annotated} annotated frames have a density map alone**, for their "
                        "videos have no fixation maps: AUC-J, s-AUC and NSS are undefined there and left out."),
        *((True, f"**Annotation of {count} of {scored} frames**: {reason}.") for reason, count in doubts.most_common()),
        (interpolate > 1, f"**APPROXIMATION: one frame in {interpolate} went through the network**, maps between are interpolated."),
        (frame_size, f"**APPROXIMATION unless trained so: the network saw frames of {seen} (H x W) pixels**, by --frame-size."),
        (others and others.same_video, "s-AUC: only one video is annotated, so the other frames are its own."),
        (unreadable, f"s-AUC: unreadable fixation maps of other frames count as empty: {', '.join(unreadable)}."),
        (skipped, f"**Skipped, {len(finished)} of {len(videos)} videos scored.** {' / '.join(skipped)}"),
    ]
    own = [note for method in methods for note in own_notes(method, costs[method.name], judged, scored, named=len(methods) > 1)]
    return [note for holds, note in notes if holds] + own


def own_notes(method: Method, cost: dict, judged: Judged, scored: int, named: bool) -> list[str]:
    """Sentences on one method's maps, with its name where there are several."""
    resized, constant = (sum(counts[video.name] for video, _ in method.finished) for counts in (method.scorer.resized, method.scorer.constant))
    short, made_by = 0, flow_in_words(cost)
    if isinstance(method.source, Network) and getattr(method.source.model, "first_frames", None) == "mirror":
        short = sum(len(video.frames) < mirrored_length(method.source.model) for video, _ in method.finished)
    notes = [
        (resized, f"Maps resized to their annotation's size: {resized} of {scored}."),
        (constant, f"**Constant maps: {constant} of {scored}.**" + " CC, SIM, s-AUC and NSS are undefined there and left out, "
                   "which flatters the method." * (judged is BY_FIXATIONS)),
        (made_by, f"Optical flow: {made_by}."),
        (short, f"Videos too short for all windows before the first frame to be turned around, so that this frame fills the others: {short}."),
    ]
    return [f"{method.name}: {note}" if named else note for holds, note in notes if holds]


def flow_in_words(cost: dict) -> str:
    """What made the pictures of flow; empty where there were none."""
    used = cost.get("flow_used") or []
    return ", ".join(f"made by {name.upper()}, drawn as {cost['flow']['picture']}" if name in METHODS else f"pictures in {name}" for name in used)
