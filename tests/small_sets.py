"""Small sets of videos, written frame by frame, and what is in them."""

import cv2
import numpy as np
import scipy.io
import torch
from hypothesis import HealthCheck, settings
from PIL import Image

import dataloader
from dataloader import ClipDataset
from videos.video import find_videos


def prepare(frame):
    return torch.from_numpy(frame).permute(2, 0, 1).float()


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_video(folder, numbers, annotated=None, name="{:04d}"):
    """Frames whose red channel is their number, 6 x 8, and annotation for some of them."""
    for number in numbers:
        frame = np.zeros((6, 8, 3), np.uint8)
        frame[..., 0] = number
        write(folder / "images" / f"{name.format(number)}.png", frame)
    for number in numbers if annotated is None else annotated:
        fixations = np.zeros((6, 8), np.uint8)
        fixations[number % 6, number % 8] = 255
        write(folder / "maps" / f"{name.format(number)}.png", np.full((6, 8), number, np.uint8))
        write(folder / "fixation" / f"{name.format(number)}.png", fixations)
    return folder


def dataset(root, split="train", **options):
    return ClipDataset(find_videos(root, split), prepare, **options)


def numbers_of(sample):
    """The numbers of a clip's frames, from its red channel."""
    return sample["clip"][0, :, 0, 0].int().tolist()


LAYOUTS = {                                                                # frame, density map and fixation map f of video v of a split
    "RecSal-Net": ("{split}/{v:04d}/images/{f:04d}.png", "{split}/{v:04d}/maps/{f:04d}.png", "{split}/{v:04d}/fixation/{f:04d}.png"),
    "ViNet": ("{split}/{v:03d}/images/{f:03d}.jpg", "{split}/{v:03d}/maps/{f:03d}.png", "{split}/{v:03d}/fixations/{f:03d}.png"),
    "TASED-Net": ("video/{v:04d}/{f:04d}.png", "annotation/{v:04d}/maps/{f:04d}.png", "annotation/{v:04d}/fixation/{f:04d}.png"),
    "TASED-Net with .mat": ("video/{v:04d}/{f:04d}.png", "annotation/{v:04d}/maps/{f:04d}.png", "annotation/{v:04d}/fixation/maps/{f:04d}.mat"),
    "TASED-Net with three digits": ("video/{v:03d}/{f:03d}.png", "annotation/{v:04d}/maps/{f:04d}.png", "annotation/{v:04d}/fixation/{f:04d}.png"),
    "UNISAL": ("annotation/{v:04d}/images/{f:04d}.png", "annotation/{v:04d}/maps/{f:04d}.png", "annotation/{v:04d}/fixation/{f:04d}.png"),
    "STSANet": ("frames/{v:03d}/{f:04d}.jpg", "annotation/{v:04d}/maps/{f:04d}.png", "annotation/{v:04d}/fixations/{f:04d}.png"),
    "SalEMA": ("frames/{v}/{f:04d}.png", "maps/{v}/{f:04d}.png", "fixations/{v}/{f:04d}.png"),
    "SalEMA in folders": ("{split}/frames/{v}/{f}.png", "{split}/maps/{v}/{f}.png", "{split}/fixation/{v}/maps/{f}.mat"),
}


def write_frame(root, layout, number, frame_number, **words):
    """One frame of a layout, its red channel and density map the frame's number, its one fixation in row f % 6, column v % 8."""
    frame, density, fixations = (root / pattern.format(v=number, f=frame_number, **words) for pattern in layout)
    write(frame.with_suffix(".png"), np.full((6, 8, 3), frame_number, np.uint8))
    frame.with_suffix(".png").rename(frame)                                # a .jpg with PNG inside reads as its content says, losslessly
    if density:
        write(density.with_suffix(".png"), np.full((6, 8), frame_number, np.uint8))
        density.with_suffix(".png").rename(density)
        write_fixations(fixations, [(frame_number % 6, number % 8)])


def write_fixations(path, points, variable="I"):
    fixations = np.zeros((6, 8), np.uint8)
    for point in points:
        fixations[point] = 1 if path.suffix == ".mat" else 255
    if path.suffix != ".mat":
        return write(path, fixations)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {variable: fixations})


def write_layout(root, layout, videos, frames=(1, 2, 3)):
    for split, numbers in videos.items():
        for number in numbers:
            for frame_number in frames:
                write_frame(root, layout, number, frame_number, split=split)


def write_mask(path, column=0):
    """A mask of 6 x 8 whose object is one column."""
    mask = np.zeros((6, 8), np.uint8)
    mask[:, column] = 255
    write(path, mask)


def make_masked(frames, masks, stems, masked=None, name="{}"):
    """Frames whose red channel is their position, .jpg in name only, and masks whose object is the column of that number."""
    for number, stem in enumerate(stems):
        write(frames / f"{name.format(stem)}.png", np.full((6, 8, 3), number, np.uint8))
        (frames / f"{name.format(stem)}.png").rename(frames / f"{name.format(stem)}.jpg")
        if masked is None or stem in masked:
            write_mask(masks / f"{name.format(stem)}.png", number)


def make_vsod(root, masks="ground-truth", flow=True):
    """Two test sets, stills and videos to train on, with folders of flow that are not read."""
    for folder, sequences in (("TestSet/DAVIS", ("blackswan", "cows")), ("TestSet/FBMS", ("cars1",))):
        for sequence in sequences:
            make_masked(root / folder / sequence / "Frame", root / folder / sequence / masks, ["00000", "00001", "00002"], name=sequence + "_{}")
    make_masked(root / "TrainSet_RGB" / "Imgs", root / "TrainSet_RGB" / "GTs", ["ILSVRC2012_test_00000004", "ILSVRC2012_test_00000022", "sun_abc", "7"])
    make_masked(root / "TrainSet_Video" / "Imgs", root / "TrainSet_Video" / "ground-truth", ["bear_00000", "bear_00001", "dog-agility_00000"])
    for folder in ("TestSet/DAVIS/blackswan/OF_FlowNet2", "TestSet/FBMS/cars1/Flow", "TrainSet_Video/Flow") if flow else ():
        write(root / folder / "bear_00000.png", np.zeros((6, 8, 3), np.uint8))
        (root / folder / "flow.flo").touch()
    return root


SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def cut(path):
    path.write_bytes(path.read_bytes()[:30])


def make_checked_video(folder):
    """Six frames with maps that are not constant: nothing is wrong with it."""
    make_video(folder, range(1, 7))
    for path in (folder / "maps").iterdir():
        write(path, np.arange(48, dtype=np.uint8).reshape(6, 8))
    return folder


def check(capsys, *flags):
    code = dataloader.main(dataloader.arguments().parse_args(["check", *map(str, flags)]))
    return code, capsys.readouterr().out


def shrink(frame):
    return torch.from_numpy(cv2.resize(frame, (4, 3), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)


def resized(frame):
    return torch.from_numpy(frame[::4, ::4].copy()).permute(2, 0, 1)
