"""Between which scores a network's lie on still images with recorded gaze: those of knowing nothing of the image, and
those of people.

    python -m data.gaze_bounds                   # on the test images of data/gaze, one row for each set and bound
    python -m data.gaze_bounds --split val       # on those for choosing settings

centre prior: the mean density map of all training images, the same map for every image but for its size. With --split
    val it is that of fit.txt, without the images that are scored.
half of the observers: each image's observers are parted at random; the density of one half is the map, density and
    fixations of the other half are the target. Both ways, averaged.

It takes the tree that prepare_gaze.py writes, with its lists. Run it in the root of this repository.
"""

import argparse
import collections
import csv
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

try:
    from data.prepare_dhf1k import density_map
    from loss import MEASURES, measures
    from scoring.other_fixations import OtherFixations
    from scoring.scorers import Scorer
    from scoring.targets import mean_of
    from videos.annotation import read_density
    from videos.resizing import resize_density
    from videos.splits import DATASETS
    from videos.video import Video, find_videos
except ModuleNotFoundError as error:
    sys.exit(f"gaze_bounds.py: error: {error}. It uses the programs' own code: run it as `python -m data.gaze_bounds`, "
             "in the root of this repository")

SIGMA = 0.032            # of the density's Gaussian, in widths of the image, as in prepare_gaze.py
PRIOR_SIZE = (288, 384)  # (H, W) in which training maps are averaged


def centre_prior(videos: list[Video]) -> np.ndarray:
    """The mean density map of some images, of `PRIOR_SIZE`, float32 in [0, 1]."""
    densities = (read_density(path) for video in videos for path in video.maps.values())
    return np.mean([resize_density(density, PRIOR_SIZE) for density in densities], axis=0)


def prior_rows(prior: np.ndarray, videos: list[Video], others: OtherFixations) -> list[dict]:
    """The prior's measures on each image, as test.py has them."""
    scorer, rows = Scorer(others, "float", torch.device("cpu")), []
    for video in videos:
        sizes = (read_density(video.maps[video.frames[index].stem]).shape for index in video.annotated())
        maps = (torch.from_numpy(resize_density(prior, size)) for size in sizes)
        rows += scorer(video, video.annotated(), maps, "centre prior")
    return rows


def observer_rows(videos: list[Video], others: OtherFixations, seed: int) -> list[dict]:
    """The measures of half of the observers against the other half, both ways, on each image."""
    rows = []
    for video in videos:
        stem = video.frames[0].stem
        density = read_density(video.maps[stem])
        targets = halves(video.fixations[stem], density.shape, np.random.default_rng([seed, *video.name.encode()]))
        other_fixations = others.union(others.draw(video, 0), density.shape)
        for (map_of_one, _), (density, fixations) in (targets, targets[::-1]):
            arrays = (map_of_one, density, fixations, other_fixations)
            values = measures(*(torch.from_numpy(array)[None] for array in arrays))
            rows.append({name: value.item() for name, value in values.items()})
    return rows


def halves(path: Path, size: tuple[int, int], generator: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Density, (H, W) float32 in [0, 1], and fixations, (H, W) bool, of each half of an image's observers.

    Raises:
        ValueError: the file of points does not tell two observers.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        points = [(row.get("observer"), int(float(row["y"])), int(float(row["x"]))) for row in csv.DictReader(file)]
    observers = sorted({observer for observer, _, _ in points if observer})
    if len(observers) < 2:
        raise ValueError(f"{path}: expected fixations of two observers or more, told apart by a column observer, found "
                         f"{len(observers)}: leave the image out of the list")
    first = set(generator.permutation(observers)[:len(observers) // 2].tolist())
    parts = []
    for is_first in (True, False):
        counts = np.zeros(size)
        for observer, row, column in points:
            counts[row, column] += (observer in first) == is_first
        parts.append((density_map(counts, SIGMA * size[1]).astype(np.float32) / 255, counts > 0))
    return parts


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.gaze_bounds", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATASETS["gaze-images"].folder, metavar="FOLDER",
                        help="the tree that prepare_gaze.py writes (default: %(default)s)")
    parser.add_argument("--split", choices=["val", "test"], default="test",
                        help="the images that are scored (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0,
                        help="of the halves, and of the other images of s-AUC (default: %(default)s)")
    return parser


def main(args: argparse.Namespace) -> None:
    prior = centre_prior(find_videos(args.data, {"val": "fit", "test": "train"}[args.split]))
    sets = collections.defaultdict(list)
    for video in find_videos(args.data, args.split):
        sets[video.name.partition("-")[0]].append(video)
    lines = [["set", "images", "predicted by", *(measure.label for measure in MEASURES.values())]]
    lines.append(["---"] * len(lines[0]))
    for name, videos in tqdm(sets.items(), unit="set", disable=None):
        others = OtherFixations(videos, args.seed)
        for method, rows in (("centre prior", prior_rows(prior, videos, others)),
                             ("half of the observers", observer_rows(videos, others, args.seed))):
            average = mean_of(rows, MEASURES)
            lines.append([name, str(len(videos)), method, *(f"{average[key]:.3f}" for key in MEASURES)])
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError) as error:
        parser.exit(2, f"gaze_bounds.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "gaze_bounds.py: interrupted\n")
