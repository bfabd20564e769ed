"""What the tests of scores share: small sets, maps, and runs of test.py on them."""
import csv
import json
import shutil

import numpy as np
from PIL import Image

import test as evaluation
from loss import MEASURES
from videos.video import find_videos


def run(data, weights, out, *flags):
    return evaluation.main(evaluation.arguments().parse_args(["--data", str(data), "--weights", str(weights), "--out", str(out), "--device", "cpu", *flags]))


def score_files(data, maps, out, *flags):
    folders = map(str, maps if isinstance(maps, tuple) else (maps,))
    return evaluation.main(evaluation.arguments().parse_args(["--data", str(data), "--predictions", *folders, "--out", str(out), "--device", "cpu", *flags]))


def row(video, **values):
    return {"method": "M", "video": video, "frame": "0001", **dict.fromkeys(MEASURES, 0.0), **values}


def make_fixations(folder, points, size=(4, 8)):
    for number, (y, x) in enumerate(points, start=1):
        fixations = np.zeros(size, np.uint8)
        fixations[y, x] = 255
        for kind, content in (("images", np.zeros((*size, 3), np.uint8)), ("maps", fixations), ("fixation", fixations)):
            path = folder / kind / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)


def scores_of(row):
    return {name: row[name] for name in MEASURES}


def frame_scores(folder):
    """(video, frame) -> measures, as written."""
    with (folder / "per_frame.csv").open() as file:
        return {(r["video"], r["frame"]): {name: float(r[name] or "nan") for name in MEASURES} for r in csv.DictReader(file) if r["method"] != "centre Gaussian"}


def small_set(root, frames=4, size=(12, 16), fixation=True):
    """Two videos of small frames with a blob of density that moves, its peak fixated; the density maps are good predictions."""
    for name in ("a", "b"):
        for number in range(1, frames + 1):
            density = np.zeros(size, np.uint8)
            density[number:number + 3, number + 2:number + 5] = 100
            density[number + 1, number + 3] = 255
            pictures = {"images": np.stack([density] * 3, axis=2), "maps": density, **({"fixation": np.where(density == 255, 255, 0)} if fixation else {})}
            for kind, picture in pictures.items():
                path = root / "val" / name / kind / f"{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.astype(np.uint8)).save(path)
    return root


def score_small(data, maps, out, *flags):
    """scores.json of maps, here the density maps themselves."""
    score_files(data, maps, out, "--run-name", "a", "--overwrite", "--dataset", "folder", *flags)
    return json.loads((out / "a" / "scores.json").read_text())


def density_as_maps(data, folder):
    for video in (data / "val").iterdir():
        shutil.copytree(video / "maps", folder / video.name)
    return folder


def save_maps(dataset, folder, draw):
    """draw(video, index) -> picture, as prediction of every frame."""
    for video in find_videos(dataset, "val"):
        (folder / video.name).mkdir(parents=True)
        for index, frame in enumerate(video.frames):
            Image.fromarray(draw(video, index)).save(folder / video.name / f"{frame.stem}.png")


def union_of(others, video, index, size=(4, 8)):
    return others.union(others.draw(video, index), size)
