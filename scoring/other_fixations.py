"""For shuffled AUC: the fixations of other frames, its negatives."""
import functools
from pathlib import Path

import numpy as np

from videos.annotation import read_fixations
from videos.video import Video

OTHERS = 10  # frames, as in the benchmark


class OtherFixations:
    """The union of the fixations of frames of other videos, drawn at random but reproducibly.

    Args:
        videos: of the split. If only one is annotated, the other frames are that video's own (`same_video`).
        seed: determines, with the split, the video's name and the frame's index, which frames are drawn.
        skip_bad: whether an unreadable fixation map counts as empty and is listed in `unreadable`, or raises.
    """

    def __init__(self, videos: list[Video], seed: int, skip_bad: bool = False) -> None:
        self.seed, self.skip_bad, self.unreadable = seed, skip_bad, set()
        fixated = [[video.frames[i] for i in video.annotated()] if video.fixations else [] for video in videos]
        files = {(video.name, frame.stem): (video.fixations[frame.stem], video.like(frame))
                 for video, frames in zip(videos, fixated) for frame in frames}
        self.frames, self.files = list(files), files
        stops = np.cumsum([len(frames) for frames in fixated]).tolist()
        self.span = {video.name: (start, stop)  # of its own frames in `frames`
                     for video, start, stop in zip(videos, [0, *stops], stops)}
        self.same_video = sum(stop > start for start, stop in self.span.values()) == 1
        self.positions = functools.cache(self.read_positions)  # a frame is drawn by ten others on average

    def read_positions(self, path: Path, like: Path) -> np.ndarray:
        """The fixations of a file, (n, 2): rows and columns, from 0, the first pixel, to 1, the last.

        Args:
            path, like: of `read_fixations`.
        """
        try:
            fixations = read_fixations(path, like)
        except (FileNotFoundError, ValueError):
            if not self.skip_bad:
                raise
            self.unreadable.add(str(path))
            return np.empty((0, 2))
        return np.argwhere(fixations) / np.maximum(1, np.array(fixations.shape) - 1)

    def draw(self, video: Video, index: int) -> list[tuple[str, str]]:
        """For frame `index` of a video: 10 other frames, or all if fewer, as (video's name, frame's stem)."""
        start, stop = self.span[video.name]
        if self.same_video and stop > start:
            start = self.frames.index((video.name, video.frames[index].stem))
            stop = start + 1
        generator = np.random.default_rng([self.seed, index, *video.name.encode()])
        available = len(self.frames) - (stop - start)
        drawn = generator.choice(available, size=min(OTHERS, available), replace=False)
        return [self.frames[number if number < start else number + stop - start] for number in drawn]

    def union(self, drawn: list[tuple[str, str]], size: tuple[int, int]) -> np.ndarray:
        """All fixations of the frames drawn, (H, W) bool, their coordinates rescaled to `size` and rounded."""
        union = np.zeros(size, dtype=bool)
        for frame in drawn:
            row, column = np.round(self.positions(*self.files[frame]) * (np.array(size) - 1)).astype(int).T
            union[row, column] = True
        return union
