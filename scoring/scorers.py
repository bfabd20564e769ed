"""Maps and annotation in, a row of scores for each frame out."""
import collections
import functools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

import utils
from loss import MEASURES, is_constant, measures, to_device
from saliency_model import stretch
from scoring.other_fixations import OtherFixations
from scoring.salient_objects import vsod_frame
from utils import in_threads
from videos.annotation import Remark, examine_density, examine_fixations, examine_mask, remarks_on_density
from videos.resizing import imresize, resize_density
from videos.video import Video, check_same_size

BASELINE = "centre Gaussian"


class Scorer:
    """Scores maps against density and fixations, in batches.

    The measures do not make the host wait for a GPU; their values are fetched once a video.

    Args:
        others: the other frames of shuffled AUC.
        protocol: "float" or "dhf1k".
        device: where to compute.
        baseline: whether to score the centre Gaussian on the same frames.
        batch_size: maps scored at once; one at a time is fastest on a CPU, whose caches hold no more.

    Attributes:
        drawn: video -> frame -> the other frames of its s-AUC, "VIDEO/FRAME".
        resized, constant: video -> number of maps whose size was not their annotation's, and of maps of one value.
        remarks: video -> the reasons of all remarks on its annotation, one for each frame concerned.
    """

    def __init__(self, others: OtherFixations, protocol: str, device: torch.device, baseline: bool = False,
                 batch_size: int = 1) -> None:
        self.others, self.protocol, self.device = others, protocol, device
        self.baseline, self.batch_size = baseline, batch_size
        self.drawn, self.resized, self.constant, self.remarks = {}, {}, {}, {}

    def __call__(self, video: Video, indices: list[int], maps: Iterable[Tensor], method: str) -> list[dict]:
        """Score some frames of a video.

        Args:
            video: whose annotation is read, by threads ahead of the maps.
            indices: of the frames.
            maps: of the frames, (H, W), uint8 or float.
            method: the maps' name in the rows.

        Returns:
            A row for each frame, {"method", "video", "frame", "auc_j", ..}; then those of the baseline if wanted.
        """
        frames, values = {}, []
        targets = in_threads(functools.partial(self.targets, video), indices)
        for batch in batches(map(self.sample, targets, maps), self.batch_size):
            values.append(self.score(batch))
            frames |= {sample["frame"]: {name: sample[name] for name in ("others", "resized", "remarks")}
                       for sample in batch}
        values = torch.cat(values).tolist() if values else []  # only now the host waits for the device
        self.constant[video.name] = sum(value.pop() == 1 for value in values)
        self.resized[video.name] = sum(about["resized"] for about in frames.values())
        self.drawn[video.name] = {frame: about["others"] for frame, about in frames.items()}
        self.remarks[video.name] = reasons(about["remarks"] for about in frames.values())
        return [{"method": name, "video": video.name, "frame": frame, **dict(zip(MEASURES, value[start:]))}
                for name, start in ((method, 0), (BASELINE, len(MEASURES)))
                for frame, value in zip(frames, values) if value[start:]]

    def gather(self, videos: list[Video]) -> None:
        """All-gather what the processes have drawn and counted, in the order of the dataset."""
        parts = utils.all_gather({"drawn": self.drawn, "unreadable": self.others.unreadable, "resized": self.resized,
                                  "constant": self.constant, "remarks": self.remarks})
        drawn = merged(part["drawn"] for part in parts)
        self.drawn = {video.name: drawn[video.name] for video in videos if video.name in drawn}
        self.others.unreadable = set().union(*(part["unreadable"] for part in parts))
        self.resized, self.constant, self.remarks = (merged(part[name] for part in parts)
                                                     for name in ("resized", "constant", "remarks"))

    def notes(self) -> list[str]:
        """Sentences for the report on the other frames of s-AUC."""
        notes = []
        if self.others.same_video:
            notes.append("s-AUC: only one video is annotated, so the other frames are its own.")
        if self.others.unreadable:
            unreadable = ", ".join(sorted(self.others.unreadable))
            notes.append(f"s-AUC: unreadable fixation maps of other frames count as empty: {unreadable}.")
        return notes

    def targets(self, video: Video, index: int) -> dict:
        """A frame's "density", "fixations" and "other_fixations", on the CPU; its name, the frames drawn, remarks."""
        density, fixations, remarks = read_annotation(video, index)
        drawn = self.others.draw(video, index)
        others = self.others.union(drawn, density.shape)
        arrays = {"density": density, "fixations": fixations, "other_fixations": others}
        return {"frame": video.frames[index].stem, "others": ["/".join(other) for other in drawn], "remarks": remarks,
                **{name: torch.from_numpy(x) for name, x in arrays.items()}}

    def sample(self, targets: dict, saliency: Tensor) -> dict:
        """A frame's targets with its map, which is resized to theirs, on the device."""
        size = tuple(targets["density"].shape)
        resized = tuple(saliency.shape) != size
        if resized:  # clamped: the cubic kernel undershoots, and KL is undefined below 0
            saliency = imresize(saliency.cpu(), size).clamp(min=saliency.min().item())
        return {**targets, "saliency": to_device(saliency, self.device), "resized": resized}

    @torch.no_grad()
    def score(self, batch: list[dict]) -> Tensor:
        """A column for each measure, as many again for the baseline if wanted, and whether the map is constant."""
        saliency, density, *fixations = (torch.stack([sample[name] for sample in batch])
                                         for name in ("saliency", "density", "fixations", "other_fixations"))
        density = to_device(density, self.device)
        columns = self.by_protocol(saliency, density, *fixations)
        if self.baseline:
            centre = centre_gaussian(density.shape[1:])
            centre = stretch(centre) if self.protocol == "dhf1k" else centre  # 8 bits, as the maps
            columns += self.by_protocol(to_device(centre, self.device).expand_as(density), density, *fixations)
        return torch.stack([*columns, is_constant(saliency)], dim=1)

    def by_protocol(self, saliency: Tensor, density: Tensor, *fixations: Tensor) -> list[Tensor]:
        """The measures in order, (B,) each, as the protocol has them."""
        values = measures(saliency, density, *fixations)
        if self.protocol == "dhf1k":
            values["sim"] = values["sim"].masked_fill(density.amax((1, 2)) == 0, 0)
        return list(values.values())


class ObjectScorer:
    """Scores maps, uint8, against masks of salient objects, as `Scorer` does against fixations.

    Args:
        baseline: whether to score the centre Gaussian on the same frames.

    Attributes:
        resized, constant, remarks: as of `Scorer`.
    """

    protocol, drawn = "masks", {}

    def __init__(self, baseline: bool = False) -> None:
        self.baseline, self.resized, self.constant, self.remarks = baseline, {}, {}, {}

    def __call__(self, video: Video, indices: list[int], maps: Iterable[Tensor], method: str) -> list[dict]:
        """A row for each frame, {"method", "video", "frame", "mae", ..}; then those of the baseline if wanted."""
        rows, baseline, counts, remarks = [], [], collections.Counter(), []
        masks = in_threads(lambda index: examine_mask(video.masks[video.frames[index].stem]), indices)
        for index, (mask, about_mask), saliency in zip(indices, masks, maps):
            remarks.append(about_mask)
            about, size = {"video": video.name, "frame": video.frames[index].stem}, tuple(mask.shape)
            saliency = saliency.cpu().numpy()
            counts.update(resized=saliency.shape != size, constant=int(saliency.min() == saliency.max()))
            saliency = resize_density(saliency, size) if saliency.shape != size else saliency
            rows.append({"method": method, **about, **vsod_frame(saliency, mask)})
            if self.baseline:
                centre = stretch(centre_gaussian(size)).numpy()
                baseline.append({"method": BASELINE, **about, **vsod_frame(centre, mask)})
        self.resized[video.name], self.constant[video.name] = counts["resized"], counts["constant"]
        self.remarks[video.name] = reasons(remarks)
        return rows + baseline

    def gather(self, videos: list[Video]) -> None:
        """All-gather what the processes have counted."""
        parts = utils.all_gather((self.resized, self.constant, self.remarks))
        self.resized, self.constant, self.remarks = map(merged, zip(*parts))

    def notes(self) -> list[str]:
        """No sentences: nothing is drawn at random."""
        return []


def centre_gaussian(size: tuple[int, int]) -> Tensor:
    """The baseline that looks at no frame, (H, W) float32 in (0, 1]: a Gaussian, sigma a quarter of each side."""
    row, column = (torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) for n in size)
    return row[:, None] * column


def read_annotation(video: Video, index: int) -> tuple[np.ndarray, np.ndarray, list[Remark]]:
    """Density, (H, W) float32 in [0, 1], fixations, (H, W) bool, and remarks on both.

    In a video with density maps alone, no pixel is fixated: measures of fixations are undefined there.

    Raises:
        ValueError: the two differ in size, or one is not what it claims to be.
    """
    stem = video.frames[index].stem
    density, remarks = examine_density(video.maps[stem])
    if not video.fixations:
        return density, np.zeros(density.shape, dtype=bool), remarks + remarks_on_density(density, None)
    fixations, more = examine_fixations(video.fixations[stem], video.maps[stem])
    check_same_size(density, fixations, video, stem)
    return density, fixations, remarks + more + remarks_on_density(density, fixations)


def reasons(frames: Iterable[list[Remark]]) -> list[str]:
    """The reasons of all frames' remarks in a row; each reason once a frame."""
    return [reason for remarks in frames for reason in dict.fromkeys(remark.reason for remark in remarks)]


def merged(parts: Iterable[dict]) -> dict:
    """One dict from several."""
    return {name: value for part in parts for name, value in part.items()}


def batches(samples: Iterable[dict], size: int) -> Iterator[list[dict]]:
    """Up to `size` consecutive samples at a time, their maps all of one shape."""
    group = []
    for sample in samples:
        if len(group) == size or (group and group[0]["saliency"].shape != sample["saliency"].shape):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group
