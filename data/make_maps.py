"""Make density maps from fixation maps, with the Gaussian that a dataset was published with.

    python -m data.make_maps data/UCF-Sports --gaussian ucf-sports  # for every frame with fixations and no density map
    python -m data.make_maps data/UCF-Sports --compare              # how much existing maps differ from each Gaussian's

It takes every tree that the programs take, and writes FRAME.png into the tree's folder of density maps. Run it in the
root of this repository. For DHF1K's raw gaze there is prepare_dhf1k.py.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy.ndimage import correlate1d
from tqdm import tqdm

try:
    from data.prepare_dhf1k import at_least_one, density_map, encode_png, run_all, write_atomically
    from videos.annotation import read_density, read_fixations
    from videos.splits import all_video_folders, check_folder, find_video_folders
    from videos.trees import VideoFolders
    from videos.video import check_same_size, open_folders
except ModuleNotFoundError as error:
    sys.exit(f"make_maps.py: error: {error}. It uses the programs' own code: run it as `python -m data.make_maps`, in "
             "the root of this repository")

LENGTH, SIGMA = 150, 20  # pixels: fspecial('gaussian', 150, 20), whatever the frame's size


def replicated_density_map(fixations: np.ndarray) -> np.ndarray:
    """Blur a fixation map into a density map as those of Hollywood-2 and UCF-Sports were made.

    A Gaussian of sigma 20 in 150 x 150 pixels, border pixels repeated outside the frame, divided by the frame's
    maximum. An even length has no middle: as in MATLAB's imfilter, a pixel is computed from 74 pixels before it and 75
    after it.

    Args:
        fixations: (H, W) bool.

    Returns:
        (H, W) uint8; the maximum is 255, or 0 if there is no fixation.
    """
    gaussian = np.exp(-0.5 * ((np.arange(LENGTH) - (LENGTH - 1) / 2) / SIGMA) ** 2)
    density = fixations.astype(np.float64)
    for axis in (0, 1):
        density = correlate1d(density, gaussian / gaussian.sum(), axis=axis, mode="nearest", origin=-1)
    return np.floor(255 * density / max(density.max(), np.finfo(np.float64).tiny) + 0.5).astype(np.uint8)


GAUSSIANS = {"dhf1k": density_map, "hollywood2": replicated_density_map, "ucf-sports": replicated_density_map}
ABOUT = ("dhf1k: sigma 12.74 pixels (FWHM 30), nothing beyond the frame; hollywood2 and ucf-sports: sigma 20 in 150 "
         "pixels, borders replicated")


def write_maps(folders: VideoFolders, make: Callable[[np.ndarray], np.ndarray], overwrite: bool) -> int:
    """Write the density maps of one video; returns how many.

    Raises:
        FileNotFoundError, ValueError: something is wrong with the video, or a fixation map cannot be read.
    """
    video = open_folders(folders, need_annotation=False)
    frames = {path.stem: path for path in video.frames}
    wanted = {stem: path for stem, path in video.fixations.items() if overwrite or stem not in video.maps}
    if wanted:
        folders.maps.mkdir(parents=True, exist_ok=True)
    for stem, path in wanted.items():
        before = video.maps.get(stem)
        target = folders.maps / f"{before.stem if before else stem}.png"
        write_atomically(target, encode_png(make(read_fixations(path, frames[stem]))))
        if before and before != target:
            before.unlink()  # or a frame would have two
    return len(wanted)


def compare_maps(folders: VideoFolders) -> dict[str, np.ndarray]:
    """How much one video's maps differ from each Gaussian's: its name -> each frame's largest and mean difference.

    The differences are (frames, 2), of 255.
    """
    video = open_folders(folders, need_annotation=False)
    differences = {name: [] for name in GAUSSIANS}
    for index in video.annotated() if video.fixations else ():
        stem = video.frames[index].stem
        fixations = read_fixations(video.fixations[stem], video.maps[stem])
        published = np.round(255 * read_density(video.maps[stem])).astype(int)
        check_same_size(published, fixations, video, stem)
        for name, make in GAUSSIANS.items():
            difference = np.abs(make(fixations) - published)
            differences[name].append((difference.max(), difference.mean()))
    return {name: np.array(values).reshape(-1, 2) for name, values in differences.items()}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.make_maps", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    files = parser.add_argument_group("files")
    files.add_argument("root", type=Path, metavar="FOLDER", help="the dataset's folder, in any tree of data/README.md")
    files.add_argument("--split", help="a folder below it, a list, or numbers such as 1-600 (default: every video)")
    files.add_argument("--workers", type=at_least_one, default=1, metavar="N",
                       help="videos at the same time, in a process each (default: 1)")
    what = parser.add_argument_group("what to do").add_mutually_exclusive_group(required=True)
    what.add_argument("--gaussian", choices=list(GAUSSIANS), help=f"whose maps to make; {ABOUT}")
    what.add_argument("--compare", action="store_true",
                      help="write nothing; say how far the maps that are there are from each Gaussian's")
    files.add_argument("--overwrite", action="store_true",
                       help="replace density maps that are there (default: leave them)")
    return parser


def main(args: argparse.Namespace) -> None:
    check_folder(args.root)
    videos = find_video_folders(args.root, args.split) if args.split else all_video_folders(args.root)
    if not videos:
        raise FileNotFoundError(f"no videos in {args.root}: expected one of the trees in data/README.md")
    if args.compare:
        calls = [partial(compare_maps, folders) for folders in videos]
    else:
        calls = [partial(write_maps, folders, GAUSSIANS[args.gaussian], args.overwrite) for folders in videos]
    results = []
    for result in tqdm(run_all(calls, args.workers), total=len(videos), unit="video", disable=None):
        if isinstance(result, Exception):
            raise result
        results.append(result)
    if not args.compare:
        print(f"{args.root}: {sum(results)} density maps written, in {sum(count > 0 for count in results)} of "
              f"{len(videos)} videos")
        return
    for name in GAUSSIANS:
        frames = np.concatenate([result[name] for result in results])
        found = "none has both maps"
        if len(frames):
            found = (f"largest difference {frames[:, 0].max():.0f} of 255, mean {frames[:, 1].mean():.4f}, "
                     f"{(frames[:, 0] == 0).sum()} frames equal")
        print(f"{name}: {len(frames)} frames, {found}")


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError) as error:
        parser.exit(2, f"make_maps.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "make_maps.py: interrupted; the maps written so far are whole\n")
