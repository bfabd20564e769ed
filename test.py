"""Predict a dataset's saliency maps and score them. With no argument: saved_models/RecSalNet.pth on DHF1K's validation set.

    python test.py
    python test.py --data data/sample --weights saved_models/demo/RecSalNet.pth --centre-baseline
    python test.py --data data/DHF1K --predictions some_methods_maps        # a folder of maps, no model
    torchrun --nproc-per-node 4 test.py                                     # on 4 GPUs, the same table
"""
import argparse
import collections
import contextlib
import csv
import functools
import io
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import utils
from dataloader import (
    DATASET_FOLDERS,
    DATASETS,
    IMAGE_SUFFIXES,
    TREE,
    Video,
    check_same_size,
    dataset_folder,
    find_videos,
    frame_key,
    images_by,
    imresize,
    in_threads,
    inventory,
    natural,
    read_density,
    read_fixations,
    read_frame,
    read_image,
)
from loss import LABELS, MEASURES, is_constant, measures, to_device
from model import stretch
from predict import (
    Later,
    at_least,
    default_batch_size,
    device_arguments,
    engine_arguments,
    introduce,
    keep_freed_memory,
    load_model,
    saliency_maps,
    select_device,
    write_map,
)

COLOURED = 32                                                              # levels between channels, above what JPEG does to a grey picture
OTHERS = 10                                                                # frames whose fixations s-AUC compares with
PROTOCOLS = {
    "float": "maps as the network gives them, resized to the frame's size and blurred 11 x 11, not quantised (the authors' way); "
             "undefined values are left out of the averages",
    "dhf1k": "maps of 8 bits, as their files hold them and the benchmark reads them; SIM of an all-zero density map counts as 0, as in its code; "
             "other undefined values are left out of the averages",
}
STORED = {**PROTOCOLS, "float": "maps as their files have them, resized without rounding; undefined values are left out of the averages"}
STRETCH = ("Files that test.py and predict.py write are stretched to 0 .. 255 frame by frame, as the authors' are. KL depends on that stretch, the "
           "other measures do not: compare KL within one protocol only")
COMMON = ("AUC-J is the expectation over the random breaking of ties, s-AUC the exact expectation over random splits against the fixations of "
          f"{OTHERS} other frames. Maps that differ from their annotation in size are resized to it as MATLAB's imresize does (bicubic, antialiased)")
# DHF1K's hidden test set (videos 701-1000), scored by the benchmark's organisers, as collected in RecSal-Net's paper.
PUBLISHED_MEASURES = ("auc_j", "sim", "s_auc", "cc", "nss")
PUBLISHED = {
    "DeepVS":     (0.856, 0.256, 0.583, 0.344, 1.911),
    "ACLNet":     (0.890, 0.315, 0.601, 0.434, 2.354),
    "SalEMA":     (0.890, 0.466, 0.667, 0.449, 2.574),
    "STRA-Net":   (0.895, 0.355, 0.663, 0.458, 2.558),
    "TASED-Net":  (0.895, 0.361, 0.712, 0.470, 2.667),
    "Chen et al.": (0.900, 0.353, 0.680, 0.476, 2.685),
    "SalSAC":     (0.896, 0.357, 0.697, 0.479, 2.673),
    "UNISAL":     (0.901, 0.390, 0.691, 0.490, 2.776),
    "HD2S":       (0.908, 0.406, 0.700, 0.503, 2.812),
    "ViNet":      (0.908, 0.381, 0.729, 0.511, 2.872),
    "ECANet":     (0.903, 0.385, 0.717, 0.500, 2.814),
    "TSFP-Net":   (0.912, 0.392, 0.723, 0.517, 2.967),
    "STSANet":    (0.913, 0.383, 0.723, 0.529, 3.010),
    "GFNet":      (0.913, 0.379, 0.723, 0.529, 2.995),
    "RecSal-Net": (0.913, 0.414, 0.728, 0.547, 3.135),
}
NEVER_COMPARABLE = ("DHF1K's hidden **test** set (videos 701-1000), scored by the benchmark's organisers; the numbers are the papers'. "
                    "Scores on any other set, DHF1K's validation set included, are not comparable with these.")
BASELINE = "centre Gaussian"
FIGURES = {"distributions.png": "the videos' averages and their quartiles",
           "best_and_worst.png": "each video's best, and worst, frame by CC; three videos of each"}


# What is compared with what

class OtherFixations:
    """For shuffled AUC: the union of the fixations of frames of other videos, drawn at random but reproducibly.

    Args:
        videos: the dataset. If only one is annotated, the other frames are that video's own (`same_video`).
        seed: with the dataset, the video's name and the frame's index it determines the frames drawn.
        skip_bad: whether an unreadable fixation map counts as empty, and is listed in `unreadable`, or raises.
    """

    def __init__(self, videos: list[Video], seed: int, skip_bad: bool = False) -> None:
        self.seed, self.skip_bad, self.unreadable = seed, skip_bad, set()
        self.frames = [(video.name, video.frames[i].stem) for video in videos for i in video.annotated()]
        self.files = {(video.name, stem): path for video in videos for stem, path in video.fixations.items()}
        stops = np.cumsum([len(video.annotated()) for video in videos]).tolist()
        self.span = {video.name: (start, stop) for video, start, stop in zip(videos, [0, *stops], stops)}  # where its own frames are
        self.same_video = sum(stop > start for start, stop in self.span.values()) == 1
        self.positions = functools.cache(self.read_positions)              # a frame is drawn by ten others on average

    def read_positions(self, path: Path) -> np.ndarray:
        """The fixations of a file as (n, 2) rows and columns from 0, the first pixel, to 1, the last."""
        try:
            fixations = read_fixations(path)
        except (FileNotFoundError, ValueError):
            if not self.skip_bad:
                raise
            self.unreadable.add(str(path))
            return np.empty((0, 2))
        return np.argwhere(fixations) / np.maximum(1, np.array(fixations.shape) - 1)

    def draw(self, video: Video, index: int) -> list[tuple[str, str]]:
        """For frame `index` of a video: 10 other frames, or all if fewer, as (video's name, frame's stem)."""
        start, stop = self.span[video.name]
        if self.same_video:
            start = self.frames.index((video.name, video.frames[index].stem))
            stop = start + 1
        generator = np.random.default_rng([self.seed, index, *video.name.encode()])
        available = len(self.frames) - (stop - start)
        drawn = generator.choice(available, size=min(OTHERS, available), replace=False)
        return [self.frames[number if number < start else number + stop - start] for number in drawn]

    def union(self, drawn: list[tuple[str, str]], size: tuple[int, int]) -> np.ndarray:
        """(H, W) bool: all fixations of those frames, their coordinates rescaled to this size and rounded."""
        union = np.zeros(size, dtype=bool)
        for frame in drawn:
            row, column = np.round(self.positions(self.files[frame]) * (np.array(size) - 1)).astype(int).T
            union[row, column] = True
        return union


def choose_frames(videos: list[Video], sample: int | None, seed: int) -> dict[str, list[int]]:
    """Video -> indices of the frames to score: all that are annotated, or `sample` of all of them, drawn at random."""
    every = [(video.name, index) for video in videos for index in video.annotated()]
    if sample is not None and sample < len(every):
        drawn = np.random.default_rng(seed).choice(len(every), size=sample, replace=False)
        every = [every[number] for number in sorted(drawn)]
    chosen = {video.name: [] for video in videos}
    for name, index in every:
        chosen[name].append(index)
    return chosen


def centre_gaussian(size: tuple[int, int]) -> Tensor:
    """The baseline that looks at no frame, (H, W): a Gaussian in the centre, sigma a quarter of height and width."""
    row, column = (torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) for n in size)
    return row[:, None] * column


# Scoring

class Scorer:
    """Scores maps in batches. The measures do not make the host wait for a GPU; their values are fetched once a video.

    Args:
        others: what shuffled AUC compares with.
        protocol: a key of `PROTOCOLS`.
        device: where to compute.
        baseline: whether to score the centre Gaussian on the same frames.
        batch_size: maps scored at once; one at a time is fastest on a CPU, whose caches hold no more.

    Attributes:
        drawn: video -> frame -> the frames that s-AUC compared it with, "VIDEO/FRAME".
        resized, constant: number of maps that had another size than their annotation, and of maps of one value.
    """

    def __init__(self, others: OtherFixations, protocol: str, device: torch.device, baseline: bool = False, batch_size: int = 1) -> None:
        self.others, self.protocol, self.device, self.baseline, self.batch_size = others, protocol, device, baseline, batch_size
        self.drawn, self.resized, self.constant = {}, 0, 0

    def __call__(self, video: Video, indices: list[int], maps: Iterable[Tensor], method: str) -> list[dict]:
        """Score some frames of a video.

        Args:
            video: has their annotation, which threads read ahead of the maps.
            indices: of the frames.
            maps: theirs, (H, W), uint8 or float.
            method: whose maps they are.

        Returns:
            A row for each, {"method", "video", "frame", "auc_j", ..}, and those of the baseline if wanted.
        """
        frames, values = {}, []
        targets = in_threads(functools.partial(self.targets, video), indices)
        for batch in batches(map(self.sample, targets, maps), self.batch_size):
            values.append(self.score(batch))
            frames |= {sample["frame"]: {name: sample[name] for name in ("others", "resized")} for sample in batch}
        values = torch.cat(values).tolist() if values else []              # the first moment that they are needed
        self.constant += sum(value.pop() == 1 for value in values)
        self.resized += sum(about["resized"] for about in frames.values())
        self.drawn[video.name] = {frame: about["others"] for frame, about in frames.items()}
        six = len(MEASURES)
        return [{"method": name, "video": video.name, "frame": frame, **dict(zip(MEASURES, value[start:start + six]))}
                for name, start in ((method, 0), (BASELINE, six)) for frame, value in zip(frames, values) if value[start:]]

    def targets(self, video: Video, index: int) -> dict:
        """What a frame's map is compared with, on the CPU."""
        density, fixations = read_annotation(video, index)
        drawn = self.others.draw(video, index)
        arrays = {"density": density, "fixations": fixations, "other_fixations": self.others.union(drawn, density.shape)}
        return {"frame": video.frames[index].stem, "others": ["/".join(other) for other in drawn],
                **{name: torch.from_numpy(x) for name, x in arrays.items()}}

    def sample(self, targets: dict, saliency: Tensor) -> dict:
        """The targets with their map, at their size, on the device."""
        size = tuple(targets["density"].shape)
        resized = tuple(saliency.shape) != size
        if resized:                                                        # without the cubic kernel's undershoot: KL's logarithm
            saliency = imresize(saliency.cpu(), size).clamp(min=saliency.min().item())
        return {**targets, "saliency": to_device(saliency, self.device), "resized": resized}

    @torch.no_grad()
    def score(self, batch: list[dict]) -> Tensor:
        """A column for each measure, six more of the baseline if wanted, and whether the map is constant: (B, 7 or 13)."""
        saliency, density, *fixations = (torch.stack([sample[name] for sample in batch])
                                         for name in ("saliency", "density", "fixations", "other_fixations"))
        density = to_device(density, self.device)
        columns = self.by_protocol(saliency, density, *fixations)
        if self.baseline:
            centre = to_device(self.centre(density.shape[1:]), self.device).expand_as(density)
            columns += self.by_protocol(centre, density, *fixations)
        return torch.stack([*columns, is_constant(saliency)], dim=1)

    def centre(self, size: tuple[int, int]) -> Tensor:
        """The centre Gaussian, of 8 bits where the protocol's maps are."""
        centre = centre_gaussian(size)
        return stretch(centre) if self.protocol == "dhf1k" else centre

    def by_protocol(self, saliency: Tensor, density: Tensor, *fixations: Tensor) -> list[Tensor]:
        """The measures in order, (B,) each."""
        values = measures(saliency, density, *fixations)
        if self.protocol == "dhf1k":
            values["sim"] = values["sim"].masked_fill(density.amax((1, 2)) == 0, 0)
        return list(values.values())


def read_annotation(video: Video, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Density, (H, W) float32, and fixations, (H, W) bool, of a frame; a ValueError where they differ in size."""
    stem = video.frames[index].stem
    density, fixations = read_density(video.maps[stem]), read_fixations(video.fixations[stem])
    check_same_size(density, fixations, video, stem)
    return density, fixations


def batches(samples: Iterable[dict], size: int) -> Iterator[list[dict]]:
    """Groups of up to `size` samples in a row whose maps have one shape."""
    group = []
    for sample in samples:
        if len(group) == size or (group and group[0]["saliency"].shape != sample["saliency"].shape):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


# Averages

def summarise(rows: list[dict]) -> dict:
    """Both averages of the measures of many frames.

    Args:
        rows: {"video", "frame", "auc_j", ..}, NaN where undefined.

    Returns:
        {"frames", "videos"}: counts; {"frame_average", "video_average"}: measure -> mean over frames, or over videos of
        the mean over their frames; {"left_out"}: measure -> frames where it is undefined, which no mean counts.
    """
    videos = per_video(rows)
    return {
        "frames": len(rows), "videos": len(videos), "frame_average": frame_average(rows), "video_average": frame_average(videos),
        "left_out": {name: sum(math.isnan(row[name]) for row in rows) for name in MEASURES},
    }


def grouped(rows: list[dict], by: str) -> dict[str, list[dict]]:
    """"method" or "video" -> its rows, in order."""
    groups = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    return groups


def per_video(rows: list[dict]) -> list[dict]:
    """{"video", "frames", means of the measures} of each video."""
    return [{"video": video, "frames": len(frames), **frame_average(frames)} for video, frames in grouped(rows, "video").items()]


def frame_average(rows: list[dict]) -> dict[str, float]:
    """Mean of each measure over the rows where it is defined; NaN where it is defined in none."""
    defined = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in MEASURES}
    return {name: sum(values) / len(values) if values else math.nan for name, values in defined.items()}


# Where maps come from: a network, or files. Both have a name and details for the report.

class Network:
    """A network's maps. It writes one for every frame of a video to FOLDER/VIDEO/FRAME.png, 8 bits, at the frame's size.

    Args:
        model: in eval mode.
        weights: the file it comes from, for the report.
        options: of `saliency_maps`.
    """

    def __init__(self, model: nn.Module, weights: str | Path, **options: int) -> None:
        self.model, self.options = model, options
        self.name, self.protocols = type(model).__name__, PROTOCOLS
        self.details = {"weights": str(weights), "weights_sha256": utils.sha256(utils.local_file(weights)), "configuration": model.config, **options}

    def maps(self, video: Video, indices: list[int], protocol: str, folder: Path) -> Iterator[Tensor]:
        """The maps of these frames, as the network gives them ("float") or as the files hold them ("dhf1k")."""
        frames, wanted = in_threads(read_frame, video.frames), set(indices)
        maps = saliency_maps(self.model, frames, **self.options)
        with Later() as later:
            bar = tqdm(maps, desc=video.name, total=len(video.frames), unit="frame", leave=False, disable=utils.hide_bar())
            for index, saliency in enumerate(bar):
                later(write_map, folder / video.name / f"{video.frames[index].stem}.png", saliency)
                if index in wanted:
                    yield stretch(saliency) if protocol == "dhf1k" else saliency


class StoredMaps:
    """Any method's maps, in files FOLDER/VIDEO/FRAME.png (or another kind of image)."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"no predictions {folder}: {'it is a file' if folder.exists() else 'the folder does not exist'}; "
                                    "expected a folder with VIDEO/FRAME.png, videos and frames named like the dataset's")
        self.folder, self.name, self.protocols = folder, folder.resolve().name, STORED
        self.details = {"predictions": str(folder)}

    def maps(self, video: Video, indices: list[int], protocol: str, folder: Path | None) -> Iterator[Tensor]:
        """The maps of these frames."""
        self.check(video, indices)
        files = stored_files(self.folder, video.name)
        return in_threads(functools.partial(stored_map, protocol=protocol), [files[frame_key(video.frames[index].stem)] for index in indices])

    def check(self, video: Video, indices: list[int]) -> None:
        """Raise a FileNotFoundError where a frame to score has no map: what was expected where, and what is there."""
        files = stored_files(self.folder, video.name)
        missing = [video.frames[index].stem for index in indices if frame_key(video.frames[index].stem) not in files]
        if missing:
            place = self.folder / video.name if (self.folder / video.name).is_dir() else self.folder
            held = natural(path.name for path in place.iterdir())
            present = f"holds {held[0]} to {held[-1]}, {len(held)} in all" if held else "is empty"
            raise FileNotFoundError(
                f"no map for {len(missing)} of the {len(indices)} frames to score of video {video.name}: expected "
                f"{self.folder / video.name / missing[0]}.png (or {', '.join(sorted(IMAGE_SUFFIXES - {'.png'}))}), but {place} {present}. "
                "Names are those of the dataset")


def check_all(source: StoredMaps, videos: list[Video], chosen: dict[str, list[int]]) -> None:
    """Raise the first video's problem with its stored maps, and say how many videos have one."""
    problems = []
    for video in videos:
        try:
            source.check(video, chosen[video.name])
        except FileNotFoundError as error:
            problems.append(str(error))
    if problems:
        raise FileNotFoundError(f"{problems[0]}. {len(problems)} of {len(videos)} videos lack maps; --skip-bad scores the others")


def stored_files(folder: Path, video: str) -> dict[str, Path]:
    """A frame's `frame_key` -> file of a video's maps."""
    return images_by(folder / video, "maps", frame_key)


def stored_map(path: Path, protocol: str) -> Tensor:
    """A map from its file, (H, W): uint8, so that resizing rounds as the benchmark's does; for "float" float32, 0 to 255."""
    channels = read_image(path, "RGB").astype(np.int16)
    if np.abs(channels - channels[..., 1:2]).max() > COLOURED:
        raise ValueError(f"{path} is in colour: expected a grey map. The colours of a heat map cannot be scored; save the map itself")
    saliency = torch.from_numpy(channels[..., 1].astype(np.uint8))
    return saliency.float() if protocol == "float" else saliency


# The report

def table(summaries: dict[str, dict]) -> str:
    """Markdown: for each method a row for either average, and one for the frames left out of both."""
    lines = [table_row(["method", "", *(LABELS[name] for name in MEASURES)]), table_row(["---"] * (2 + len(MEASURES)))]
    for method, summary in summaries.items():
        averages = {"frame_average": "average over frames", "video_average": f"average over {summary['videos']} videos"}
        lines += [table_row([method, label, *(four_digits(summary[average][name]) for name in MEASURES)]) for average, label in averages.items()]
        lines.append(table_row([method, f"left out of {summary['frames']} frames", *(str(summary["left_out"][name]) for name in MEASURES)]))
    return "\n".join(lines)


def four_digits(value: float) -> str:
    """A score in a table; "-" where it is defined nowhere."""
    return "-" if math.isnan(value) else f"{round(value, 4) + 0.0:.4f}"    # + 0.0: no -0.0000


def published_table() -> str:
    """Markdown: fifteen methods' scores on DHF1K's hidden test set."""
    lines = [table_row(["method", *(LABELS[name] for name in PUBLISHED_MEASURES)]), table_row(["---"] * (1 + len(PUBLISHED_MEASURES)))]
    return "\n".join(lines + [table_row([method, *(f"{score:.3f}" for score in scores)]) for method, scores in PUBLISHED.items()])


def table_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def csv_table(rows: list[dict], columns: list[str]) -> str:
    """CSV of these columns and the measures, empty where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *MEASURES])
    for row in rows:
        writer.writerow([*(row[name] for name in columns), *(f"{row[name]:.6f}" if not math.isnan(row[name]) else "" for name in MEASURES)])
    return text.getvalue()


def report(rows: list[dict], folder: Path, details: dict) -> str:
    """Write scores.json, scores.md, per_video.csv and per_frame.csv.

    Args:
        rows: of a `Scorer`.
        details: for scores.json; scores.md has some of them in words.

    Returns:
        The table with its notes, as in scores.md.
    """
    methods = grouped(rows, "method")
    summaries = {method: summarise(rows_of_one) for method, rows_of_one in methods.items()}
    utils.write_json(folder / "scores.json", {"scores": summaries, **details})
    text = "\n\n".join([table(summaries), *details["notes"], f"Protocol {details['protocol']}: {details['protocol_means']}. {COMMON}. {STRETCH}."])
    names = ("weights", "weights_sha256", "predictions", "seed", "sample_frames", "device", "precision", "revision", "date")
    made = "Made with " + ", ".join(f"{name} {details[name]}" for name in names if details.get(name) is not None) + "."
    sections = [f"# {details['data']}, split {details['split']}", text, made, "## Published", NEVER_COMPARABLE, published_table()]
    utils.write_text(folder / "scores.md", "\n\n".join(sections) + "\n")
    videos = [{"method": method, **row} for method, rows_of_one in methods.items() for row in per_video(rows_of_one)]
    utils.write_text(folder / "per_video.csv", csv_table(videos, ["method", "video", "frames"]))
    utils.write_text(folder / "per_frame.csv", csv_table(rows, ["method", "video", "frame"]))
    return text


def figures(rows: list[dict], videos: list[Video], maps: Path, folder: Path, title: str) -> list[str]:
    """Draw the figures of one method, replacing earlier ones; returns their names, none without matplotlib."""
    for name in FIGURES:
        (folder / name).unlink(missing_ok=True)
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        print("figures skipped: matplotlib is not installed (pip install '.[figures]' in the checkout)")
        return []
    examples = best_and_worst(rows)
    drawn = [draw_distributions(rows, Figure(figsize=(12, 7), layout="constrained"))]
    if examples:
        drawn.append(draw_examples(examples, videos, maps, Figure(figsize=(9, 0.7 + 2 * len(examples)), layout="constrained")))
    for name, figure in zip(FIGURES, drawn):
        figure.suptitle(f"{title}\n{FIGURES[name]}")
        with utils.atomic_path(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=100)
    return list(FIGURES)[:len(drawn)]


def draw_distributions(rows: list[dict], figure):
    """One panel a measure: the videos' means as points beside their box of quartiles."""
    videos = per_video(rows)
    for axis, name in zip(figure.subplots(2, 3).flat, MEASURES):
        values = [video[name] for video in videos if not math.isnan(video[name])]
        axis.set_title(f"{LABELS[name]}: mean {sum(values) / len(values):.3f} of {len(values)} videos" if values else f"{LABELS[name]}: undefined")
        if values:
            axis.boxplot(values, positions=[0], widths=0.5, showfliers=False)
            axis.plot(np.random.default_rng(0).uniform(0.4, 0.8, len(values)), values, ".", alpha=0.6)  # spread sideways, so that none hides another
        axis.set_xticks([])
    return figure


def best_and_worst(rows: list[dict]) -> list[tuple[str, dict]]:
    """("best" or "worst", row) of up to three videos each: those videos' own best, or worst, frame by CC."""
    videos = [[row for row in frames if not math.isnan(row["cc"])] for frames in grouped(rows, "video").values()]
    best = sorted((max(frames, key=lambda row: row["cc"]) for frames in videos if frames), key=lambda row: -row["cc"])
    worst = sorted((min(frames, key=lambda row: row["cc"]) for frames in videos if frames), key=lambda row: row["cc"])
    return [("best", row) for row in best[:3]] + [("worst", row) for row in worst[:3]]


def draw_examples(examples: list[tuple[str, dict]], videos: list[Video], maps: Path, figure):
    """A row of three for each frame: image, density, prediction."""
    by_name = {video.name: video for video in videos}
    for (kind, row), axes in zip(examples, figure.subplots(len(examples), 3, squeeze=False)):
        video = by_name[row["video"]]
        frame = next(path for path in video.frames if path.stem == row["frame"])
        prediction = stored_files(maps, row["video"])[frame_key(row["frame"])]
        pictures = (read_frame(frame), read_density(video.maps[row["frame"]]), read_image(prediction, "L"))
        titles = (f"{kind}: {row['video']}\nframe {row['frame']}", "density", f"prediction, CC {row['cc']:.3f}")
        for axis, picture, title in zip(axes, pictures, titles):
            axis.imshow(picture, cmap="inferno")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    return figure


# The command line

def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=list(DATASETS), default="dhf1k",
                      help="whose split names are known; folder: your own (default: dhf1k)")
    data.add_argument("--data", type=Path, metavar="FOLDER", help=f"where it lies, in any tree of data/README.md (default: {DATASET_FOLDERS})")
    data.add_argument("--split", help="what to score: a folder below --data, a list of names (.txt), numbers such as 601-700, or all "
                                      "(default: val; hollywood2 and ucf-sports: testing; diem: test)")
    data.add_argument("--skip-bad", action=argparse.BooleanOptionalAction, default=False,
                      help="leave out videos that cannot be read, counted and reported, instead of stopping (default: off)")
    maps = parser.add_argument_group("maps").add_mutually_exclusive_group()
    maps.add_argument("--weights", default="saved_models/RecSalNet.pth",
                      help="weight file: a path, or an https URL (URL#sha256=HEX: and checked); a .json beside it, or the metadata of a .safetensors "
                           "file, is read for the configuration (default: saved_models/RecSalNet.pth)")
    maps.add_argument("--predictions", type=Path, metavar="DIR",
                      help="score the maps in DIR/VIDEO/FRAME.png, of any method and size, instead of a model's (default: none)")
    scores = parser.add_argument_group("scores")
    scores.add_argument("--protocol", choices=list(PROTOCOLS),
                        help="float: maps as the network gives them; dhf1k: as their 8-bit files hold them, SIM 0 where the density is all "
                             "zero, as the benchmark (default: float, with --predictions dhf1k)")
    scores.add_argument("--sample-frames", type=at_least(1), metavar="N",
                        help="score N annotated frames, drawn at random; the benchmark's code takes 50000 (default: all)")
    scores.add_argument("--centre-baseline", action=argparse.BooleanOptionalAction, default=False,
                        help="score a Gaussian in the centre too (default: off)")
    scores.add_argument("--seed", type=at_least(0), default=0, help="of the frames drawn for s-AUC and --sample-frames (default: 0)")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("results"), help="folder that holds runs (default: results)")
    output.add_argument("--method", type=run_name, help="name of the method in tables and folders (default: the model's class, or the last folder "
                                                        "of --predictions)")
    output.add_argument("--run-name", type=run_name, help="name of this run: maps go to OUT/RUN/METHOD/VIDEO/FRAME.png, tables and figures to OUT/RUN "
                                      "(default: DATA_SPLIT_METHOD_PROTOCOL)")
    output.add_argument("--overwrite", action=argparse.BooleanOptionalAction, default=False,
                        help="replace the scores of an earlier run of this name (default: off)")
    engine_arguments(parser)
    device_arguments(parser, "float32, as the paper's numbers")
    return parser


def score_videos(videos: list[Video], chosen: dict[str, list[int]], maps_of: Callable[[Video], Iterator[Tensor]], scorer: Scorer, method: str,
                 skipped: list[str] | None, own_maps: Path | None) -> Iterator[tuple[Video, list[dict]]]:
    """Each video with its rows; one that cannot be read to its end is left out, own maps and all, where `skipped` is a list."""
    for video in tqdm(videos, desc="videos", unit="video", disable=utils.hide_bar()):
        try:
            with contextlib.closing(maps_of(video)) as maps:               # closed before its files are removed
                rows = scorer(video, chosen[video.name], maps, method)
                collections.deque(maps, maxlen=0)                          # frames after the last one that is scored get maps too
            yield video, rows
        except (FileNotFoundError, ValueError) as error:
            if skipped is None:
                raise
            skipped.append(f"video {video.name}: {error}")
            if own_maps:
                remove_maps(own_maps / video.name, video)


def put_together(finished: list[tuple[Video, list[dict]]], videos: list[Video], scorer: Scorer,
                 skipped: list[str] | None) -> list[tuple[Video, list[dict]]]:
    """What all processes scored, in the order of the dataset: the same rows as one process gives.

    What the scorer and `skipped` of this process have counted becomes what all have.
    """
    utils.wait_for_all()                                                   # one may have had much longer videos
    own = {"rows": {video.name: rows for video, rows in finished}, "drawn": scorer.drawn, "unreadable": scorer.others.unreadable,
           "resized": scorer.resized, "constant": scorer.constant, "skipped": skipped or []}
    parts = utils.gathered(own)
    rows = {name: rows for part in parts for name, rows in part["rows"].items()}
    scorer.drawn = {video.name: drawn for video in videos for part in parts if (drawn := part["drawn"].get(video.name)) is not None}
    scorer.others.unreadable = set().union(*(part["unreadable"] for part in parts))
    scorer.resized, scorer.constant = (sum(part[name] for part in parts) for name in ("resized", "constant"))
    if skipped is not None:                                                # those of the listing are the same in all
        skipped[:] = dict.fromkeys(reason for part in parts for reason in part["skipped"])
    return [(video, rows[video.name]) for video in videos if video.name in rows]


def remove_maps(folder: Path, video: Video) -> None:
    """Remove the maps of a video that was not finished, and their folder if it held nothing else."""
    for frame in video.frames:
        (folder / f"{frame.stem}.png").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def notes_on(finished: list[tuple[Video, list[dict]]], videos: list[Video], scorer: Scorer, skipped: list[str], interpolate: int,
             frame_size: list[int] | None) -> list[str]:
    """Sentences on what a reader of the scores must know."""
    frames = sum(len(video.frames) for video, _ in finished)
    annotated = sum(len(video.annotated()) for video, _ in finished)
    scored = sum(len({row["frame"] for row in rows}) for _, rows in finished)
    unreadable = sorted(scorer.others.unreadable)
    seen = " x ".join(map(str, frame_size or []))
    notes = [
        (annotated < frames, f"{frames - annotated} of {frames} frames have no annotation and were not scored."),
        (scored < annotated, f"{scored} of {annotated} annotated frames were drawn at random and scored."),
        (interpolate > 1, f"**APPROXIMATION: one frame in {interpolate} went through the network**, maps between are interpolated."),
        (frame_size, f"**APPROXIMATION unless trained so: the network saw frames of {seen} (H x W) pixels**, by --frame-size."),
        (scorer.others.same_video, "s-AUC: only one video is annotated, so the other frames are its own."),
        (unreadable, f"s-AUC: unreadable fixation maps of other frames count as empty: {', '.join(unreadable)}."),
        (scorer.resized, f"Maps resized to their annotation's size: {scorer.resized} of {scored}."),
        (scorer.constant, f"**Constant maps: {scorer.constant} of {scored}.** CC, SIM, s-AUC and NSS are undefined there and left out, "
                          "which flatters the method."),
        (skipped, f"**Skipped, {len(finished)} of {len(videos)} videos scored.** {' / '.join(skipped)}"),
    ]
    return [note for holds, note in notes if holds]


def run_name(text: str) -> str:
    """An argparse type: a name that can be a folder's."""
    if Path(text).name != text or text in ("", ".."):
        raise argparse.ArgumentTypeError(f"must be a name, not a path, got {text!r}; --out says where runs are")
    return text


def main(args: argparse.Namespace) -> None:
    skipped = [] if args.skip_bad else None
    data, split = dataset_folder(args.dataset, args.data), args.split or DATASETS[args.dataset].test
    videos = find_videos(data, split, need_annotation=False, skipped=skipped, numbers=DATASETS[args.dataset].numbers)
    print(f"{data}, {split}: {inventory(videos)}")
    chosen = choose_frames(videos, args.sample_frames, args.seed)
    device, protocol = select_device(args.device), args.protocol or ("dhf1k" if args.predictions else "float")
    if args.predictions and (args.precision or args.batch_size or args.compile or args.interpolate > 1 or args.frame_size):
        raise ValueError("--precision, --batch-size, --compile, --interpolate and --frame-size are of a network: "
                         "they have no effect on the files of --predictions")
    precision = None if args.predictions else args.precision or "float32"
    options = {"batch_size": args.batch_size or default_batch_size(device), "interpolate": args.interpolate}
    keep_freed_memory()
    if args.predictions:
        source = StoredMaps(args.predictions)
    else:
        source = Network(load_model(args.weights, device, precision, args.compile, args.frame_size), args.weights, **options)
        introduce(source.model, args.weights)
    if args.predictions and not args.skip_bad:
        check_all(source, videos, chosen)
    method = args.method or source.name
    part = Path(split).stem if split.endswith(".txt") else split.replace("/", "_")
    folder = args.out / (args.run_name or f"{data.resolve().name}_{part}_{method}_{protocol}")
    own_maps = None if args.predictions else folder / method
    if not args.overwrite and utils.is_first():
        utils.refuse_to_replace([folder / "scores.json", *filter(None, [own_maps])], "--overwrite allows it, --run-name NAME keeps both")

    utils.wait_for_all()                                                   # nobody writes before the first process has looked
    others = OtherFixations(videos, args.seed, args.skip_bad)
    scorer = Scorer(others, protocol, device, args.centre_baseline, batch_size=1 if device.type == "cpu" else 16)
    maps_of = lambda video: source.maps(video, chosen[video.name], protocol, own_maps)
    share = videos[utils.process_number()::utils.num_processes()]
    finished = list(score_videos(share, chosen, maps_of, scorer, method, skipped, own_maps))
    finished = put_together(finished, videos, scorer, skipped)
    if not utils.is_first():
        return
    if own_maps:
        print(f"maps of {sum(len(video.frames) for video, _ in finished)} frames of {len(finished)} videos in {own_maps}")
    rows = [row for _, rows_of_one in finished for row in rows_of_one]
    if not rows:
        nothing_to_score(data / split, finished, skipped or [], predicted=not args.predictions)
        return
    print(report(rows, folder, {
        "data": str(data), "split": split, **source.details, "protocol": protocol, "protocol_means": source.protocols[protocol],
        "notes": notes_on(finished, videos, scorer, skipped or [], args.interpolate, args.frame_size), "skipped": skipped or [],
        "seed": args.seed, "sample_frames": args.sample_frames,
        "device": device.type, "precision": precision, "revision": utils.revision(), "versions": utils.versions(), "date": utils.now(),
        "other_frames": scorer.drawn,
    }))
    title = f"{method}, {data}, split {split}, protocol {protocol}"
    drawn = figures(grouped(rows, "method")[method], videos, args.predictions or own_maps, folder, title)
    print(f"written to {folder}: {', '.join(['scores.json', 'scores.md', 'per_video.csv', 'per_frame.csv', *drawn])}")


def nothing_to_score(folder: Path, finished: list, skipped: list[str], predicted: bool) -> None:
    """Say why there are no scores: an error, unless maps were predicted for a set without annotation."""
    if not finished:
        raise ValueError(f"every video of {folder} was skipped: {' / '.join(skipped)}")
    message = f"no annotation in {folder}: nothing to score. A frame is scored that has a density map and a fixation map; {TREE}"
    if not predicted:
        raise ValueError(message)
    print(message)


if __name__ == "__main__":
    parser = arguments()
    try:
        given = parser.parse_args()
        with utils.process_group(given.device):
            main(given)
    except (OSError, ValueError, torch.cuda.OutOfMemoryError) as error:
        parser.exit(2, f"test.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "test.py: interrupted; the maps written so far are whole\n")
