"""Predict a dataset's saliency maps and score them; by default saved_models/RecSalNet.pth on DHF1K's validation set.

    python test.py
    python test.py --data data/sample --weights saved_models/demo/RecSalNet.pth --centre-baseline
    python test.py --data data/DHF1K --predictions some_methods_maps        # a folder of maps, no model
    python test.py --model recsalnet tased_net salema                       # several, in one table and one figure
    torchrun --nproc-per-node 4 test.py                                     # on 4 GPUs, the same table
"""
import argparse
import collections
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

import utils
from baselines import MODELS
from baselines.loading import OWN_DATASETS, default_weights, flow_for, load_model, model_argument, print_configuration
from prediction.engine import default_batch_size, engine_arguments
from saliency_model import EngineOptions
from scoring.figures import draw_figures
from scoring.methods import MapSource, Method, Network, StoredMaps
from scoring.report import grouped, notes_on, report
from scoring.scorers import BASELINE, merged
from scoring.targets import FixationTarget, MaskTarget, ScoringTarget, choose_frames, find_target
from utils import at_least, choose_precision, device_arguments, keep_freed_memory, select_device
from videos.check import inventory
from videos.optical_flow import AUTO, flow_arguments
from videos.splits import DATASET_FOLDERS, DATASETS, dataset_folder, of_datasets
from videos.trees import TREE
from videos.video import Video, find_videos

# The command line

def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=list(DATASETS),
                      help="whose split names are known; folder: your own "
                           f"({OWN_DATASETS})")
    data.add_argument("--data", type=Path, metavar="FOLDER",
                      help=f"its folder, in any tree of data/README.md (default: {DATASET_FOLDERS})")
    data.add_argument("--split", nargs="+",
                      help="what to score, one or several, each in a run of its own: a folder below --data, a list of "
                           f"names (.txt), numbers such as 601-700, or all ({of_datasets('test')})")
    data.add_argument("--skip-bad", action=argparse.BooleanOptionalAction, default=False,
                      help="leave out videos that cannot be read, counted and reported, instead of stopping "
                           "(default: off)")
    maps = parser.add_argument_group("maps")
    model_argument(maps, nargs="+", default=None)
    source = maps.add_mutually_exclusive_group()
    source.add_argument("--weights", nargs="+", metavar="FILE",
                        help="weight file of each network, or several of one: a path, or an https URL (URL#sha256=HEX: "
                             "and checked); FILE#KEY: one of several state dicts in it; a .json beside it, or the "
                             "metadata of a .safetensors file, is read for the configuration (default: "
                             "saved_models/RecSalNet.pth, or likewise for the other networks; recsal_lite's is "
                             "included)")
    source.add_argument("--predictions", type=Path, nargs="+", metavar="DIR",
                        help="score the maps in DIR/VIDEO/FRAME.png, of any method and size, instead of a network's "
                             "(default: none)")
    scores = parser.add_argument_group("scores")
    scores.add_argument("--protocol", choices=FixationTarget.protocols,
                        help="float: maps as the network gives them; dhf1k: as their 8-bit files hold them, SIM 0 "
                             "where the density is all zero, as the benchmark (default: float, with --predictions "
                             "dhf1k; masks of salient objects have one of their own)")
    scores.add_argument("--mask-frames", choices=MaskTarget.choices,
                        help="which frames with a mask of salient objects count; inner: without the first and the last "
                             "frame of each sequence, as in DAVIS's own protocol (default: all)")
    scores.add_argument("--sample-frames", type=at_least(1), metavar="N",
                        help="score N annotated frames, drawn at random; the benchmark's code takes 50000. Maps are "
                             "made of all frames nevertheless (default: all)")
    scores.add_argument("--centre-baseline", action=argparse.BooleanOptionalAction,
                        help="score a Gaussian in the centre too (default: on where several methods are compared, else "
                             "off)")
    scores.add_argument("--seed", type=at_least(0), default=0,
                        help="of the frames drawn for s-AUC and --sample-frames (default: 0)")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("results"), help="folder that holds runs (default: results)")
    output.add_argument("--method", type=run_name, nargs="+",
                        help="name of each method in tables and folders (default: the model's class, or the last "
                             "folder of --predictions)")
    output.add_argument("--run-name", type=run_name,
                        help="name of this run: maps go to OUT/RUN_NAME/METHOD/VIDEO/FRAME.png, tables and figures to "
                             "OUT/RUN_NAME (default: DATA_SPLIT_METHODS_PROTOCOL)")
    output.add_argument("--overwrite", action=argparse.BooleanOptionalAction, default=False,
                        help="replace the scores of an earlier run of this name (default: off)")
    flow_arguments(parser)
    engine_arguments(parser)
    device_arguments(parser, "float32, as the paper's numbers")
    return parser


def run_name(text: str) -> str:
    """An argparse type: a name that can be a folder's."""
    if Path(text).name != text or text in ("", ".."):
        raise argparse.ArgumentTypeError(f"must be a name, not a path, got {text!r}; --out says where runs are")
    return text


def pair_with_weights(models: list[str], weights: list[str] | None) -> list[tuple[str, str | Path]]:
    """(model's name, its weight file), the default file where none is given; one model may have several files."""
    models = models * len(weights) if weights and len(models) == 1 else models
    if weights and len(weights) != len(models):
        raise ValueError(f"--model names {len(models)} networks and --weights {len(weights)} files: "
                         "give one file for each, in the same order")
    return list(zip(models, weights or map(default_weights, models)))


def main(args: argparse.Namespace) -> None:
    # What is scored, and against what: all of it is looked for before anything is computed.
    models = args.model or ["recsalnet"]
    dataset = args.dataset or MODELS[models[0]].dataset
    data = dataset_folder(dataset, args.data)
    skipped = {split: [] if args.skip_bad else None for split in args.split or DATASETS[dataset].scored()}
    splits = {split: find_videos(data, split, need_annotation=False, skipped=reasons, numbers=DATASETS[dataset].numbers)
              for split, reasons in skipped.items()}
    for split, videos in splits.items():
        print(f"{data}, {split}: {inventory(videos)}")
    default_protocol = (StoredMaps if args.predictions else Network).default_protocol
    targets = {split: find_target(videos, args.protocol, args.mask_frames, default_protocol)
               for split, videos in splits.items()}
    device = select_device(args.device)
    keep_freed_memory()

    # Where maps come from.
    if args.predictions and (args.model or args.precision or args.batch_size or args.compile or args.interpolate > 1
                             or args.frame_size):
        raise ValueError("--model, --precision, --batch-size, --compile, --interpolate and --frame-size are of a "
                         "network: they have no effect on the files of --predictions")
    sources: list[MapSource] = [StoredMaps(folder) for folder in args.predictions or []]
    if not args.predictions:
        pairs = pair_with_weights(models, args.weights)
        precision = choose_precision(args.precision or "float32", device, args.force_bfloat16)
        for name, weights in pairs:
            model = load_model(weights, device, precision, args.compile, args.frame_size, name)
            flow = flow_for(model, args.flow, args.keep_flow, args.raft_weights, device)
            options = EngineOptions(args.batch_size or default_batch_size(model), args.interpolate)
            sources.append(Network(model, weights, flow, options))
            print_configuration(model, weights)
        if (args.flow != AUTO or args.raft_weights) and not any(network.flow for network in sources):
            raise ValueError("--flow and --raft-weights are for networks of optical flow, but "
                             f"{', '.join(name for name, _ in pairs)} take none")
    names = args.method or [source.name for source in sources]
    if len(names) != len(sources) or len(set(names)) < len(names) or BASELINE in names:
        raise ValueError(f"{len(sources)} methods are compared, called {', '.join(names)}: give each a name of its own "
                         "with --method NAME NAME ..")

    # One run for each split, in a folder of its own.
    runs = []
    for split, videos in splits.items():
        target = targets[split]
        chosen = choose_frames(videos, args.sample_frames, args.seed, target)
        for source in () if args.skip_bad else sources:
            source.check(videos, chosen)
        part = Path(split).stem if split.endswith(".txt") else split.replace("/", "_")
        default_name = f"{data.resolve().name}_{part}_{'+'.join(names)}_{target.protocol}"
        folder = args.out / (args.run_name or default_name) / (part if args.run_name and len(splits) > 1 else "")
        if folder in (run.folder for run in runs):
            raise ValueError(f"two of the splits {', '.join(splits)} would be written to {folder}: "
                             "score them one by one, each with a --run-name")
        maps = {name: source.folder_of_maps(folder / name) for name, source in zip(names, sources)}
        if not args.overwrite and utils.is_main():
            written = [maps[name] for name, source in zip(names, sources) if source.writes_maps]
            utils.refuse_to_replace([folder / "scores.json", *written],
                                    "--overwrite allows it, --run-name NAME keeps both")
        runs.append(SplitRun(data, split, videos, skipped[split], target, chosen, folder, maps))
    utils.barrier()  # nobody writes before the main process has looked

    # Maps, scores, report.
    about = {"dataset": dataset, "seed": args.seed, "sample_frames": args.sample_frames, "device": device.type,
             "hardware": utils.hardware(device), "precision": None if args.predictions else args.precision or "float32"}
    baseline = len(sources) > 1 if args.centre_baseline is None else args.centre_baseline
    for run in runs:
        scorers = run.target.scorers(len(sources), run.videos, device, args.seed, args.skip_bad, baseline)
        methods = [Method(name, source, scorer, folder)
                   for (name, folder), source, scorer in zip(run.maps.items(), sources, scorers)]
        costs = score_split(run, methods)
        if utils.is_main():
            skipped_here = run.skipped or []
            notes = notes_on(methods, costs, run.videos, run.target, skipped_here, args.interpolate, args.frame_size)
            about_methods = {name: {**method.source.details, **costs[name]} for name, method in zip(costs, methods)}
            write_results(run, methods, {"methods": about_methods, "notes": notes, "skipped": skipped_here,
                                         **run.target.details, **about})


@dataclass(frozen=True)
class SplitRun:
    """What is scored of a split, and where its results go.

    Attributes:
        data, split, videos: the dataset's folder, and what of it.
        skipped: reasons why videos were left out, added to as they come up; None if the first one is to stop the run.
        target: what maps are scored against.
        chosen: of `choose_frames`.
        folder: of tables and figures.
        maps: method -> folder of its maps, in the order of the sources.
    """
    data: Path
    split: str
    videos: list[Video]
    skipped: list[str] | None
    target: ScoringTarget
    chosen: dict[str, list[int]]
    folder: Path
    maps: dict[str, Path]


def score_split(run: SplitRun, methods: list[Method]) -> dict[str, dict]:
    """Make and score all methods' maps, each process those of its share of the videos; returns each method's costs."""
    share = run.videos[utils.rank()::utils.world_size()]
    for method in methods:
        method.finished = list(score_videos(share, run.chosen, method, run.skipped))
        gather_finished(method, run.videos, run.skipped)
    common = set.intersection(*({video.name for video, _ in method.finished} for method in methods))
    for method in methods:  # scores of different frames cannot be compared
        method.finished = [(video, rows) for video, rows in method.finished if video.name in common]
    return {method.name: method.source.costs() for method in methods}


def score_videos(videos: list[Video], chosen: dict[str, list[int]], method: Method,
                 skipped: list[str] | None) -> Iterator[tuple[Video, list[dict]]]:
    """Each video with its rows; one that cannot be read to its end is left out with its maps if `skipped` is a list."""
    for video in tqdm(videos, desc=method.name, unit="video", disable=utils.hide_bar()):
        try:
            maps = method.source.maps(video, chosen[video.name], method.scorer.protocol, method.folder)
            with contextlib.closing(maps):         # before its files are removed
                rows = method.scorer(video, chosen[video.name], maps, method.name)
                collections.deque(maps, maxlen=0)  # frames after the last one that is scored get maps too
            yield video, rows
        except (FileNotFoundError, ValueError) as error:
            if skipped is None:
                raise
            skipped.append(f"video {video.name}: {error}")
            method.source.discard(method.folder, video)


def gather_finished(method: Method, videos: list[Video], skipped: list[str] | None) -> None:
    """All-gather what the processes have scored, counted and skipped: the same, in the same order, as of one alone."""
    utils.barrier()  # one may have had much longer videos
    method.scorer.gather(videos)
    parts = utils.all_gather({"rows": {video.name: rows for video, rows in method.finished}, "skipped": skipped or []})
    rows = merged(part["rows"] for part in parts)
    if skipped is not None:  # those of the listing are the same in all processes
        skipped[:] = dict.fromkeys(reason for part in parts for reason in part["skipped"])
    method.finished = [(video, rows[video.name]) for video in videos if video.name in rows]


def write_results(run: SplitRun, methods: list[Method], details: dict) -> None:
    """Write the tables and figures of a split that is scored; `details` are for the report."""
    for method in methods:
        if method.source.writes_maps:
            frames = sum(len(video.frames) for video, _ in method.finished)
            print(f"maps of {frames} frames of {len(method.finished)} videos in {method.folder}")
    rows = [row for method in methods for _, of_video in method.finished for row in of_video]
    rows.sort(key=lambda row: row["method"] == BASELINE)  # it comes last
    source = methods[0].source
    if not rows:
        if not methods[0].finished:
            raise ValueError(f"every video of {run.data / run.split} was skipped: {' / '.join(details['skipped'])}")
        message = (f"no annotation in {run.data / run.split}: nothing to score. A frame is scored that has a density "
                   f"map and a fixation map (a density map, where its video has no fixation maps), or a mask; {TREE}")
        if not source.writes_maps:
            raise ValueError(message)
        print(message)  # all the same: maps were made
        return
    protocol = run.target.protocol
    print(report(rows, run.folder, {
        "data": str(run.data), "split": run.split, "protocol": protocol, "protocol_means": source.protocols[protocol],
        **details, "revision": utils.revision(), "versions": utils.versions(), "date": utils.now(),
        "other_frames": methods[0].scorer.drawn,
    }, run.target))
    title = f"{', '.join(run.maps)}, {run.data}, split {run.split}, protocol {protocol}"
    drawn = draw_figures(grouped(rows, "method"), run.videos, run.maps, run.folder, title, run.target)
    files = ["scores.json", "scores.md", "per_video.csv", "per_frame.csv", *drawn]
    print(f"written to {run.folder}: {', '.join(files)}")


if __name__ == "__main__":
    parser = arguments()
    try:
        given = parser.parse_args()
        with utils.process_group(given.device):
            main(given)
    except (OSError, ValueError, ModuleNotFoundError, torch.cuda.OutOfMemoryError) as error:
        parser.exit(2, f"test.py: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "test.py: interrupted; the maps written so far are whole\n")
