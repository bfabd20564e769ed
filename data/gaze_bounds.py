"""Reference scores on still images with recorded gaze: the centre prior, and how well people predict each other.

    python -m data.gaze_bounds                   # on the test images of data/gaze, two rows for each set
    python -m data.gaze_bounds --split val       # on those for choosing settings

centre prior: the mean density map of all training images, the same map for every image but for its size. With --split
    val it is that of fit.txt, without the images that are scored.
half of the observers: each image's observers are split at random; the density of one half is the map, density and
    fixations of the other half are the target. Both ways, averaged.

It takes the tree that prepare_gaze.py writes, with its lists. Run it in the root of this repository.
"""

import argparse
import collections
import json
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
    from videos.annotation import located_points, read_density
    from videos.resizing import resize_density
    from videos.splits import DATASETS
    from videos.video import Video, find_videos
except ModuleNotFoundError as error:
    sys.exit(f"gaze_bounds.py: error: {error}. It uses the programs' own code: run it as `python -m data.gaze_bounds`, "
             "in the root of this repository")

PRIOR_SIZE = (288, 384)  # (H, W) in which training maps are averaged


def centre_prior(videos: list[Video]) -> np.ndarray:
    """The mean density map of some images, of `PRIOR_SIZE`, float32 in [0, 1]."""
    paths = [path for video in videos for path in video.maps.values()]
    total = np.zeros(PRIOR_SIZE)
    for path in paths:
        total += resize_density(read_density(path), PRIOR_SIZE)
    return (total / len(paths)).astype(np.float32)


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
        generator = np.random.default_rng([seed, *video.name.encode()])
        targets = halves(video.fixations[stem], video.maps[stem], sigma_of(video), generator)
        other_fixations = others.union(others.draw(video, 0), targets[0][0].shape)
        for (map_of_one, _), (density, fixations) in (targets, targets[::-1]):
            arrays = (map_of_one, density, fixations, other_fixations)
            values = measures(*(torch.from_numpy(array)[None] for array in arrays))
            rows.append({name: value.item() for name, value in values.items()})
    return rows


def sigma_of(video: Video) -> float:
    """The sigma, in pixels, of the Gaussian that an image's density map was made with."""
    path = video.frames[0].parent.parent / "annotation.json"
    facts = json.loads(path.read_text()) if path.is_file() else {}
    if "sigma" not in facts:
        raise ValueError(f"expected the sigma of the density's Gaussian in {path}, found none: give the tree that "
                         "prepare_gaze.py writes")
    return facts["sigma"]


def halves(path: Path, density: Path, sigma: float,
           generator: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Density, (H, W) float32 in [0, 1], and fixations, (H, W) bool, of each half of an image's observers.

    Args:
        path: the image's file of points.
        density: its density map, in whose pixels the points are.
        sigma: of the Gaussian of each half's density, pixels.
        generator: draws the halves.

    Raises:
        ValueError: the file cannot be read, or has fewer than two observers, or points without one.
    """
    points, size = located_points(path, density)
    observers = sorted({point.observer for point in points if point.observer})
    unknown = sum(point.observer is None for point in points)
    if len(observers) < 2 or unknown:
        raise ValueError(f"{path}: expected fixations of two observers or more, each with its observer in a column "
                         f"observer, found {len(observers)} observers and {unknown} fixations without one: leave the "
                         "image out of the list")
    first = set(generator.permutation(observers)[:len(observers) // 2].tolist())
    parts = []
    for is_first in (True, False):
        counts = np.zeros(size)
        for x, y, observer in points:
            counts[int(y), int(x)] += (observer in first) == is_first
        parts.append((density_map(counts, sigma).astype(np.float32) / 255, counts > 0))
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
