import functools
import itertools
import json
import os
import re
import shutil
import signal
import types
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from conftest import TESTS, grey_frames, write_video
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import dataloader
from dataloader import (
    DATASETS,
    ClipDataset,
    EpochBatches,
    FrameCache,
    Video,
    VideoBatches,
    VideoClips,
    check_dataset,
    clip_loader,
    find_videos,
    imresize,
    move_fixations,
    open_video,
    readable,
    resize_density,
)
from videos import images
from videos.annotation import read_density, read_fixations, read_mask
from videos.decoding import read_video
from videos.images import read_frame


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


# What is wrong on disk is said

def test_no_dataset_no_split_and_an_empty_split_are_said_with_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dataset .*nowhere.*make_sample.py"):
        find_videos(tmp_path / "nowhere", "train")
    make_video(tmp_path / "train" / "0001", [1])
    with pytest.raises(FileNotFoundError, match='no split "val".*holds train'):
        find_videos(tmp_path, "val")
    (tmp_path / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="no videos in .*val"):
        find_videos(tmp_path, "val")


def test_a_folder_without_frames_is_an_error(tmp_path):
    (tmp_path / "train" / "0001" / "images").mkdir(parents=True)
    (tmp_path / "train" / "0002").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no frames in .*0001.*it holds no images"):
        open_video(tmp_path / "train" / "0001")
    (tmp_path / "train" / "0002" / "frames").mkdir()
    with pytest.raises(FileNotFoundError, match="no frames of video 0002: .*images does not exist .*0002 holds frames.; expected tree"):
        open_video(tmp_path / "train" / "0002")


def test_a_missing_frame_is_an_error_that_names_its_neighbours(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing frame in .*: 0005.png follows 0003.png"):
        open_video(make_video(tmp_path / "v", [2, 3, 5]))


def test_two_frames_of_one_name_are_an_error(tmp_path):
    folder = make_video(tmp_path / "v", [1, 2])
    write(folder / "images" / "0002.jpg", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"two frames share a name"):
        open_video(folder)


def test_two_annotations_of_one_frame_are_an_error(tmp_path):
    folder = make_video(tmp_path / "v", [1])
    write(folder / "maps" / "0001.jpg", np.zeros((6, 8), np.uint8))
    with pytest.raises(ValueError, match=r"two density maps share a name in .*maps: 0001.jpg and 0001.png"):
        open_video(folder)


def test_images_of_sixteen_bits_are_refused_rather_than_clipped(tmp_path):
    write(tmp_path / "a.png", np.full((4, 4), 40000, np.uint16))
    with pytest.raises(ValueError, match="expected 8 bits"):
        read_density(tmp_path / "a.png")


def test_annotation_without_frame_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"annotation without frame in video .*: 2 files, the first .*maps/0003.png; .* holds 2 frames, 0001.png to 0002.png"):
        open_video(make_video(tmp_path / "v", [1, 2], annotated=[1, 2, 3]))


def test_a_video_without_annotation_is_an_error_only_where_it_is_needed(tmp_path):
    folder = make_video(tmp_path / "v", [1, 2], annotated=[])
    with pytest.raises(FileNotFoundError, match="no annotation for video .*use predict.py"):
        open_video(folder)
    assert open_video(folder, need_annotation=False).annotated() == []


def test_bad_videos_are_left_out_and_listed_where_asked_for(tmp_path):
    make_video(tmp_path / "train" / "0001", [1, 2])
    make_video(tmp_path / "train" / "0002", [1, 3])
    skipped = []
    assert [v.name for v in find_videos(tmp_path, "train", skipped=skipped)] == ["0001"]
    assert len(skipped) == 1 and "0002" in skipped[0]
    shutil.rmtree(tmp_path / "train" / "0001")
    with pytest.raises(FileNotFoundError, match="no usable video.*all 1 were skipped"):
        find_videos(tmp_path, "train", skipped=[])


def test_an_unreadable_frame_is_an_error_with_its_path_or_a_counted_skip(tmp_path):
    folder = make_video(tmp_path / "train" / "0001", range(1, 5))
    path = folder / "images" / "0002.png"
    path.write_bytes(path.read_bytes()[:40])                               # an interrupted download
    for workers in (0, 1):                                                 # a loader process must not wrap it in its traceback
        with pytest.raises(ValueError, match=r"^cannot read image .*0002.png \(40 bytes\).*--skip-bad$"):
            list(readable(clip_loader(dataset(tmp_path, clip_len=4), 1, workers, shuffle=False)))
    batch, = readable(clip_loader(dataset(tmp_path, clip_len=4, skip_bad=True), 1, 0, shuffle=False))
    assert list(batch) == ["skipped"] and "0002.png" in batch["skipped"][0]


def test_maps_of_two_sizes_are_an_error(tmp_path):
    folder = make_video(tmp_path / "train" / "0001", [1])
    write(folder / "maps" / "0001.png", np.zeros((3, 4), np.uint8))
    assert re.search("differ in size.*3 x 4.*6 x 8", dataset(tmp_path, clip_len=1)[0, 0]["skipped"])


# Finding and pairing

def test_videos_and_frames_come_in_natural_order_and_numbers_may_start_anywhere(tmp_path):
    for name in ("10", "9"):
        make_video(tmp_path / "train" / name, [9, 10, 11], name="shot_{}")
    videos = find_videos(tmp_path, "train")
    assert [v.name for v in videos] == ["9", "10"]
    assert [p.stem for p in videos[0].frames] == ["shot_9", "shot_10", "shot_11"]


def test_annotation_is_paired_by_stem(tmp_path):
    video = open_video(make_video(tmp_path / "v", [1, 2, 3, 4], annotated=[2, 4]))
    assert video.annotated() == [1, 3]
    assert video.maps["0004"].name == "0004.png"


@pytest.mark.parametrize("place", ["fixation/0001.mat", "fixation/maps/0001.mat", "fixations/0001.png"])
def test_fixations_are_found_as_png_or_mat_wherever_datasets_keep_them(tmp_path, place):
    folder = make_video(tmp_path / "v", [1])
    path = folder / "fixation" / "0001.png"
    expected = read_fixations(path)
    target = folder / place
    target.parent.mkdir(parents=True, exist_ok=True)
    if place.endswith(".mat"):
        scipy.io.savemat(target, {"I": expected.astype(np.uint8)})
        path.unlink()
    else:
        path.rename(target)
    video = open_video(folder)
    assert video.fixations["0001"] == target
    assert np.array_equal(read_fixations(target), expected)


@pytest.mark.parametrize("content, said", [({"other": np.zeros((2, 2))}, "no variable I"), ({"I": np.zeros((2, 2, 2))}, r"shape \(2, 2, 2\)"), ({"I": "text"}, "must be a fixation map")])
def test_a_mat_file_without_a_fixation_map_is_an_error(tmp_path, content, said):
    scipy.io.savemat(tmp_path / "a.mat", content)
    with pytest.raises(ValueError, match=said):
        read_fixations(tmp_path / "a.mat")


def test_a_video_of_an_unknown_codec_is_an_error(tmp_path):
    path = write_video(tmp_path / "a.avi", grey_frames(4), codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ").replace(b"fmp4", b"zzzz"))
    with pytest.raises(ValueError, match="no frame could be decoded from .*a.avi: its pictures are of a kind"):
        list(read_video(path))


@pytest.mark.parametrize("name", ["a.png", "a.mat", "a.avi"])
def test_a_picture_that_claims_to_be_huge_is_refused_before_memory_is_taken(tmp_path, monkeypatch, name):
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 64 - 1)
    path = tmp_path / name
    if name == "a.mat":
        scipy.io.savemat(path, {"I": np.zeros((48, 64), np.uint8)})
    elif name == "a.avi":
        write_video(path, grey_frames(2), codec="mpeg4")
    else:
        write(path, np.zeros((48, 64), np.uint8))
    read = {"a.mat": read_fixations, "a.png": read_density, "a.avi": lambda path: list(read_video(path))}[name]
    with pytest.raises(ValueError, match=r"claims .* pixels .H x W., more than the 3071"):
        read(path)


def test_a_damaged_mat_file_is_an_error(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(100))
    with pytest.raises(ValueError, match="cannot read fixation map"):
        read_fixations(tmp_path / "a.mat")


# Datasets as they lie on disk

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


def assert_is(video, number, frames=(1, 2, 3)):
    """The frames of a video come in order, each with its own annotation."""
    assert [int(read_frame(path)[0, 0, 0]) for path in video.frames] == list(frames)
    assert video.annotated() == list(range(len(frames)))
    for path, frame_number in zip(video.frames, frames):
        assert round(255 * read_density(video.maps[path.stem])[0, 0]) == frame_number
        assert np.argwhere(read_fixations(video.fixations[path.stem])).tolist() == [[frame_number % 6, number % 8]]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tree_of_dhf1k_is_recognised_with_its_splits(tmp_path, name):
    write_layout(tmp_path, LAYOUTS[name], {"train": [2, 10, 600], "val": [601]})
    numbers = DATASETS["dhf1k"].numbers
    found = {split: find_videos(tmp_path, split, numbers=numbers) for split in ("train", "val", "all")}
    assert {split: [int(video.name) for video in videos] for split, videos in found.items()} == {
        "train": [2, 10, 600], "val": [601], "all": [2, 10, 600, 601]}
    for videos in found.values():
        for video in videos:
            assert_is(video, int(video.name))
    assert [int(video.name) for video in find_videos(tmp_path, "10-601")] == [10, 600, 601]
    with pytest.raises(FileNotFoundError, match=r'no split "test" in .*"all" takes all 4 videos, 0*2 to 0*601, "601-700" those with these numbers'):
        find_videos(tmp_path, "test", numbers=numbers)


@pytest.mark.parametrize("names", [("training", "testing"), ("train", "test")])
def test_lists_have_either_usual_name(tmp_path, names):
    write_layout(tmp_path, LAYOUTS["SalEMA"], {"": [1, 2]})
    for number, name in enumerate(names, start=1):
        (tmp_path / f"{name}.txt").write_text(f"{number}\n")
    for split, number in (("train", "1"), ("training", "1"), ("test", "2"), ("testing", "2")):
        assert [video.name for video in find_videos(tmp_path, split)] == [number]
    assert [split["split"] for split in check_dataset(tmp_path)["splits"]] == sorted(names)


def test_a_list_does_not_choose_between_two_videos_of_one_name(tmp_path):
    write_layout(tmp_path, LAYOUTS["RecSal-Net"], {"train": [1], "val": [1, 2]})
    (tmp_path / "mine.txt").write_text("0001\n")
    with pytest.raises(ValueError, match="share their name"):
        find_videos(tmp_path, "mine.txt")
    (tmp_path / "mine.txt").write_text("0002\n")
    assert len(find_videos(tmp_path, "mine.txt")) == 1


def test_folders_that_are_no_splits_do_not_hide_those_that_are(tmp_path):
    write_layout(tmp_path, LAYOUTS["RecSal-Net"], {"train": [1], "valid": [2]})
    write(tmp_path / "docs" / "images" / "figure.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "train" / ".0007.partial" / "images").mkdir(parents=True)
    (tmp_path / "train" / "0008.partial" / "images").mkdir(parents=True)   # still being prepared
    assert [video.name for video in find_videos(tmp_path, "all")] == ["0001", "0002"]
    assert [video.name for video in find_videos(tmp_path, "train") + find_videos(tmp_path, "val")] == ["0001", "0002"]


def test_videos_1_and_01_of_one_folder_are_two(tmp_path):
    for name in ("1", "01"):
        make_video(tmp_path / "train" / name, [1, 2])
    assert sorted(video.name for video in find_videos(tmp_path, "train")) == ["01", "1"]


def test_of_two_folders_of_fixations_the_first_counts(tmp_path):
    folder = make_video(tmp_path / "v", [1])
    write_fixations(folder / "fixations" / "0001.png", [(5, 5)])
    write_fixations(folder / "fixation" / "maps" / "0001.mat", [(4, 4)])
    assert open_video(folder).fixations["0001"] == folder / "fixation" / "0001.png"


def test_names_of_splits_are_dhf1ks_numbers_only_for_dhf1k(tmp_path):
    write_layout(tmp_path, LAYOUTS["SalEMA"], {"": [1, 2]})
    with pytest.raises(FileNotFoundError, match='no split "train"'):
        find_videos(tmp_path, "train")
    write_layout(tmp_path / "b", LAYOUTS["RecSal-Net"], {"train": [701]})
    with pytest.raises(FileNotFoundError, match='no split "test"'):        # it has folders of splits: their videos are theirs
        find_videos(tmp_path / "b", "test", numbers=DATASETS["dhf1k"].numbers)


def test_a_number_is_a_video_even_where_its_folder_could_be_taken_for_a_split(tmp_path):
    write_layout(tmp_path, LAYOUTS["RecSal-Net"], {".": [601, 602]})
    (tmp_path / "0601").rename(tmp_path / "601")
    assert [video.name for video in find_videos(tmp_path, "601")] == ["601"]


def test_dhf1k_as_released_says_how_to_prepare_it(tmp_path):
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "001.AVI").write_bytes(b"RIFF")
    with pytest.raises(FileNotFoundError, match="DHF1K as released.*prepare_dhf1k.py"):
        find_videos(tmp_path, "train")


def test_an_empty_or_foreign_folder_says_what_it_holds(tmp_path):
    (tmp_path / "papers").mkdir()
    with pytest.raises(FileNotFoundError, match=r'no videos in .* .it holds papers.; expected tree'):
        find_videos(tmp_path, "train")


HOLLYWOOD2 = tuple("{split}/actionclip{kind}{film:05d}_{v}/" + kind + "/actionclip{kind}{film:05d}_{f:05d}.png" for kind in ("images", "maps", "fixation"))


def test_hollywood2_short_shots_and_numbers_that_run_on_over_a_film(tmp_path):
    for split, kind in (("training", "train"), ("testing", "test")):
        for shot, frames in ((1, range(25, 26)), (2, range(26, 66)), (10, range(66, 70))):
            for frame in frames:
                write_frame(tmp_path, HOLLYWOOD2, shot, frame, split=split, kind=kind, film=3)
    about = DATASETS["hollywood2"]
    for split, kind in ((about.train, "train"), (about.test, "test"), ("test", "test")):
        videos = find_videos(tmp_path, split)
        assert [video.name for video in videos] == [f"actionclip{kind}00003_{shot}" for shot in (1, 2, 10)]
        assert_is(videos[2], 10, range(66, 70))
    clips = dataset(tmp_path, "training", clip_len=32)
    assert numbers_of(clips[0, 0]) == [25] * 32                            # one frame
    assert numbers_of(clips[0, 2]) == [66] * 29 + [67, 68, 69]             # the first frame is repeated in front
    assert len(set(numbers_of(clips[0, 1]))) == 32                         # a whole clip where there is one


def test_ucf_sports_with_jpg_among_png_and_mat_beside_png(tmp_path):
    layout = ["training/Diving-Side-{v:03d}/" + path for path in ("images/Diving-Side_{v:03d}_{f:03d}.png", "maps/Diving-Side_{v:03d}_{f:03d}.png",
                                                                  "fixation/Diving-Side_{v:03d}_{f:03d}.png")]
    for frame in range(1, 6):
        write_frame(tmp_path, [layout[0].replace(".png", ".jpg") if frame == 3 else layout[0], *layout[1:]], 4, frame)
        write_fixations(tmp_path / f"training/Diving-Side-004/fixation/maps/Diving-Side_004_{frame:03d}.mat", [(frame % 6, 4)])
    video, = find_videos(tmp_path, DATASETS["ucf-sports"].train)
    assert_is(video, 4, range(1, 6))
    assert all(path.suffix == ".png" for path in video.fixations.values())
    for path in video.fixations.values():
        path.unlink()
    video, = find_videos(tmp_path, "training")
    assert_is(video, 4, range(1, 6))
    assert all(path.suffix == ".mat" for path in video.fixations.values())


DIEM = ("video_frames/DIEM/{name}/img_{f:05d}.jpg", "annotations/DIEM/{name}/maps/eyeMap_{f:05d}.jpg", "annotations/DIEM/{name}/fixMap_{f:05d}.mat")


@pytest.mark.parametrize("list_file", ["fold_lists/DIEM_list_test_fps.txt", "test.txt"])
def test_diem_pairs_three_kinds_of_names_and_takes_its_splits_from_lists(tmp_path, list_file):
    names = ["BBC_life_1278x710", "music_red_hot_1024x576"]
    for name in names:
        for frame in (1, 2, 3):
            write_frame(tmp_path, DIEM, 5, frame, name=name)
            write_fixations(tmp_path / DIEM[2].format(name=name, f=frame), [(frame % 6, 5)], variable="eyeMap")
    file = tmp_path / list_file
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{names[1]} 25.0\n\n")
    video, = find_videos(tmp_path, DATASETS["diem"].test)
    assert video.name == names[1] and video.frames[0].name == "img_00001.jpg"
    assert_is(video, 5)
    assert [video.name for video in find_videos(tmp_path, "all")] == names
    file.write_text(f"{names[1]}\nanother_video\n")
    with pytest.raises(FileNotFoundError, match="lists 2 videos: 1 of which are not there, the first 'another_video'"):
        find_videos(tmp_path, str(file))
    with pytest.raises(FileNotFoundError, match='no split "train".*no list train.txt'):
        find_videos(tmp_path, DATASETS["diem"].train)


def test_the_other_sets_of_stavis_are_found_as_diem_is_alone_or_beside_it(tmp_path, capsys):
    def add(folder, name, number):
        layout = [pattern.replace("DIEM", folder) for pattern in DIEM]
        for frame in (1, 2, 3):
            write_frame(tmp_path, layout, number, frame, name=name)
            write_fixations(tmp_path / layout[2].format(name=name, f=frame), [(frame % 6, number)], variable="eyeMap")
    add("Coutrot_db1", "clip_1", 5)
    video, = find_videos(tmp_path, "all")
    assert video.name == "clip_1" and find_videos(tmp_path, "Coutrot_db1") == [video]
    assert_is(video, 5)
    add("Coutrot_db2", "clip_1", 6)                                        # the names of one set may be those of another
    add("DIEM", "BBC_life_1278x710", 7)
    for folder, number in (("Coutrot_db1", 5), ("Coutrot_db2", 6), ("DIEM", 7)):
        video, = find_videos(tmp_path, folder)
        assert_is(video, number)
        (tmp_path / "fold_lists").mkdir(exist_ok=True)
        (tmp_path / "fold_lists" / f"{folder}_list_test_1_fps.txt").write_text(f"{video.name} 25.0\n")
        assert find_videos(tmp_path, f"fold_lists/{folder}_list_test_1_fps.txt") == [video]
    out = check(capsys, tmp_path, "--dataset", "diem")[1]
    assert all(f"{tmp_path}, {folder}: 1 videos, 3 frames, 3 annotated" in out for folder in ("Coutrot_db1", "Coutrot_db2", "DIEM"))
    with pytest.raises(FileNotFoundError, match="Its splits are Coutrot_db1, Coutrot_db2, DIEM: give another"):
        find_videos(tmp_path, "AVAD")


@pytest.mark.parametrize("junk", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", ".ipynb_checkpoints"])
def test_folders_that_computers_add_are_no_videos_and_no_splits(tmp_path, capsys, junk):
    make_checked_video(tmp_path / "train" / "a")
    for folder in (tmp_path, tmp_path / "train", tmp_path / "train" / "a"):
        (folder / junk / "images").mkdir(parents=True)
        (folder / junk / "images" / "._0001.png").touch()
    assert [video.name for video in find_videos(tmp_path, "train")] == [video.name for video in find_videos(tmp_path, "all")] == ["a"]
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 0 and "0 errors, 0 warnings" in out


@pytest.mark.parametrize("on_disk, asked", [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_compared_in_one_unicode_form(tmp_path, on_disk, asked):
    disk, given = (functools.partial(unicodedata.normalize, form) for form in (on_disk, asked))
    for stem in ("é_1", "é_2"):                                            # frames in one form, their annotation and the list in the other
        write(tmp_path / "frames" / disk("Café") / f"{disk(stem)}.png", np.zeros((6, 8, 3), np.uint8))
        write(tmp_path / "maps" / given("Café") / f"{given(stem)}.png", np.eye(6, 8, dtype=np.uint8))
        write_fixations(tmp_path / "fixations" / given("Café") / f"{given(stem)}.png", [(1, 5)])
    (tmp_path / "mine.txt").write_text(given("Café") + "\n", encoding="utf-8")
    video, = find_videos(tmp_path, "mine")
    assert video.name == disk("Café") and video.annotated() == [0, 1]
    make_video(tmp_path / "set" / disk("früh") / "a", [1, 2])
    assert [video.name for video in find_videos(tmp_path / "set", given("früh"))] == ["a"]
    for form in ("NFC", "NFD"):
        write(tmp_path / "both" / "images" / f"{unicodedata.normalize(form, 'é')}.png", np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="two frames share a name"):
        open_video(tmp_path / "both")


def test_two_folders_for_one_video_are_an_error(tmp_path):
    write_layout(tmp_path, LAYOUTS["SalEMA"], {"": [1]})
    (tmp_path / "maps" / "001").mkdir()
    with pytest.raises(ValueError, match="1 videos share their name with another, such as 1"):
        find_videos(tmp_path, "all")


def test_videos_of_one_name_in_two_splits_are_no_problem_until_both_are_asked_for(tmp_path):
    write_layout(tmp_path, LAYOUTS["RecSal-Net"], {"train": [1], "val": [1]})
    assert len(find_videos(tmp_path, "train")) == 1
    with pytest.raises(ValueError, match="share their name"):
        find_videos(tmp_path, "all")


def test_a_video_thinned_out_in_time_has_no_gap_but_one_with_a_frame_lost_has(tmp_path):
    assert len(open_video(make_video(tmp_path / "a", [5, 10, 15, 20])).frames) == 4
    with pytest.raises(FileNotFoundError, match=r"0020.png follows 0010.png"):
        open_video(make_video(tmp_path / "b", [5, 10, 20]))


def test_what_was_found_is_said_in_one_line(tmp_path):
    make_video(tmp_path / "train" / "a", range(1, 41))
    make_video(tmp_path / "train" / "b", range(1, 4), annotated=[2, 3])
    write_fixations(tmp_path / "train" / "b" / "fixation" / "0003.png", [])
    videos = find_videos(tmp_path, "train")
    assert dataloader.inventory(videos) == "2 videos, 43 frames, 42 annotated, 1 without fixation, 1 videos shorter than 32 frames"
    assert "42 annotated, 1 of 2 looked at without fixation" in dataloader.inventory(videos, look_at=2)
    write(tmp_path / "train" / "a" / "fixation" / "0001.png", np.diag(np.array([9, 99, 0, 0, 0, 0, 0], np.uint8)))
    assert "1 videos shorter than 32 frames, 1 of 2 looked at with a doubtful fixation map (python dataloader.py check" in dataloader.inventory(videos, look_at=2)


# Salient objects: masks instead of density and fixation maps

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


def masked_stems(video):
    """The stems of the frames with a mask; each mask is its own frame's."""
    for index in video.masked():
        column = read_frame(video.frames[index])[0, 0, 0]
        assert np.argwhere(read_mask(video.masks[video.frames[index].stem])[0]).tolist() == [[column]]
    return [video.frames[index].stem for index in video.masked()]


def test_a_mask_of_zeros_and_ones_is_brought_to_255_and_others_are_grey_as_they_are(tmp_path):
    for levels, expected in (([0, 0], [0, 0]), ([0, 1], [0, 255]), ([1, 1], [255, 255]), ([0, 38], [0, 38]), ([0, 1, 254], [0, 1, 254])):
        write(tmp_path / "a.png", np.array([levels], np.uint8))
        mask = read_mask(tmp_path / "a.png")
        assert mask.dtype == np.uint8 and mask.tolist() == [expected]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bits.png")
    assert read_mask(tmp_path / "bits.png").tolist() == [[0, 255]]
    write(tmp_path / "colours.png", np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    assert read_mask(tmp_path / "colours.png").tolist() == [[0, 255]]
    cut(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"cannot read image .*a.png \(30 bytes\)"):
        read_mask(tmp_path / "a.png")


@pytest.mark.parametrize("masks", ["ground-truth", "GT"])
def test_test_sets_and_training_sets_of_masks_are_found_by_their_folders(tmp_path, masks):
    make_vsod(tmp_path, masks)
    find = lambda root, split: {video.name: masked_stems(video) for video in find_videos(root, split, annotation="mask")}
    davis = {name: [f"{name}_{number:05d}" for number in range(3)] for name in ("blackswan", "cows")}
    assert find(tmp_path, "TestSet/DAVIS") == find(tmp_path / "TestSet", "DAVIS") == find(tmp_path / "TestSet" / "DAVIS", "all") == davis
    assert find(tmp_path, "TestSet") == find(tmp_path / "TestSet", "all") == davis | {"cars1": ["cars1_00000", "cars1_00001", "cars1_00002"]}
    assert find(tmp_path, "TrainSet_Video") == {"bear": ["bear_00000", "bear_00001"], "dog-agility": ["dog-agility_00000"]}
    assert find(tmp_path, "TrainSet_RGB") == {"ILSVRC2012_test": ["ILSVRC2012_test_00000004", "ILSVRC2012_test_00000022"], "sun_abc": ["sun_abc"],
                                              "TrainSet_RGB": ["7"]}
    assert len(find(tmp_path, "all")) == 8
    with pytest.raises(FileNotFoundError, match=r"no split .SegTrack. .*Its splits are DAVIS, FBMS: give another"):
        find(tmp_path / "TestSet", "SegTrack")
    with pytest.raises(FileNotFoundError, match=r"no split .val. .*Its splits are TestSet/DAVIS, TestSet/FBMS, TrainSet_RGB, TrainSet_Video"):
        find(tmp_path, "val")


def test_the_splits_of_the_known_set_of_masks_are_its_folders(tmp_path):
    make_vsod(tmp_path)
    known = DATASETS["vsod"]
    assert [len(find_videos(tmp_path, split, annotation="mask")) for split in (known.train, known.val, known.test)] == [2, 2, 2]


def test_a_video_of_one_name_in_two_test_sets_is_an_error_until_one_is_chosen(tmp_path):
    for name in ("DAVIS", "FBMS"):
        make_masked(tmp_path / name / "bear" / "Frame", tmp_path / name / "bear" / "GT", ["1", "2"])
    for root, split in ((tmp_path, "all"), (tmp_path.parent, tmp_path.name)):
        with pytest.raises(ValueError, match="1 videos share their name with another, such as bear: choose a split"):
            find_videos(root, split, annotation="mask")
    assert len(find_videos(tmp_path, "FBMS", annotation="mask")) == 1


def test_sets_of_density_maps_are_not_looked_for_two_folders_below(tmp_path):
    make_video(tmp_path / "collection" / "set" / "train" / "a", [1, 2])
    make_video(tmp_path / "collection" / "b" / "c", [1, 2])
    for root, split in ((tmp_path, "all"), (tmp_path, "collection")):
        with pytest.raises(FileNotFoundError, match="no videos in|no frames of video b"):
            find_videos(root, split)


def test_a_folder_for_each_video_below_imgs_is_recognised(tmp_path):
    for name in ("bear", "cows"):
        make_masked(tmp_path / "T" / "Imgs" / name, tmp_path / "T" / "ground-truth" / name, ["00000", "00001", "00002"])
    (tmp_path / "T" / "Flow" / "bear").mkdir(parents=True)
    videos = find_videos(tmp_path, "T", annotation="mask")
    assert {video.name: masked_stems(video) for video in videos} == {name: ["00000", "00001", "00002"] for name in ("bear", "cows")}
    shutil.rmtree(tmp_path / "T" / "Imgs" / "cows")
    with pytest.raises(FileNotFoundError, match="no frames of video cows: .*Imgs/cows does not exist"):
        find_videos(tmp_path, "T", annotation="mask")


@pytest.mark.parametrize("stem, name", [("bear_00012", "bear"), ("a_2_0001", "a_2"), ("cars1", "cars"), ("a-1", "a"), ("b 1", "b"), ("0012", ""), ("sun_a", "sun_a")])
def test_a_frames_video_is_its_name_without_the_number_at_its_end(stem, name):
    assert dataloader.sequence_name(stem) == name


def test_frames_of_a_shared_folder_come_in_the_order_of_their_numbers(tmp_path):
    make_masked(tmp_path / "Imgs", tmp_path / "GTs", ["a_2", "a_10", "a_1", "b_5"])
    assert [[path.stem for path in video.frames] for video in find_videos(tmp_path, "all", annotation="mask")] == [["a_1", "a_2", "a_10"], ["b_5"]]
    assert check_dataset(tmp_path, "all")["problems"] == []                # neither jumps nor names without zeros matter there


def test_a_folder_that_is_named_by_a_dot_still_names_the_video_of_numbers(tmp_path, monkeypatch):
    make_masked(tmp_path / "mine" / "Imgs", tmp_path / "mine" / "GTs", ["1", "2"])
    monkeypatch.chdir(tmp_path / "mine")
    assert [video.name for video in find_videos(Path(), "all", annotation="mask")] == ["mine"]


def test_frames_without_mask_are_allowed_and_masks_without_frame_are_not(tmp_path):
    make_masked(tmp_path / "v" / "Frame", tmp_path / "v" / "GT", ["1", "2", "3"], masked=["2"])
    video, = find_videos(tmp_path, "all", annotation="mask")
    assert video.masked() == [1] and video.annotated() == []
    (tmp_path / "v" / "Frame" / "2.jpg").rename(tmp_path / "v" / "Frame" / "4.jpg")
    with pytest.raises(ValueError, match="annotation without frame in video v: 1 files, the first .*GT/2.png"):
        find_videos(tmp_path, "all", need_annotation=False, annotation="mask")
    make_masked(tmp_path / "flat" / "Imgs", tmp_path / "flat" / "GTs", ["a_1", "b_1"])
    (tmp_path / "flat" / "Imgs" / "b_1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no frames of video b in .*Imgs, although it has 1 masks, the first .*b_1.png"):
        find_videos(tmp_path / "flat", "all", annotation="mask")


def test_of_two_folders_of_masks_the_first_counts(tmp_path):
    make_masked(tmp_path / "v" / "Frame", tmp_path / "v" / "GT", ["1", "2"])
    write_mask(tmp_path / "v" / "ground-truth" / "1.png")
    video, = find_videos(tmp_path, "all", annotation="mask")
    assert [video.masks[stem].parent.name for stem in ("1", "2")] == ["ground-truth", "GT"]


def test_frames_may_jump_where_masks_are_but_not_where_fixations_are(tmp_path):
    make_masked(tmp_path / "v" / "Frame", tmp_path / "v" / "GT", ["01", "02", "20", "41"], masked=["01"])
    video, = find_videos(tmp_path, "all", annotation="mask")
    assert len(video.frames) == 4
    report = check_dataset(tmp_path, "all")
    jumps, = (problem for problem in report["problems"] if "jump" in problem["message"])
    assert report["trainable"] and not jumps["fatal"] and "2 times, first where 20.jpg follows 02.jpg" in jumps["message"]
    shutil.rmtree(tmp_path / "v" / "GT")
    assert len(find_videos(tmp_path, "all", need_annotation=False)[0].frames) == 4


def test_a_network_and_a_dataset_of_two_kinds_are_told_apart(tmp_path):
    make_video(tmp_path / "saliency" / "a", [1, 2])
    make_masked(tmp_path / "objects" / "b" / "Frame", tmp_path / "objects" / "b" / "GT", ["1", "2"])
    with pytest.raises(FileNotFoundError, match=r"no masks for video a: the network needs masks, .*a/images is of a dataset of density and fixation maps "
                                                r"\(its tree: RecSal.*\). Choose a network that learns from density.*--dataset vsod"):
        find_videos(tmp_path, "saliency", annotation="mask")
    with pytest.raises(FileNotFoundError, match=r"no density and fixation maps for video b: .*b/Frame is of a dataset of masks .*--dataset dhf1k"):
        find_videos(tmp_path, "objects")
    for split in ("saliency", "objects"):
        for annotation in ("density", "mask"):
            assert len(find_videos(tmp_path, split, need_annotation=False, annotation=annotation)) == 1
    shutil.rmtree(tmp_path / "objects" / "b" / "GT")
    with pytest.raises(FileNotFoundError, match=r"no masks for video b: of 2 frames in .*b/Frame none has one in .*b/ground-truth or .*predict.py"):
        find_videos(tmp_path, "objects", annotation="mask")


def test_what_was_found_says_how_many_frames_have_masks(tmp_path):
    make_masked(tmp_path / "v" / "Frame", tmp_path / "v" / "GT", ["1", "2", "3"], masked=["1", "3"])
    make_masked(tmp_path / "w" / "Frame", tmp_path / "w" / "GT", ["1"], masked=[])
    assert dataloader.inventory(find_videos(tmp_path, "all", need_annotation=False)) == "2 videos, 4 frames, 2 with masks"
    write(tmp_path / "v" / "GT" / "1.png", 2 * np.eye(6, 8, dtype=np.uint8))
    assert dataloader.inventory(find_videos(tmp_path, "all", need_annotation=False)).startswith("2 videos, 4 frames, 2 with masks, 1 with an interpreted mask (")


# The same for any names, gaps and lengths

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PREFIXES = st.text("abZ-_. 0é", max_size=6).filter(lambda text: not text.startswith(".") and not text.endswith("0") and text.strip() == text)


def empty_files(folder, names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


@SETTINGS
@given(PREFIXES, st.integers(0, 10 ** 6), st.integers(1, 40), st.integers(0, 7), st.randoms(use_true_random=False))
def test_frames_of_any_names_come_in_order_with_their_own_annotation(tmp_path_factory, prefix, start, count, digits, random):
    root = tmp_path_factory.mktemp("names")
    stems = [f"{prefix}{number:0{digits}d}" for number in range(start, start + count)]
    annotated = {stem for stem in stems if random.random() < 0.8} or {stems[0]}
    empty_files(root / "v" / "images", (f"{stem}{random.choice(['.png', '.jpg', '.PNG'])}" for stem in random.sample(stems, count)))
    empty_files(root / "v" / "maps", (f"{stem}.png" for stem in annotated))
    empty_files(root / "v" / "fixation", (f"{stem}.png" for stem in annotated))
    video = open_video(root / "v")
    assert [path.stem for path in video.frames] == stems
    assert [video.frames[i].stem for i in video.annotated()] == [stem for stem in stems if stem in annotated]
    assert all(path.stem == stem for files in (video.maps, video.fixations) for stem, path in files.items())


@SETTINGS
@given(st.integers(0, 2000), st.integers(3, 40), st.data())
def test_any_frames_lost_between_others_are_named(tmp_path_factory, start, count, data):
    lost = data.draw(st.sets(st.integers(start + 1, start + count - 2), min_size=1))
    kept = [number for number in range(start, start + count) if number not in lost]
    assume(1 in {b - a for a, b in itertools.pairwise(kept)})              # not thinned out
    root = tmp_path_factory.mktemp("gaps")
    empty_files(root / "v" / "images", (f"{number:04d}.png" for number in kept))
    _, problems = dataloader.list_video(dataloader.VideoFolders("v", root / "v" / "images", root, ()))
    named = [problem.message for problem in problems if problem.kind == "missing"]
    expected = [f"{after:04d}.png follows {before:04d}.png" for before, after in itertools.pairwise(kept) if after - before > 1]
    assert len(named) == len(expected) and all(text in message for text, message in zip(expected, named))


@SETTINGS
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 4), st.integers(0, 3))
def test_a_clip_of_any_video_ends_at_an_annotated_frame_and_repeats_the_first_in_front(tmp_path_factory, length, clip_len, stride, epoch):
    root = tmp_path_factory.mktemp("lengths")
    make_video(root / "train" / "v", range(1, length + 1))
    sample = dataset(root, clip_len=clip_len, frame_stride=stride)[epoch, 0]
    last, span = int(sample["frame"]), (clip_len - 1) * stride + 1
    assert numbers_of(sample) == [max(1, last - back * stride) for back in range(clip_len)][::-1]
    assert span <= last <= length or (length < span and last == length)


def test_frames_to_predict_may_have_names_that_differ_in_zeros_only(tmp_path):
    empty_files(tmp_path / "a", ["1.png", "2.png", "02.png", "img_1.png"])
    assert {path.name for path in dataloader.list_frames(tmp_path / "a")} == {"1.png", "2.png", "02.png", "img_1.png"}
    (tmp_path / "a" / "2.jpg").touch()
    with pytest.raises(ValueError, match="two frames share a name"):
        dataloader.list_frames(tmp_path / "a")


# Checking a dataset

DAMAGES = {                                                                # what happens to frame 0004 of 6 -> (kind, whether training would fail)
    "nothing": (lambda folder: None, None),
    "frame lost": (lambda folder: (folder / "images/0004.png").unlink(), ("missing", True)),
    "density map lost": (lambda folder: (folder / "maps/0004.png").unlink(), ("missing", False)),
    "all maps lost": (lambda folder: shutil.rmtree(folder / "maps"), ("missing", True)),
    "frames lost": (lambda folder: shutil.rmtree(folder / "images"), ("missing", True)),
    "frame twice": (lambda folder: shutil.copy(folder / "images/0004.png", folder / "images/4.png"), ("extra", True)),
    "fixation map of no frame": (lambda folder: shutil.copy(folder / "fixation/0004.png", folder / "fixation/0007.png"), ("extra", True)),
    "frame cut off": (lambda folder: cut(folder / "images/0004.png"), ("unreadable", True)),
    "density map cut off": (lambda folder: cut(folder / "maps/0004.png"), ("unreadable", True)),
    "fixation map cut off": (lambda folder: cut(folder / "fixation/0004.png"), ("unreadable", True)),
    "fixation map of another size": (lambda folder: write(folder / "fixation/0004.png", np.eye(9, dtype=np.uint8)), ("size", True)),
    "frame of another size": (lambda folder: write(folder / "images/0004.png", np.ones((12, 16, 3), np.uint8)), ("size", False)),
    "constant density map": (lambda folder: write(folder / "maps/0004.png", np.full((6, 8), 7, np.uint8)), ("constant", False)),
    "grey fixation map": (lambda folder: write(folder / "fixation/0004.png", np.diag(np.array([9, 99, 0, 0, 0, 0, 0, 0], np.uint8))[:6]), ("fixations", False)),
    "discs in a fixation map": (lambda folder: write(folder / "fixation/0004.png", 255 * np.eye(6, 8, dtype=np.uint8)), ("fixations", False)),
    "density map for a fixation map": (lambda folder: write(folder / "fixation/0004.png", np.arange(48, dtype=np.uint8).reshape(6, 8)), ("unreadable", True)),
    "inverted fixation map": (lambda folder: write(folder / "fixation/0004.png", 255 - 255 * np.eye(6, 8, dtype=np.uint8)), ("unreadable", True)),
    "density map in colour": (lambda folder: write(folder / "maps/0004.png", np.eye(6, 8, dtype=np.uint8)[..., None] * np.array([200, 0, 0], np.uint8)), ("unreadable", True)),
}


def cut(path):
    path.write_bytes(path.read_bytes()[:30])


def make_checked_video(folder):
    """Six frames with maps that are not constant: nothing is wrong with it."""
    make_video(folder, range(1, 7))
    for path in (folder / "maps").iterdir():
        write(path, np.arange(48, dtype=np.uint8).reshape(6, 8))
    return folder


def trains(root, split="train"):
    """Whether every clip that training could ask for can be read, and every frame that is scored."""
    try:
        videos = find_videos(root, split)
        for video in videos:
            for index in range(len(video.frames)):
                read_frame(video.frames[index])
                if video.is_annotated(index):
                    dataset(root, split, clip_len=1).sample(video, index, mirrored=False)
        return True
    except (OSError, ValueError):
        return False


def check(capsys, *flags):
    code = dataloader.main(dataloader.arguments().parse_args(["check", *map(str, flags)]))
    return code, capsys.readouterr().out


@pytest.mark.parametrize("name", DAMAGES)
def test_each_kind_of_damage_is_reported_and_fails_the_check_if_training_would_fail(tmp_path, capsys, name):
    damage, expected = DAMAGES[name]
    for video in ("a", "b"):
        make_checked_video(tmp_path / "train" / video)
    damage(tmp_path / "train" / "b")
    code, out = check(capsys, tmp_path, "--json", "--split", "train")
    report = json.loads(out)
    problems = report["problems"]
    assert (expected is None) == (not problems)
    assert expected is None or expected in [(problem["kind"], problem["fatal"]) for problem in problems]
    assert all(problem["video"] == "b" and problem["files"] and problem["split"] == "train" for problem in problems)
    assert code == (0 if trains(tmp_path) else 1) and report["trainable"] == (code == 0)
    assert (code == 1) == bool(expected and expected[1])


@settings(SETTINGS, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(sorted(DAMAGES)), st.sampled_from("abc")), max_size=4))
def test_the_check_says_beforehand_whether_training_would_fail(tmp_path_factory, damages):
    root = tmp_path_factory.mktemp("damaged")
    for video in "abc":
        make_checked_video(root / "train" / video)
    done = set()
    for name, video in damages:
        if video not in done:                                              # one damage a video: two could need the same file
            DAMAGES[name][0](root / "train" / video)
        done.add(video)
    assert check_dataset(root)["trainable"] == trains(root)


def test_every_problem_is_reported_at_once_in_lines_for_people(tmp_path, capsys):
    for number, name in enumerate(DAMAGES):
        DAMAGES[name][0](make_checked_video(tmp_path / "train" / f"{number:02d}"))
    code, out = check(capsys, tmp_path, "--split", "train")
    lines = out.splitlines()
    assert code == 1 and lines[0].startswith(f"{tmp_path}, train: {len(DAMAGES)} videos, ")
    for number, (_, expected) in enumerate(DAMAGES.values()):
        if expected:
            assert any(line.startswith(f"{'error' if expected[1] else 'warning'}: {expected[0]}: train/{number:02d}: ") for line in lines)
    assert re.fullmatch(r"\d+ errors, \d+ warnings: training would fail", lines[-1])


def test_names_that_other_programs_sort_differently_are_a_warning(tmp_path, capsys):
    shutil.move(make_checked_video(tmp_path / "x"), tmp_path / "train" / "a")
    for folder in (tmp_path / "train" / "a").iterdir():
        for path in folder.iterdir():
            path.rename(path.with_stem(str(int(path.stem) + 7)))           # 8, 9, 10 ..
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 0 and "warning: order: train/a: " in out and "(8 to 13)" in out


def test_the_dataset_that_is_checked_for_says_which_splits_are_needed(tmp_path, capsys):
    write_layout(tmp_path, LAYOUTS["SalEMA"], {"": [1, 601]})
    for path in tmp_path.glob("maps/*/*"):
        write(path, np.arange(48, dtype=np.uint8).reshape(6, 8))
    assert check(capsys, tmp_path)[0] == 0
    assert check(capsys, tmp_path, "--dataset", "folder")[0] == 1


def test_density_maps_alone_are_annotation_where_no_fixations_are_needed(tmp_path, capsys):
    for name in ("a", "b"):
        shutil.rmtree(make_checked_video(tmp_path / "train" / name) / "fixation")
    with pytest.raises(FileNotFoundError, match=r"no fixation maps for video a: 6 of its 6 frames have a density map in .*--nss-weight 0"):
        find_videos(tmp_path, "train")
    videos = find_videos(tmp_path, "train", need_fixations=False)
    assert [video.annotated() for video in videos] == [list(range(6))] * 2
    assert dataloader.inventory(videos) == "2 videos, 12 frames, 12 annotated, 0 without fixation, 2 videos shorter than 32 frames, 12 with a density map alone"
    sample = ClipDataset(videos, prepare, clip_len=2)[0, 0]
    assert sample["density"].max() > 0 and sample["fixations"].shape == sample["density"].shape and not sample["fixations"].any()
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 0 and "0 errors, 2 warnings: this can be trained on" in out and "warning: missing: train/a: no fixation maps for video a" in out
    make_checked_video(tmp_path / "train" / "c")                           # where others have fixation maps, they were lost
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 1 and "error: missing: train/a: no fixation maps for video a" in out


def test_one_lost_fixation_map_is_not_a_frame_with_a_density_map_alone(tmp_path):
    folder = make_video(tmp_path / "train" / "a", [1, 2, 3])
    (folder / "fixation" / "0002.png").unlink()
    assert find_videos(tmp_path, "train", need_fixations=False)[0].annotated() == [0, 2]


def test_a_test_set_without_annotation_passes_beside_a_training_set_but_not_alone(tmp_path, capsys):
    make_checked_video(tmp_path / "train" / "0001")
    make_checked_video(tmp_path / "val" / "0601")
    make_video(tmp_path / "test" / "0701", [1, 2], annotated=[])
    assert check(capsys, tmp_path)[0] == 0
    code, out = check(capsys, tmp_path, "--split", "test")
    assert code == 1 and "error: missing: test/0701: no annotation" in out and out.endswith("training would fail\n")
    cut(tmp_path / "test" / "0701" / "images" / "0001.png")
    code, out = check(capsys, tmp_path)
    assert code == 0 and "error: unreadable: test/0701" in out             # testing would fail, training would not


@pytest.mark.parametrize("damage", ["no annotation in train", "no frames in val", "an empty .mat"])
def test_a_split_that_training_needs_must_be_whole(tmp_path, capsys, damage):
    for split in ("train", "val"):
        make_checked_video(tmp_path / split / "a")
    if damage == "an empty .mat":
        (tmp_path / "train" / "a" / "fixation" / "0004.png").unlink()
        scipy.io.savemat(tmp_path / "train" / "a" / "fixation" / "0004.mat", {"I": np.zeros((0, 0))})
    else:
        shutil.rmtree(tmp_path / ("train/a/maps" if "annotation" in damage else "val/a/images"))
    code, out = check(capsys, tmp_path)
    assert code == 1 and not (trains(tmp_path) and trains(tmp_path, "val"))
    assert f"{tmp_path}, train: " in out and f"{tmp_path}, val: " in out


def test_a_set_in_which_nobody_looked_anywhere_is_a_warning(tmp_path, capsys):
    for path in (make_checked_video(tmp_path / "train" / "a") / "fixation").iterdir():
        write(path, np.zeros((6, 8), np.uint8))
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 0 and "nothing to learn from" in out


def test_a_split_that_training_needs_and_that_is_not_there_fails_the_check(tmp_path, capsys):
    make_checked_video(tmp_path / "training" / "a")
    code, out = check(capsys, tmp_path)
    assert code == 1 and re.search(r'error: missing: val: no split "val" in .*Its splits are training.*--hold-out', out)
    make_checked_video(tmp_path / "testing" / "b")
    assert check(capsys, tmp_path, "--dataset", "ucf-sports")[0] == 0
    code, out = check(capsys, tmp_path / "training", "--dataset", "ucf-sports")
    assert code == 1 and f"Or give the folder above, {tmp_path}." in out and "Its splits" not in out
    shutil.move(tmp_path / "training" / "a" / "images", tmp_path / "training" / "a" / "frames")
    shutil.rmtree(tmp_path / "testing")
    code, out = check(capsys, tmp_path, "--dataset", "ucf-sports")
    assert code == 1 and "a/images does not exist" in out


def test_files_of_another_kind_are_a_warning(tmp_path, capsys):
    folder = make_checked_video(tmp_path / "train" / "a")
    (folder / "maps" / "notes.txt").touch()
    (folder / "maps" / ".DS_Store").touch()
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 0 and "warning: extra: train/a: " in out and "maps/notes.txt: neither an image nor" in out and "1 warnings" in out


def test_a_whole_set_of_masks_is_checked_split_by_split_and_flow_is_no_stray(tmp_path, capsys):
    code, out = check(capsys, make_vsod(tmp_path), "--dataset", "vsod", "--json")
    report = json.loads(out)
    assert code == 0 and report["problems"] == []
    assert {split["split"]: (split["videos"], split["frames"], split["masked"], split["annotated"]) for split in report["splits"]} == {
        "TestSet/DAVIS": (2, 6, 6, 0), "TestSet/FBMS": (1, 3, 3, 0), "TrainSet_RGB": (3, 4, 4, 0), "TrainSet_Video": (2, 3, 3, 0)}
    code, out = check(capsys, tmp_path, "--dataset", "vsod", "--split", "TrainSet_Video")
    assert code == 0 and "2 videos, 3 frames, 3 masked, 2 shorter than 32 (tree: training sets" in out and "fixation," not in out
    shutil.rmtree(tmp_path / "TestSet" / "DAVIS")
    code, out = check(capsys, tmp_path, "--dataset", "vsod")
    assert code == 1 and 'error: missing: TestSet/DAVIS: no split "TestSet/DAVIS"' in out


MASK_DAMAGES = {                                                           # what happens to a mask -> (kind, fatal, what is said)
    "another size": (lambda path: write(path, np.eye(12, dtype=np.uint8) * 255), ("size", False, "the mask is 12 x 12, the frame 6 x 8")),
    "two levels, neither 255": (lambda path: write(path, np.eye(6, 8, dtype=np.uint8) * 200), None),
    "ones": (lambda path: write(path, np.eye(6, 8, dtype=np.uint8)), None),
    "grey at its borders": (lambda path: write(path, np.where(np.eye(6, 8), 255, [0, 0, 0, 90, 0, 0, 0, 0]).astype(np.uint8)), None),
    "mostly grey": (lambda path: write(path, np.linspace(0, 255, 48).astype(np.uint8).reshape(6, 8)), ("mask", False, "most pixels of a mask are grey")),
    "dark": (lambda path: write(path, np.eye(6, 8, dtype=np.uint8) * 38), ("mask", False, "the brightest level of a mask is 38")),
    "black": (lambda path: write(path, np.zeros((6, 8), np.uint8)), ("constant", False, "a mask of one value, 0: nothing of the frame is object")),
    "white": (lambda path: write(path, np.full((6, 8), 255, np.uint8)), ("constant", False, "a mask of one value, 255: all of the frame is object")),
    "cut off": (lambda path: cut(path), ("unreadable", True, "cannot read image")),
    "lost": (lambda path: path.unlink(), ("missing", False, "1 of 3 frames of video cows lack a mask")),
    "of no frame": (lambda path: path.rename(path.with_name("cows_00009.png")), ("extra", True, "annotation without frame in video cows")),
    "beside a note": (lambda path: path.with_name("notes.txt").touch(), ("extra", False, "notes.txt: neither an image nor")),
}


@pytest.mark.parametrize("name", MASK_DAMAGES)
def test_each_kind_of_odd_mask_is_reported(tmp_path, capsys, name):
    damage, expected = MASK_DAMAGES[name]
    damage(make_vsod(tmp_path, flow=False) / "TestSet" / "DAVIS" / "cows" / "ground-truth" / "cows_00001.png")
    code, out = check(capsys, tmp_path, "--dataset", "vsod", "--json")
    problems = [problem for problem in json.loads(out)["problems"] if not (name == "of no frame" and problem["kind"] == "missing")]
    assert [(problem["kind"], problem["fatal"], problem["split"], problem["video"]) for problem in problems] == (
        [(*expected[:2], "TestSet/DAVIS", "cows")] if expected else [])
    assert not expected or expected[2] in problems[0]["message"]
    assert code == int(bool(expected and expected[1]))


def test_a_stray_file_in_a_folder_of_many_videos_is_one_warning(tmp_path, capsys):
    (make_vsod(tmp_path) / "TrainSet_Video" / "Imgs" / "Thumbs.db").touch()
    code, out = check(capsys, tmp_path, "--split", "TrainSet_Video")
    assert code == 0 and "warning: extra: TrainSet_Video: " in out and "0 errors, 1 warnings" in out


def test_a_video_without_masks_fails_the_check_where_its_split_is_needed(tmp_path, capsys):
    (make_vsod(tmp_path) / "TrainSet_RGB" / "GTs" / "sun_abc.png").unlink()
    code, out = check(capsys, tmp_path, "--dataset", "vsod")
    assert code == 0 and "error: missing: TrainSet_RGB/sun_abc: no masks" in out  # training on these would fail, the usual one would not
    shutil.rmtree(tmp_path / "TestSet" / "DAVIS" / "cows" / "ground-truth")
    code, out = check(capsys, tmp_path, "--dataset", "vsod")
    assert code == 1 and "error: missing: TestSet/DAVIS/cows: no masks for video cows: of 3 frames" in out


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lists_may_have_windows_line_ends_a_byte_order_mark_and_other_zeros(tmp_path, encoding):
    write_layout(tmp_path, LAYOUTS["SalEMA"], {"": [1, 2, 3]})
    (tmp_path / "mine.txt").write_bytes("0003\r\n001\r\n".encode(encoding))
    assert [video.name for video in find_videos(tmp_path, "mine.txt")] == [video.name for video in find_videos(tmp_path, "mine")] == ["1", "3"]


@pytest.mark.parametrize("content, said", [("\ufeff1".encode("utf-16"), "mine.txt is no text in UTF-8"), (b"\n", "lists 0 videos: a name in each line"), (None, "no list mine.txt: there is no such file")])
def test_lists_that_name_nothing_are_said(tmp_path, content, said):
    write_layout(tmp_path, LAYOUTS["SalEMA"], {"": [1]})
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises((OSError, ValueError), match=said):
        find_videos(tmp_path, "mine.txt")


def test_a_file_instead_of_a_folder_is_said(tmp_path):
    (tmp_path / "a.zip").touch()
    with pytest.raises(FileNotFoundError, match="no dataset .*a.zip: it is a file, unpack it"):
        find_videos(tmp_path / "a.zip", "train")


def test_fixations_without_density_maps_say_how_to_make_them(tmp_path):
    shutil.rmtree(make_video(tmp_path / "v", [1, 2]) / "maps")
    with pytest.raises(FileNotFoundError, match="data.make_maps` makes density maps"):
        open_video(tmp_path / "v")


def test_a_tree_without_folders_of_splits_is_checked_in_the_datasets_parts(tmp_path):
    write_layout(tmp_path, LAYOUTS["TASED-Net"], {"": [1, 601]})
    for frame in (1, 2):
        write(tmp_path / "video" / "0701" / f"{frame:04d}.png", np.zeros((6, 8, 3), np.uint8))
    report = check_dataset(tmp_path, numbers=DATASETS["dhf1k"].numbers, needed=("train", "val"))
    assert [split["split"] for split in report["splits"]] == ["train", "val", "test"] and report["trainable"]
    assert [split["split"] for split in check_dataset(tmp_path)["splits"]] == ["all"]


def test_a_folder_that_is_no_dataset_and_two_videos_of_one_name_fail_the_check(tmp_path, capsys):
    (tmp_path / "papers").mkdir()
    code, out = check(capsys, tmp_path, "--json")
    problem, = json.loads(out)["problems"]
    assert code == 1 and problem["kind"] == "missing" and "no videos" in problem["message"]
    write_layout(tmp_path, LAYOUTS["SalEMA"], {"": [1]})
    (tmp_path / "frames" / "01").mkdir()
    code, out = check(capsys, tmp_path)
    assert code == 1 and "error: extra: all: 1 videos share their name" in out


def test_a_frame_that_nobody_looked_at_is_counted_and_no_problem(tmp_path):
    folder = make_checked_video(tmp_path / "train" / "a")
    for kind in ("maps", "fixation"):
        write(folder / kind / "0004.png", np.zeros((6, 8), np.uint8))
    report = check_dataset(tmp_path)
    assert report["splits"] == [{"split": "train", "tree": dataloader.TREES[0].used_by, "videos": 1, "frames": 6, "annotated": 6, "without_fixation": 1, "masked": 0, "shorter_than_32": 1}]
    assert not report["problems"] and report["trainable"]


@pytest.mark.parametrize("flags, said", [(["nowhere"], "no dataset nowhere"), ([".", "--split", "absent"], "no videos in .")])
def test_a_check_of_nothing_ends_with_one_line_and_exit_code_2(tmp_path, run_script, flags, said):
    ended = run_script(TESTS.parent / "dataloader.py", "check", *flags, cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.startswith(f"dataloader.py: error: {said}") and "Traceback" not in ended.stderr


# Prepared frames on disk

def shrink(frame):
    return torch.from_numpy(cv2.resize(frame, (4, 3), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)


def clip_of(video, indices, prepare=shrink):
    return dataloader.decoded_clip(video, indices, lambda path: prepare(read_frame(path)))


def noise_set(root):
    generator = np.random.default_rng(0)
    for name, length in (("a", 9), ("b", 3)):
        folder = make_video(root / "train" / name, range(1, length + 1))
        for path in (folder / "images").iterdir():
            write(path, generator.integers(0, 256, (6, 8, 3), np.uint8))
    return find_videos(root, "train")


def build(root, videos, prepare=shrink, **options):
    cache = FrameCache(root, prepare)
    cache.build(videos, **options)
    return cache


def decodes(monkeypatch):
    """Counts the frames that are decoded."""
    decoded, real = [], dataloader.read_frame
    monkeypatch.setattr(dataloader, "read_frame", lambda path: (decoded.append(path), real(path))[1])
    return decoded


@pytest.mark.parametrize("stride, clip_len", [(1, 4), (2, 4), (3, 12)])
def test_clips_from_prepared_frames_are_the_same_tensors_and_decode_nothing(tmp_path, monkeypatch, stride, clip_len):
    videos = noise_set(tmp_path)
    cache = build(tmp_path / "cache", videos)
    options = {"clip_len": clip_len, "frame_stride": stride, "flip": True, "size": (3, 4)}
    plain, cached = (ClipDataset(videos, shrink, cache=c, **options) for c in (None, cache))
    expected = [plain[epoch, index] for epoch in range(5) for index in range(2)]
    decoded = decodes(monkeypatch)
    for sample, same in zip(expected, (cached[epoch, index] for epoch in range(5) for index in range(2))):
        assert sample.keys() == same.keys()
        for name, value in sample.items():
            assert torch.equal(value, same[name]) and value.is_contiguous() == same[name].is_contiguous() if isinstance(value, torch.Tensor) else value == same[name]
    assert not decoded


def test_prepared_frames_are_one_file_a_video_and_made_once(tmp_path, monkeypatch):
    videos = noise_set(tmp_path)
    build(tmp_path / "cache", videos)
    assert sorted(path.name.split("-")[0] for path in tmp_path.glob("cache/*/*.npy")) == ["a", "b"]
    decoded = decodes(monkeypatch)
    build(tmp_path / "cache", videos)
    assert not decoded


@pytest.mark.parametrize("change", ["content", "renamed", "longer"])
def test_prepared_frames_are_made_anew_where_the_source_has_changed(tmp_path, monkeypatch, change):
    videos = noise_set(tmp_path)
    build(tmp_path / "cache", videos)
    path = videos[1].frames[2]
    if change == "content":
        before = path.stat()
        write(path, np.random.default_rng(7).integers(0, 256, (6, 8, 3), np.uint8))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "renamed":
        path.rename(path.with_stem("0000"))
        shutil.rmtree(path.parents[1] / "maps")
        shutil.rmtree(path.parents[1] / "fixation")
    else:
        write(path.with_stem("0004"), np.zeros((6, 8, 3), np.uint8))
    videos = find_videos(tmp_path, "train", need_annotation=False)
    decoded = decodes(monkeypatch)
    cache = build(tmp_path / "cache", videos)
    assert {path.parents[1].name for path in decoded} == {"b"}
    indices = list(range(len(videos[1].frames)))
    assert torch.equal(cache.clip(videos[1], indices), clip_of(videos[1], indices))
    assert len(list(tmp_path.glob("cache/*/*.npy"))) == 2                  # what is no longer true is gone


def test_prepared_frames_that_were_read_otherwise_are_not_taken(tmp_path, monkeypatch):
    videos = noise_set(tmp_path)
    earlier = set(build(tmp_path, videos).files.values())
    monkeypatch.setattr(dataloader, "READING", dataloader.READING + 1)
    assert not earlier & set(build(tmp_path, videos).files.values()) and not any(path.exists() for path in earlier)


def test_prepared_frames_of_another_network_or_place_are_not_taken(tmp_path):
    videos = noise_set(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copy2)
    write(tmp_path / "two" / "train" / "a" / "images" / "0001.png", np.zeros((6, 8, 3), np.uint8))
    others = find_videos(tmp_path / "two", "train")
    halves = lambda frame: shrink(frame) // 2                              # the same size, another content
    caches = [build(tmp_path / "cache", videos), build(tmp_path / "cache", others), build(tmp_path / "cache", videos, halves)]
    for cache, shown, prepare in zip(caches, (videos, others, videos), (shrink, shrink, halves)):
        assert torch.equal(cache.clip(shown[0], [0, 1]), clip_of(shown[0], [0, 1], prepare))


def test_an_interruption_leaves_whole_files_only_and_the_next_call_goes_on(tmp_path, monkeypatch):
    videos, real = noise_set(tmp_path), dataloader.read_frame

    def interrupted(path):
        if path == videos[1].frames[1]:
            raise KeyboardInterrupt
        return real(path)
    monkeypatch.setattr(dataloader, "read_frame", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cache", videos)
    monkeypatch.undo()
    assert [path.name.split("-")[0] for path in tmp_path.glob("cache/*/*")] == ["a"]
    decoded = decodes(monkeypatch)
    build(tmp_path / "cache", videos)
    assert len(decoded) == 3


def test_a_killed_programs_half_file_is_removed_and_a_running_ones_is_not(tmp_path):
    videos = noise_set(tmp_path)
    folder = build(tmp_path / "cache", videos).folder
    old, new = folder / ".a.npy.1.part", folder / ".a.npy.2.part"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    build(tmp_path / "cache", videos)
    assert new.exists() and not old.exists()


@pytest.mark.parametrize("damage", ["shortened", "overwritten"])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    videos = noise_set(tmp_path)
    cache = build(tmp_path / "cache", videos)
    file = cache.files[videos[0].frames[0]]
    content = file.read_bytes()
    file.write_bytes(content[:-1] if damage == "shortened" else b"other" + content[5:])
    cache = build(tmp_path / "cache", videos)
    assert torch.equal(cache.clip(videos[0], [8]), clip_of(videos[0], [8]))


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    videos = noise_set(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=10))
    with pytest.raises(OSError, match=r"MB are needed for prepared frames, 0 MB are free.*cache"):
        build(tmp_path / "cache", videos)
    assert not list(tmp_path.glob("cache/*/*"))


def test_a_frame_that_vanished_stops_or_leaves_its_video_out(tmp_path):
    videos = noise_set(tmp_path)
    videos[1].frames[1].unlink()
    with pytest.raises(ValueError, match="0002.png.*--skip-bad"):
        build(tmp_path / "cache", videos)
    cache = build(tmp_path / "cache", videos, skip_bad=True)
    assert cache.holds(videos[0]) and not cache.holds(videos[1])


def test_names_may_be_long_and_hold_signs_of_patterns(tmp_path):
    (name := tmp_path / "train" / ("眼" * 60 + "[1] *")).parent.mkdir()
    make_video(name, [1, 2])
    videos = find_videos(tmp_path, "train")
    for _ in range(2):
        cache = build(tmp_path / "cache", videos)
        assert torch.equal(cache.clip(videos[0], [1]), clip_of(videos[0], [1]))
        write(videos[0].frames[0], np.zeros((6, 8, 3), np.uint8))
    assert len(list(tmp_path.glob("cache/*/*.npy"))) == 1                  # the older one was found, and is gone


def test_a_folder_that_cannot_be_made_is_said_with_its_flag(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="prepared frames .--cache. cannot be made: Not a directory"):
        build(tmp_path / "file", noise_set(tmp_path))


def test_a_video_with_an_unreadable_frame_stops_or_is_decoded_where_bad_clips_are_skipped(tmp_path, capsys):
    videos = noise_set(tmp_path)
    cut(videos[1].frames[1])
    with pytest.raises(ValueError, match=r"cannot read image .*b/images/0002.png.*--skip-bad"):
        build(tmp_path / "cache", videos)
    cache = build(tmp_path / "cache", videos, skip_bad=True)
    assert "not prepared, its clips will be decoded: video b: " in capsys.readouterr().out
    assert cache.holds(videos[0]) and not cache.holds(videos[1])
    sample = ClipDataset(videos, shrink, clip_len=3, skip_bad=True, cache=cache)[0, 1]
    assert "0002.png" in sample["skipped"]


# Reading

def test_frames_are_rgb_and_densities_go_from_zero_to_one(tmp_path):
    write(tmp_path / "a.png", np.full((2, 3, 3), (255, 128, 0), np.uint8))
    write(tmp_path / "d.png", np.array([[0, 51, 255]], np.uint8))
    assert read_frame(tmp_path / "a.png")[0, 0].tolist() == [255, 128, 0]
    np.testing.assert_allclose(read_density(tmp_path / "d.png"), [[0, 0.2, 1]])


# Moving annotation

def test_fixations_move_point_by_point():
    fixations = np.zeros((4, 8), bool)
    fixations[0, 0] = fixations[3, 7] = fixations[2, 5] = True
    halved = move_fixations(fixations, (2, 4))
    assert {tuple(p) for p in np.argwhere(halved)} == {(0, 0), (1, 3), (1, 2)}
    doubled = move_fixations(fixations, (8, 16))
    assert doubled.sum() == 3 and doubled[1, 1] and doubled[7, 15] and doubled[5, 11]
    assert np.array_equal(move_fixations(fixations, (4, 8)), fixations)


def test_no_isolated_fixation_is_lost_in_shrinking():
    fixations = np.zeros((360, 640), bool)
    fixations[::9, ::11] = True
    assert move_fixations(fixations, (224, 384)).sum() == fixations.sum()  # nearest-neighbour resizing loses most


def test_density_is_resized_bilinearly():
    np.testing.assert_allclose(resize_density(np.array([[0, 1]], np.float32), (1, 4)), [[0, 0.25, 0.75, 1]])


# Clips

def test_a_clip_ends_at_its_annotated_frame(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 21), annotated=[12])
    sample = dataset(tmp_path, clip_len=4)[0, 0]
    assert sample["frame"] == "0012" and sample["video"] == "0001"
    assert numbers_of(sample) == [9, 10, 11, 12]
    assert sample["density"].unique().tolist() == [torch.tensor(12 / 255).item()]
    assert sample["fixations"].nonzero().tolist() == [[0, 4]]
    assert (sample["clip"].shape, sample["density"].shape, sample["fixations"].dtype) == ((3, 4, 6, 8), (6, 8), torch.bool)


def test_frame_stride_leaves_frames_out_between(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 21), annotated=[12])
    assert numbers_of(dataset(tmp_path, clip_len=4, frame_stride=3)[0, 0]) == [3, 6, 9, 12]


def test_a_short_video_repeats_its_first_frame_in_front(tmp_path):
    make_video(tmp_path / "train" / "0001", [5, 6])
    assert numbers_of(dataset(tmp_path, clip_len=4)[0, 0]) == [5, 5, 5, 6]


def test_a_training_clip_decodes_its_frames_once_and_one_map_of_each_kind(tmp_path, monkeypatch):
    make_video(tmp_path / "train" / "0001", range(1, 21))
    opened = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path: (opened.append(path.parent.name), real(path))[1])
    dataset(tmp_path, clip_len=8)[0, 0]
    assert sorted(opened) == ["fixation"] + ["images"] * 8 + ["maps"]


def test_validation_clips_end_at_every_nth_frame(tmp_path):
    make_video(tmp_path / "val" / "0001", range(1, 15))
    make_video(tmp_path / "val" / "0002", range(1, 3))
    clips = dataset(tmp_path, "val", clip_len=4, every=4)
    assert [clips[0, i]["frame"] for i in range(len(clips))] == ["0004", "0008", "0012", "0002"]


def test_maps_are_brought_to_the_given_size_and_kept_as_they_are_without_one(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 9))
    sample = dataset(tmp_path, clip_len=4, size=(3, 4))[0, 0]
    assert sample["density"].shape == sample["fixations"].shape == (3, 4)
    assert sample["fixations"].sum() == 1


def test_a_sample_depends_on_seed_epoch_and_index_only(tiny_set):
    def drawn(seed, epoch):
        clips = dataset(tiny_set, flip=True, clip_len=4, seed=seed)
        return [(clips[epoch, i]["frame"], clips[epoch, i]["clip"].sum().item()) for i in reversed(range(len(clips)))]
    assert drawn(0, 0) == drawn(0, 0)
    assert len({str(drawn(*key)) for key in ((0, 0), (0, 1), (1, 0))}) == 3


def test_flip_mirrors_clip_and_annotation_together_and_is_off_by_default(tmp_path):
    make_video(tmp_path / "train" / "0001", range(1, 5), annotated=[4])
    plain, flipping = dataset(tmp_path, clip_len=4), dataset(tmp_path, clip_len=4, flip=True)
    assert all(plain[epoch, 0]["fixations"][4, 4] for epoch in range(8))
    columns = [flipping[epoch, 0]["fixations"][4].nonzero().item() for epoch in range(40)]
    assert set(columns) == {4, 3} and 8 < columns.count(3) < 32


# Order and batches

def test_the_sampler_shuffles_by_epoch_and_can_start_in_the_middle():
    sampler = EpochBatches(10, 1, shuffle=True, seed=3)
    first = list(sampler)
    assert sorted(index for (_, index), in first) == list(range(10))
    sampler.start = 4
    assert list(sampler) == first[4:] and len(sampler) == 6
    sampler.epoch, sampler.start = 1, 0
    assert [index for (_, index), in sampler] != [index for (_, index), in first]
    assert list(EpochBatches(3, 2, shuffle=False)) == [[(0, 0), (0, 1)], [(0, 2)]]


@pytest.mark.parametrize("length, batch_size, processes", [(10, 1, 2), (11, 2, 2), (5, 2, 4), (3, 2, 3)])
def test_processes_share_each_batch_of_the_epoch(length, batch_size, processes):
    whole = EpochBatches(length, batch_size * processes, shuffle=True, seed=1)
    shares = [EpochBatches(length, batch_size, shuffle=True, seed=1, process=n, processes=processes) for n in range(processes)]
    whole.epoch, whole.start = 4, 1
    for share in shares:
        share.epoch, share.start = 4, 1
        assert len(share) == len(whole) and all(len(batch) <= batch_size for batch in share)
    for together, *parts in zip(whole, *shares):
        assert sorted(together) == sorted(item for part in parts for item in part)


def test_worker_processes_give_the_same_batches_as_none(tiny_set):
    def batches(workers):
        return [(b["video"], b["frame"], b["clip"].sum().item()) for b in clip_loader(dataset(tiny_set, clip_len=4), 2, workers, shuffle=True)]
    assert batches(0) == batches(1)


def dies(frame):
    """Kills the process that brings frame 3 to size, as a decoder that crashes would."""
    if frame[0, 0, 0] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return shrink(frame)


def test_the_death_of_a_loader_process_is_reported_with_the_file_it_read(tmp_path):
    make_video(tmp_path / "train" / "ünder way", range(1, 6))
    loader = clip_loader(ClipDataset(find_videos(tmp_path, "train"), dies, clip_len=4, every=4), 1, 1, shuffle=False)
    with pytest.raises(ChildProcessError, match=r"died while it read .*ünder way/images/0003.png: DataLoader worker "), dataloader.naming_deaths(loader):
        list(readable(loader))
    with pytest.raises(RuntimeError, match="^something else$"), dataloader.naming_deaths(loader):
        raise RuntimeError("something else")


# Clips of a video one after the other

def video_clips(videos, **options):
    prepare = lambda frame: torch.from_numpy(frame[:4, :6].copy()).permute(2, 0, 1)
    return VideoClips(videos, prepare, 10, (4, 6), **options)


def test_a_videos_clips_follow_each_other_and_the_last_one_is_shorter(tiny_set):
    videos = find_videos(tiny_set, "train")
    clips = video_clips(videos)
    first = [clips[0, index] for index in range(-(-len(videos[0].frames) // 10))]
    assert [clip["clip"].shape[1] for clip in first] == [10] * (len(videos[0].frames) // 10) + [len(videos[0].frames) % 10]
    assert [name for clip in first for name in clip["frame"]] == [path.stem for path in videos[0].frames] and {clip["number"] for clip in first} == {0}
    frame = read_frame(videos[0].frames[13])
    assert torch.equal(first[1]["clip"][:, 3], torch.from_numpy(frame[:4, :6].copy()).permute(2, 0, 1))
    assert torch.equal(first[1]["density"][3], torch.from_numpy(resize_density(read_density(videos[0].maps[videos[0].frames[13].stem]), (4, 6))))
    assert clips[0, len(first)]["number"] == 1


def test_frames_without_annotation_are_seen_and_not_compared_and_what_follows_the_last_annotated_clip_is_left_out(tiny_set):
    video = find_videos(tiny_set, "train")[0]
    kept = [path.stem for path in video.frames[:25] if path.stem not in {video.frames[3].stem, video.frames[12].stem}]
    partly = Video(video.name, video.frames, {stem: video.maps[stem] for stem in kept}, video.fixations)
    clips = video_clips([partly])
    assert len(clips) == 3 and clips[0, 0]["annotated"].tolist() == [n != 3 for n in range(10)]
    assert [len(clips[0, n]["density"]) for n in range(3)] == [9, 9, 5] and clips[0, 2]["clip"].shape[1] == 10
    none = Video(video.name, video.frames, {video.frames[15].stem: video.maps[video.frames[15].stem]}, video.fixations)
    assert video_clips([none])[0, 0]["density"].shape == (0, 4, 6)


def test_a_whole_video_is_mirrored_or_none_of_it(tiny_set):
    videos = find_videos(tiny_set, "train")
    plain, mirrored = video_clips(videos), video_clips(videos, flip=True)
    for epoch in range(6):
        turned = {}
        for index in range(len(plain)):
            straight, other = plain[epoch, index], mirrored[epoch, index]
            same = torch.equal(straight["clip"], other["clip"])
            assert same or (torch.equal(straight["clip"].flip(-1), other["clip"]) and torch.equal(straight["density"].flip(-1), other["density"]))
            turned.setdefault(straight["number"], set()).add(same)
        assert all(len(found) == 1 for found in turned.values())
    assert not all(torch.equal(plain[epoch, 0]["clip"], mirrored[epoch, 0]["clip"]) for epoch in range(6))


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_each_process_takes_videos_of_its_own_whole_and_in_order(processes):
    lengths = [3, 1, 4, 2]
    clips = [[10 * video + clip for clip in range(length)] for video, length in enumerate(lengths)]
    shares = [VideoBatches(clips, True, 0, process, processes) for process in range(processes)]
    for share in shares:
        share.epoch = 5
    taken = [list(share) for share in shares]
    assert len({len(batches) for batches in taken}) == 1 and all(len(share) == len(batches) for share, batches in zip(shares, taken))
    indices = [[index for batch in batches for _, index in batch] for batches in taken]
    assert sorted(itertools.chain(*indices)) == sorted(itertools.chain(*clips))
    for own in indices:
        videos = [index // 10 for index in own]
        assert own == [clip for video in dict.fromkeys(videos) for clip in clips[video]]
    for share, batches in zip(shares, taken):
        share.start = 2
        assert list(share) == batches[2:]


def test_videos_come_in_another_order_in_each_epoch():
    batches = VideoBatches([[number] for number in range(20)], True, 0)
    orders = []
    for epoch in (0, 1, 0):
        batches.epoch = epoch
        orders.append([index for (_, index), in batches])
    assert orders[0] == orders[2] != orders[1] and sorted(orders[1]) == list(range(20))


def test_clips_that_cannot_be_read_are_left_out_or_raised(tiny_set, tmp_path):
    shutil.copytree(tiny_set, tmp_path / "set")
    videos = find_videos(tmp_path / "set", "train")
    videos[0].frames[12].write_bytes(b"half a picture")
    loader = clip_loader(video_clips(videos, skip_bad=True), 1, 0, shuffle=False)
    batches = list(readable(loader))
    assert ["clip" in batch for batch in batches[:3]] == [True, False, True] and len(batches[1]["skipped"]) == 1
    with pytest.raises(ValueError, match="To go on without such clips: --skip-bad"):
        list(readable(clip_loader(video_clips(videos), 1, 0, shuffle=False)))


def test_a_loader_draws_nothing_from_trainings_random_numbers(tiny_set):
    loader = clip_loader(dataset(tiny_set, clip_len=2), 1, 0, shuffle=True)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(before, torch.get_rng_state())


# Resizing as MATLAB does

@pytest.mark.parametrize("before, after", [((24, 30), (41, 57)), ((60, 50), (17, 31)), ((33, 20), (20, 33)), ((9, 9), (9, 9)), ((3, 4), (40, 2))])
def test_imresize_is_antialiased_bicubic_with_mirrored_borders(before, after):
    """Pillow's bicubic has the same kernel; given the mirrored surroundings, it has the same borders."""
    image = np.random.default_rng(0).random(before)
    surroundings = Image.fromarray(np.pad(image, 80, mode="symmetric").astype(np.float32))
    expected = surroundings.resize(after[::-1], Image.Resampling.BICUBIC, box=(80, 80, 80 + before[1], 80 + before[0]))
    assert imresize(torch.from_numpy(image), after).numpy() == pytest.approx(np.array(expected), abs=1e-6)


def test_imresize_of_a_step_known_by_hand():
    """Twice as long: pixels take -9, 111, 29 and -3 of 128 from those at 1.25, 0.25, 0.75 and 1.75, or the mirror image of it."""
    resized = imresize(torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]), (1, 12))[0] * 128
    assert resized.tolist() == pytest.approx([0, 0, 0, -3, -9, 29 - 3, 128 - 26, 128 + 9, 128 + 3, 128, 128, 128])


def test_imresize_of_8_bits_shrinks_the_axis_that_shrinks_most_first():
    """Rounding in between makes the order visible: here only the columns shrink."""
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (6, 12), np.uint8))
    assert torch.equal(imresize(image, (11, 5)), imresize(imresize(image, (6, 5)), (11, 5)))
    assert not torch.equal(imresize(image, (11, 5)), imresize(imresize(image, (11, 12)), (11, 5)))
    assert torch.equal(imresize(image, (3, 24)), imresize(imresize(image, (3, 12)), (3, 24)))


def test_imresize_rounds_and_limits_8_bits_after_either_pass_and_keeps_a_constant():
    assert (imresize(torch.full((7, 5), 200, dtype=torch.uint8), (13, 4)) == 200).all()
    step = torch.tensor([[0, 0, 0, 255, 255, 255]], dtype=torch.uint8)
    assert imresize(step, (1, 12))[0, 3:9].tolist() == [0, 0, 52, 203, 255, 255]  # over- and undershoot cut off; 26 / 128 of 255 is 51.8
    half = torch.tensor([[0, 1]], dtype=torch.uint8)
    assert imresize(half, (1, 1)).item() == 1                              # 0.5 rounds up, as in MATLAB
    assert imresize(torch.tensor([[0, 1], [0, 0]], dtype=torch.uint8), (1, 1)).item() == 1  # rows: 0, 0.5 -> 1; then 0.5 -> 1; at once: 0.25 -> 0


# Frames with flow, and masks

class Grey:
    """Pictures of flow whose level is the frame's index."""

    def pictures(self, frames):
        return [np.full((40, 64, 3), index, np.uint8) for index in range(len(frames))]


def resized(frame):
    return torch.from_numpy(frame[::4, ::4].copy()).permute(2, 0, 1)


def test_every_frame_with_a_mask_is_an_item_of_one_frame_its_flow_and_its_mask_at_the_networks_size(vsod_set):
    videos = find_videos(vsod_set, "TrainSet_Video", annotation="mask")
    frames = ClipDataset(videos, resized, 1, size=(10, 16), every=1, flow=Grey(), masks=True)
    assert len(frames) == sum(len(video.masked()) for video in videos) == 18
    sample = frames[0, 3]
    assert sample["clip"].shape == sample["flow"].shape == (3, 1, 10, 16) and (sample["flow"] == 3).all() and "fixations" not in sample
    assert sample["density"].shape == (10, 16) and 0 <= sample["density"].min() and 0.5 < sample["density"].max() <= 1
    mask = np.array(Image.open(videos[0].masks[videos[0].frames[3].stem]).resize((16, 10), Image.Resampling.BILINEAR)) / 255
    assert np.allclose(sample["density"], mask, atol=1e-6)


def test_a_clip_of_several_frames_has_the_flow_of_each(vsod_set):
    videos = find_videos(vsod_set, "TestSet/sample", annotation="mask")
    groups = ClipDataset(videos, resized, 5, every=5, flow=Grey(), masks=True)
    assert groups[0, 0]["flow"][0, :, 0, 0].tolist() == [0, 1, 2, 3, 4] and groups[0, 0]["frame"] == "00004" and groups[0, 0]["density"].shape == (40, 64)


@pytest.mark.parametrize("good, filled", [(1, 5), (3, 5), (5, 5), (7, 10)])
def test_a_batch_is_filled_up_to_whole_groups_with_its_own_samples(vsod_set, good, filled):
    videos = find_videos(vsod_set, "TrainSet_Video", annotation="mask")
    frames = ClipDataset(videos, resized, 1, size=(10, 16), every=1, masks=True, group=5)
    batch = frames.collate([frames[0, index] for index in range(good)] + [{"skipped": "why"}])
    assert len(batch["density"]) == len(batch["clip"]) == filled and batch["skipped"] == ["why"]
    assert batch["frame"] == [f"{index % good:05d}".join(["s001_", ""]) for index in range(filled)]


def test_a_batch_of_nothing_stays_empty(vsod_set):
    frames = ClipDataset(find_videos(vsod_set, "TrainSet_Video", annotation="mask"), resized, 1, size=(10, 16), every=1, masks=True, group=5)
    assert frames.collate([{"skipped": "why"}]) == {"skipped": ["why"]}


def test_pictures_of_flow_cannot_be_mirrored(vsod_set):
    with pytest.raises(ValueError, match=r"cannot be mirrored \(--flip\)"):
        ClipDataset(find_videos(vsod_set, "TrainSet_Video", annotation="mask"), resized, 1, flow=Grey(), masks=True, flip=True)


def test_prepared_frames_of_videos_that_share_a_folder_are_each_their_own(vsod_set, tmp_path):
    videos = find_videos(vsod_set, "TrainSet_Video", annotation="mask")
    cache = FrameCache(tmp_path, lambda frame: torch.from_numpy(frame[:40:4, :64:4].copy()).permute(2, 0, 1))
    cache.build(videos)
    assert videos[0].frames[0].parent == videos[1].frames[0].parent
    for video in videos:
        assert torch.equal(cache.clip(video, [2]), resized(np.array(Image.open(video.frames[2])))[:, None])
