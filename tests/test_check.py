import json
import re
import shutil

import numpy as np
import pytest
import scipy.io
from conftest import TESTS
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import (
    LAYOUTS,
    SETTINGS,
    check,
    cut,
    dataset,
    make_checked_video,
    make_masked,
    make_video,
    make_vsod,
    prepare,
    write,
    write_fixations,
    write_layout,
)

from dataloader import ClipDataset
from videos.check import check_dataset, inventory
from videos.images import read_frame
from videos.splits import DATASETS
from videos.trees import TREES
from videos.video import find_videos


def test_what_was_found_is_said_in_one_line(tmp_path):
    make_video(tmp_path / "train" / "a", range(1, 41))
    make_video(tmp_path / "train" / "b", range(1, 4), annotated=[2, 3])
    write_fixations(tmp_path / "train" / "b" / "fixation" / "0003.png", [])
    videos = find_videos(tmp_path, "train")
    assert inventory(videos) == "2 videos, 43 frames, 42 annotated, 1 without fixation, 1 videos shorter than 32 frames"
    assert "42 annotated, 1 of 2 looked at without fixation" in inventory(videos, look_at=2)
    write(tmp_path / "train" / "a" / "fixation" / "0001.png", np.diag(np.array([9, 99, 0, 0, 0, 0, 0], np.uint8)))
    assert "1 videos shorter than 32 frames, 1 of 2 looked at with a doubtful fixation map (python dataloader.py check" in inventory(videos, look_at=2)


def test_what_was_found_says_how_many_frames_have_masks(tmp_path):
    make_masked(tmp_path / "v" / "Frame", tmp_path / "v" / "GT", ["1", "2", "3"], masked=["1", "3"])
    make_masked(tmp_path / "w" / "Frame", tmp_path / "w" / "GT", ["1"], masked=[])
    assert inventory(find_videos(tmp_path, "all", need_annotation=False)) == "2 videos, 4 frames, 2 with masks"
    write(tmp_path / "v" / "GT" / "1.png", 2 * np.eye(6, 8, dtype=np.uint8))
    assert inventory(find_videos(tmp_path, "all", need_annotation=False)).startswith("2 videos, 4 frames, 2 with masks, 1 with an interpreted mask (")


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
    videos = find_videos(tmp_path, "train", annotation="density alone")
    assert [video.annotated() for video in videos] == [list(range(6))] * 2
    assert inventory(videos) == "2 videos, 12 frames, 12 annotated, 0 without fixation, 2 videos shorter than 32 frames, 12 with a density map alone"
    sample = ClipDataset(videos, prepare, clip_len=2)[0, 0]
    assert sample["density"].max() > 0 and sample["fixations"].shape == sample["density"].shape and not sample["fixations"].any()
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 0 and "0 errors, 2 warnings: this can be trained on" in out and "warning: missing: train/a: no fixation maps for video a" in out
    make_checked_video(tmp_path / "train" / "c")                           # where others have fixation maps, they were lost
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 1 and "error: missing: train/a: no fixation maps for video a" in out


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


@pytest.mark.parametrize("place", ["fixation/notes.csv", "fixation/0009.csv", "fixation/maps/notes.csv", "maps/0001.csv", "images/0001.csv"])
def test_a_csv_file_that_is_not_the_points_of_a_frame_is_a_warning(tmp_path, capsys, place):
    folder = make_checked_video(tmp_path / "train" / "a")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text("observer,age\n0,31\n")
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 0 and f"warning: extra: train/a: {folder / place}: neither an image nor a .mat file, nor the points (.csv) of a frame" in out
    assert "0 errors, 1 warnings" in out


def test_fixations_as_points_are_no_stray_files_and_wrong_ones_fail_the_check(tmp_path, capsys):
    folder = make_checked_video(tmp_path / "train" / "a")
    for path in list((folder / "fixation").iterdir()):
        path.unlink()
        path.with_suffix(".csv").write_text("x,y,observer\n7.9,5.9,0\n")
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 0 and "6 annotated, 0 without fixation" in out and "0 errors, 0 warnings" in out
    path.with_suffix(".csv").write_text("x,y,observer\n5.9,7.9,0\n")        # swapped: outside
    code, out = check(capsys, tmp_path, "--split", "train")
    assert code == 1 and f"error: unreadable: train/a: {path.with_suffix('.csv')}, line 2: x = 5.9, y = 7.9 is outside" in out


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
    assert report["splits"] == [{"split": "train", "tree": TREES[0].used_by, "videos": 1, "frames": 6, "annotated": 6, "without_fixation": 1, "masked": 0, "shorter_than_32": 1}]
    assert not report["problems"] and report["trainable"]


@pytest.mark.parametrize("flags, said", [(["nowhere"], "no dataset nowhere"), ([".", "--split", "absent"], "no videos in .")])
def test_a_check_of_nothing_ends_with_one_line_and_exit_code_2(tmp_path, run_script, flags, said):
    ended = run_script(TESTS.parent / "dataloader.py", "check", *flags, cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.startswith(f"dataloader.py: error: {said}") and "Traceback" not in ended.stderr
