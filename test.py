"""Predict a dataset's saliency maps and score them. With no argument: saved_models/RecSalNet.pth on DHF1K's validation set.

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
from baselines.optical_flow import AUTO, flow_arguments
from dataloader import DATASET_FOLDERS, DATASETS, TREE, Video, dataset_folder, find_videos, inventory
from predict import (
    at_least,
    choose_precision,
    default_batch_size,
    default_weights,
    device_arguments,
    engine_arguments,
    flow_for,
    keep_freed_memory,
    load_model,
    model_argument,
    print_configuration,
    select_device,
)
from scoring.figures import figures
from scoring.methods import Method, Network, StoredMaps, check_all, remove_maps
from scoring.other_fixations import OtherFixations
from scoring.report import grouped, notes_on, report
from scoring.scorers import BASELINE, OBJECTS_PROTOCOL, ObjectScorer, Scorer, joined
from scoring.targets import BY_FIXATIONS, MASK_FRAMES, PROTOCOLS, Judged, choose_frames, find_judged

# The command line

def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", choices=list(DATASETS),
                      help="whose split names are known; folder: your own (default: dhf1k; of smcf vsod)")
    data.add_argument("--data", type=Path, metavar="FOLDER", help=f"where it lies, in any tree of data/README.md (default: {DATASET_FOLDERS})")
    data.add_argument("--split", nargs="+",
                      help="what to score, one or several, each in a run of its own: a folder below --data, a list of names (.txt), numbers such as "
                           "601-700, or all (default: val; hollywood2 and ucf-sports: testing; diem: test; vsod: TestSet/DAVIS)")
    data.add_argument("--skip-bad", action=argparse.BooleanOptionalAction, default=False,
                      help="leave out videos that cannot be read, counted and reported, instead of stopping (default: off)")
    maps = parser.add_argument_group("maps")
    model_argument(maps, nargs="+", default=None)
    source = maps.add_mutually_exclusive_group()
    source.add_argument("--weights", nargs="+", metavar="FILE",
                        help="weight file of each network, or several of one: a path, or an https URL (URL#sha256=HEX: and checked); FILE#KEY: "
                             "one of several state dicts in it; a .json beside it, or the metadata of a .safetensors file, is read for the "
                             "configuration (default: saved_models/RecSalNet.pth, or so "
                             "for the other models)")
    source.add_argument("--predictions", type=Path, nargs="+", metavar="DIR",
                        help="score the maps in DIR/VIDEO/FRAME.png, of any method and size, instead of a model's (default: none)")
    scores = parser.add_argument_group("scores")
    scores.add_argument("--protocol", choices=list(PROTOCOLS),
                        help="float: maps as the network gives them; dhf1k: as their 8-bit files hold them, SIM 0 where the density is all "
                             "zero, as the benchmark (default: float, with --predictions dhf1k; masks of salient objects have one of their own)")
    scores.add_argument("--mask-frames", choices=list(MASK_FRAMES),
                        help="which frames with a mask of salient objects count; inner: without the first and the last "
                             "frame of each sequence, as in DAVIS's own protocol (default: all)")
    scores.add_argument("--sample-frames", type=at_least(1), metavar="N",
                        help="score N annotated frames, drawn at random; the benchmark's code takes 50000. Maps are made of all frames nevertheless "
                             "(default: all)")
    scores.add_argument("--centre-baseline", action=argparse.BooleanOptionalAction,
                        help="score a Gaussian in the centre too (default: on where several methods are compared, else off)")
    scores.add_argument("--seed", type=at_least(0), default=0, help="of the frames drawn for s-AUC and --sample-frames (default: 0)")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, default=Path("results"), help="folder that holds runs (default: results)")
    output.add_argument("--method", type=run_name, nargs="+", help="name of each method in tables and folders (default: the model's class, or the "
                                                                   "last folder of --predictions)")
    output.add_argument("--run-name", type=run_name, help="name of this run: maps go to OUT/RUN_NAME/METHOD/VIDEO/FRAME.png, tables and figures to "
                                                          "OUT/RUN_NAME (default: DATA_SPLIT_METHODS_PROTOCOL)")
    output.add_argument("--overwrite", action=argparse.BooleanOptionalAction, default=False,
                        help="replace the scores of an earlier run of this name (default: off)")
    flow_arguments(parser)
    engine_arguments(parser)
    device_arguments(parser, "float32, as the paper's numbers")
    return parser


def score_videos(videos: list[Video], chosen: dict[str, list[int]], method: Method, skipped: list[str] | None) -> Iterator[tuple[Video, list[dict]]]:
    """Each video with its rows; one that cannot be read to its end is left out, own maps and all, where `skipped` is a list."""
    for video in tqdm(videos, desc=method.name, unit="video", disable=utils.hide_bar()):
        try:
            maps = method.source.maps(video, chosen[video.name], method.scorer.protocol, method.folder)
            with contextlib.closing(maps):                                 # before its files are removed
                rows = method.scorer(video, chosen[video.name], maps, method.name)
                collections.deque(maps, maxlen=0)                          # frames after the last one that is scored get maps too
            yield video, rows
        except (FileNotFoundError, ValueError) as error:
            if skipped is None:
                raise
            skipped.append(f"video {video.name}: {error}")
            if isinstance(method.source, Network):
                remove_maps(method.folder / video.name, video)


def put_together(method: Method, videos: list[Video], skipped: list[str] | None) -> None:
    """Make what this process has scored, counted and skipped what all processes have, in the order of the dataset: the same as alone."""
    utils.barrier()                                                   # one may have had much longer videos
    method.scorer.gather(videos)
    parts = utils.all_gather({"rows": {video.name: rows for video, rows in method.finished}, "skipped": skipped or []})
    rows = joined(part["rows"] for part in parts)
    if skipped is not None:                                                # those of the listing are the same in all
        skipped[:] = dict.fromkeys(reason for part in parts for reason in part["skipped"])
    method.finished = [(video, rows[video.name]) for video in videos if video.name in rows]


def run_name(text: str) -> str:
    """An argparse type: a name that can be a folder's."""
    if Path(text).name != text or text in ("", ".."):
        raise argparse.ArgumentTypeError(f"must be a name, not a path, got {text!r}; --out says where runs are")
    return text


def pair_with_weights(models: list[str], weights: list[str] | None) -> list[tuple[str, str | Path]]:
    """(model's name, its weight file), the default file where none is given; one model may have several files."""
    models = models * len(weights) if weights and len(models) == 1 else models
    if weights and len(weights) != len(models):
        raise ValueError(f"--model names {len(models)} networks and --weights {len(weights)} files: give one file for each, in the same order")
    return list(zip(models, weights or map(default_weights, models)))


def main(args: argparse.Namespace) -> None:
    models = args.model or ["recsalnet"]
    dataset = args.dataset or MODELS[models[0]].dataset
    data = dataset_folder(dataset, args.data)
    skipped = {split: [] if args.skip_bad else None for split in args.split or [DATASETS[dataset].test]}
    splits = {split: find_videos(data, split, need_annotation=False, skipped=reasons, numbers=DATASETS[dataset].numbers)
              for split, reasons in skipped.items()}                       # all are looked for before anything is computed
    for split, videos in splits.items():
        print(f"{data}, {split}: {inventory(videos)}")
    judged = {split: find_judged(videos, args.protocol, args.mask_frames) for split, videos in splits.items()}
    device = select_device(args.device)
    keep_freed_memory()

    if args.predictions and (args.model or args.precision or args.batch_size or args.compile or args.interpolate > 1 or args.frame_size):
        raise ValueError("--model, --precision, --batch-size, --compile, --interpolate and --frame-size are of a network: "
                         "they have no effect on the files of --predictions")
    sources = [StoredMaps(folder) for folder in args.predictions or []]
    if not args.predictions:
        pairs = pair_with_weights(models, args.weights)
        options = {"batch_size": args.batch_size or default_batch_size(device), "interpolate": args.interpolate}
        precision = choose_precision(args.precision or "float32", device, args.force_bfloat16)
        for name, weights in pairs:
            model = load_model(weights, device, precision, args.compile, args.frame_size, name)
            flow = flow_for(model, args.flow, args.keep_flow, args.raft_weights, device)
            sources.append(Network(model, weights, flow, **options))
            print_configuration(model, weights)
        if (args.flow != AUTO or args.raft_weights) and not any(network.flow for network in sources):
            raise ValueError(f"--flow and --raft-weights are for networks of optical flow, but {', '.join(name for name, _ in pairs)} take none")
    names = args.method or [source.name for source in sources]
    if len(names) != len(sources) or len(set(names)) < len(names) or BASELINE in names:
        raise ValueError(f"{len(sources)} methods are compared, called {', '.join(names)}: give each a name of its own with --method NAME NAME ..")

    runs = []
    for split, videos in splits.items():
        chosen = choose_frames(videos, args.sample_frames, args.seed, judged[split])
        for source in sources if args.predictions and not args.skip_bad else ():
            check_all(source, videos, chosen)
        by_fixations = args.protocol or ("dhf1k" if args.predictions else "float")
        protocol = by_fixations if judged[split] is BY_FIXATIONS else OBJECTS_PROTOCOL
        part = Path(split).stem if split.endswith(".txt") else split.replace("/", "_")
        several = part if len(splits) > 1 else ""
        folder = args.out / (f"{args.run_name}/{several}" if args.run_name else f"{data.resolve().name}_{part}_{'+'.join(names)}_{protocol}")
        folders = args.predictions or [folder / name for name in names]
        if folder in (run.folder for run in runs):
            raise ValueError(f"two of the splits {', '.join(splits)} would be written to {folder}: score them one by one, each with a --run-name")
        if not args.overwrite and utils.is_main():
            own_maps = [] if args.predictions else folders
            utils.refuse_to_replace([folder / "scores.json", *own_maps], "--overwrite allows it, --run-name NAME keeps both")
        runs.append(SplitRun(data, split, videos, judged[split], protocol, chosen, folder, dict(zip(names, folders))))

    utils.barrier()                                                   # nobody writes before the first process has looked
    about = {"dataset": dataset, "seed": args.seed, "sample_frames": args.sample_frames, "device": device.type, "hardware": utils.hardware(device),
             "precision": None if args.predictions else args.precision or "float32"}
    centre_baseline = len(sources) > 1 if args.centre_baseline is None else args.centre_baseline
    for run in runs:
        others, batch_size = OtherFixations(run.videos, args.seed, args.skip_bad), 1 if device.type == "cpu" else 16
        methods = []
        for (name, folder), source in zip(run.maps.items(), sources):
            baseline = centre_baseline and not methods                     # the first method's scorer scores it
            scorer = (Scorer(others, run.protocol, device, baseline, batch_size) if run.judged is BY_FIXATIONS
                      else ObjectScorer(baseline))
            methods.append(Method(name, source, scorer, folder))
        costs = score_split(run, methods, skipped[run.split])
        if utils.is_main():
            left_out = skipped[run.split] or []
            notes = notes_on(methods, costs, run.videos, run.judged, left_out, args.interpolate, args.frame_size)
            mask_frames = {} if run.judged is BY_FIXATIONS else {"mask_frames": args.mask_frames or "all"}
            write_results(run, methods, {"methods": costs, "notes": notes, "skipped": left_out, **mask_frames, **about})


@dataclass(frozen=True)
class SplitRun:
    """What is scored of a split, and where its results go.

    Attributes:
        data, split, videos: the dataset's folder, and what of it.
        judged, protocol: by what, and how.
        chosen: of `choose_frames`.
        folder: of tables and figures.
        maps: method -> folder of its maps, in the order of the sources.
    """
    data: Path
    split: str
    videos: list[Video]
    judged: Judged
    protocol: str
    chosen: dict[str, list[int]]
    folder: Path
    maps: dict[str, Path]


def score_split(run: SplitRun, methods: list[Method], skipped: list[str] | None) -> dict[str, dict]:
    """Make and score all methods' maps of a split, shared out between processes; returns what each is and costs."""
    share = run.videos[utils.rank()::utils.world_size()]
    for method in methods:
        method.finished = list(score_videos(share, run.chosen, method, skipped))
        put_together(method, run.videos, skipped)
    common = set.intersection(*({video.name for video, _ in method.finished} for method in methods))
    for method in methods:                                                 # scores of different frames cannot be compared
        method.finished = [(video, rows) for video, rows in method.finished if video.name in common]
    return {method.name: {**method.source.details, **method.source.speed()} for method in methods}


def write_results(run: SplitRun, methods: list[Method], details: dict) -> None:
    """Tables and figures of a split that is scored; `details` are for the report."""
    networks = isinstance(methods[0].source, Network)
    for method in methods if networks else ():
        print(f"maps of {sum(len(video.frames) for video, _ in method.finished)} frames of {len(method.finished)} videos in {method.folder}")
    rows = [row for method in methods for _, rows_of_one in method.finished for row in rows_of_one]
    rows.sort(key=lambda row: row["method"] == BASELINE)                   # it comes last
    if not rows:
        if not methods[0].finished:
            raise ValueError(f"every video of {run.data / run.split} was skipped: {' / '.join(details['skipped'])}")
        message = (f"no annotation in {run.data / run.split}: nothing to score. A frame is scored that has a density map and a fixation "
                   f"map (a density map, where its video has no fixation maps), or a mask; {TREE}")
        if not networks:
            raise ValueError(message)
        print(message)                                                     # maps were predicted, of a set without annotation
        return
    print(report(rows, run.folder, {
        "data": str(run.data), "split": run.split, "protocol": run.protocol, "protocol_means": methods[0].source.protocols[run.protocol],
        **details, "revision": utils.revision(), "versions": utils.versions(), "date": utils.now(), "other_frames": methods[0].scorer.drawn,
    }, run.judged))
    title = f"{', '.join(run.maps)}, {run.data}, split {run.split}, protocol {run.protocol}"
    drawn = figures(grouped(rows, "method"), run.videos, run.maps, run.folder, title, run.judged)
    print(f"written to {run.folder}: {', '.join(['scores.json', 'scores.md', 'per_video.csv', 'per_frame.csv', *drawn])}")


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
