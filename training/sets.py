"""What is trained on and validated on: sources, their videos, held-out videos, datasets of clips, scales."""
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

import utils
from dataloader import ClipDataset, VideoClips
from loss import Recipe
from videos.check import inventory
from videos.optical_flow import FlowSource
from videos.prepared import FrameCache
from videos.splits import DATASETS, SAME_SPLIT, dataset_folder
from videos.video import Video, find_videos


@dataclass(frozen=True)
class DataSource:
    """A dataset to train on, a key of `DATASETS`, and its splits; `val_split` is None where none is validated on."""
    dataset: str
    folder: Path
    train_split: str
    val_split: str | None

    def videos(self, split: str, skip_bad: bool, annotation: str = "density") -> list[Video]:
        """Find the videos of a split with this annotation, a key of `ANNOTATIONS`, and print how many.

        With `skip_bad`, unreadable ones are left out, and printed.
        """
        skipped = [] if skip_bad else None
        videos = find_videos(self.folder, split, skipped=skipped, numbers=DATASETS[self.dataset].numbers,
                             annotation=annotation)
        for message in skipped or []:
            print(f"skipped: {message}")
        print(f"{self.folder}, {split}: {inventory(videos)}" + (f"; {len(skipped)} videos skipped" if skipped else ""))
        return videos


def choose_sources(datasets: list[str], data: list[Path] | None, train_split: str | None, val_split: str | None,
                   validated: bool = True, stage: str | None = None) -> list[DataSource]:
    """What to train on, in a stage of training.

    Args:
        datasets: keys of `DATASETS`, one for each folder or one for all.
        data: folders; None: where the datasets lie by default.
        train_split: for all datasets; None: each dataset's own.
        val_split: likewise.
        validated: whether a split is validated on.
        stage: a network's, which may have a split of its own.

    Raises:
        ValueError: the numbers of names and folders differ, or a dataset has no default folder.
    """
    datasets = datasets * len(data) if data and len(datasets) == 1 else datasets
    if data and len(data) != len(datasets):
        raise ValueError(f"--dataset names {len(datasets)} datasets and --data {len(data)} folders: give one folder "
                         "for each, in the same order")
    known = [(name, DATASETS[name], folder) for name, folder in zip(datasets, data or [None] * len(datasets))]
    return [DataSource(name, dataset_folder(name, folder), train_split or about.stages.get(stage, about.train),
                       (val_split or about.val) if validated else None) for name, about, folder in known]


def training_videos(sources: list[DataSource], skip_bad: bool, hold_out: float | None, seed: int,
                    annotation: str = "density") -> tuple[list[Video], list[Video]]:
    """The videos to train on, and those to choose weights by, of all sources."""
    train_videos, val_videos = [], []
    for source in sources:
        own, others = source.videos(source.train_split, skip_bad, annotation), []
        if hold_out:
            own, others = held_out(own, hold_out, seed, shots=DATASETS[source.dataset].shots)
            print(f"{source.folder}: {len(others)} of those videos are held out to choose weights by: "
                  f"{', '.join(video.name for video in others)}")
        elif source.val_split:
            others = validation_videos(source, skip_bad, annotation)
        train_videos, val_videos = train_videos + own, val_videos + others
    warn_of_doubles(train_videos, val_videos)
    return train_videos, val_videos


def validation_videos(source: DataSource, skip_bad: bool, annotation: str = "density") -> list[Video]:
    """The videos of the validation split; an error says what to do without one."""
    if source.val_split in SAME_SPLIT[-1]:
        print(f"{source.folder}: weights are chosen by the test set, as in the papers, so scores on it flatter; "
              "--hold-out 0.1 takes training videos instead")
    try:
        return source.videos(source.val_split, skip_bad, annotation)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. To choose weights by a tenth of the training videos: --hold-out 0.1. To "
                                "train without validation: --val-every 0, which keeps the last epoch's weights "
                                "instead of the best") from error


def held_out(videos: list[Video], share: float, seed: int, shots: bool = False) -> tuple[list[Video], list[Video]]:
    """Split videos at random into those to train on, and a share of them to hold out.

    With `shots`, those of one film (NAME_1, NAME_2) stay together.
    """
    film = lambda video: re.sub(r"_\d+$", "", video.name) if shots else video.name
    films = sorted({film(video) for video in videos})
    count = round(share * len(films))
    if not 0 < count < len(films):
        raise ValueError(f"--hold-out {share:g} of {len(films)} {'films' if shots else 'videos'} is {count}: at least "
                         "one must be held out, and one must be left")
    chosen = set(np.random.default_rng(seed).permutation(films)[:count].tolist())
    return [v for v in videos if film(v) not in chosen], [v for v in videos if film(v) in chosen]


def warn_of_doubles(train_videos: list[Video], val_videos: list[Video]) -> None:
    """Warn of videos that are trained on twice in an epoch, or both trained on and validated on."""
    trained, validated = ([video.frames[0].resolve() for video in videos] for videos in (train_videos, val_videos))
    twice, both = len(trained) - len(set(trained)), len(set(trained) & set(validated))
    if twice:
        print(f"warning: videos that are trained on more than once an epoch: {twice}")
    if both:
        print(f"warning: videos that are trained on and choose the weights, too: {both}")


def describe_data(sources: list[DataSource], hold_out: float | None, val_videos: list[Video]) -> dict:
    """What a run is trained on, for the description of its weights."""
    held = {"hold_out": hold_out, "held_out": [video.name for video in val_videos]} if hold_out else {}
    return {"datasets": [{**vars(source), "folder": str(source.folder)} for source in sources], **held}


def make_sets(model: nn.Module, train_videos: list[Video], val_videos: list[Video], recipe: Recipe,
              seed: int, skip_bad: bool, cache: FrameCache | None,
              flow: FlowSource | None = None) -> tuple[ClipDataset, ClipDataset]:
    """The datasets to train on, at the network's size, and to validate on, at the annotation's full resolution.

    An epoch takes one clip of each video; all its clips where a state is carried; and every annotated frame alone where
    frames go through the network in groups, so that those of a group are unrelated.
    """
    common = {"prepare": model.prepare, "seed": seed, "skip_bad": skip_bad, "cache": cache, "flow": flow,
              "masks": model.target == "mask"}
    own = {"size": model.map_size, "flip": recipe.flip}
    if recipe.zoom and not model.carries_state:
        raise ValueError(f"--zoom is for networks that carry a state: {type(model).__name__} does not, and a still "
                         "is a clip of copies")
    if model.carries_state:
        train_set = VideoClips(train_videos, clip_len=model.clip_len, zoom=recipe.zoom, **common, **own)
    else:
        train_set = ClipDataset(train_videos, **model.sampling, **common, **own)
    val_set = ClipDataset(val_videos, clip_len=model.clip_len, frame_stride=model.frame_stride,
                          every=model.validated_every, **common)
    return train_set, val_set


def prepare_frames(cache: FrameCache, videos: list[Video], workers: int, skip_bad: bool) -> None:
    """Fill the cache: one process of each machine writes, then the others find it there."""
    for turn in (True, False):
        if utils.is_local_main() == turn:
            cache.build(videos, max(1, workers), skip_bad)
        utils.barrier()


def fingerprint(videos: list[Video]) -> str:
    """Tell one set of videos from another by names, frame counts, and the sizes of the first and last frame's files."""
    listed = "\n".join(f"{video.name} {len(video.frames)} {len(video.annotated() or video.masked())} {sizes(video)}"
                       for video in videos)
    return f"{len(videos)} videos, {sum(len(v.frames) for v in videos)} frames, crc {zlib.crc32(listed.encode()):08x}"


def sizes(video: Video) -> list[int]:
    """Bytes of the files of a video's first and last frame; looking at all would take as long as an epoch."""
    kinds = (video.frames, *(list(files.values()) for files in (video.maps, video.fixations, video.masks)))
    return [path.stat().st_size for paths in kinds if paths for path in (paths[0], paths[-1])]


def at_scales(batches: Iterator[dict], scales: tuple[float, ...], skip: int = 0) -> Iterator[dict]:
    """Yield each batch once for every scale, its "scale", after the first `skip`; "skipped" only the first time."""
    scaled = ({**batch, "scale": scale, "skipped": [] if number else batch["skipped"]}
              for batch in batches for number, scale in enumerate(scales))
    return itertools.islice(scaled, skip, None)


def at_scale(x: Tensor, scale: float) -> Tensor:
    """Resize (.., H, W) to a scale, bilinearly with aligned corners; both sides become multiples of 32."""
    if scale == 1:
        return x
    size = [max(32, 32 * round(n * scale / 32)) for n in x.shape[-2:]]
    channels = x if x.ndim == 4 else x[:, None]
    return F.interpolate(channels, size=size, mode="bilinear", align_corners=True).view(*x.shape[:-2], *size)
