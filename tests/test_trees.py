import functools
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from small_sets import (
    LAYOUTS,
    check,
    dataset,
    make_checked_video,
    make_masked,
    make_video,
    make_vsod,
    numbers_of,
    write,
    write_fixations,
    write_frame,
    write_layout,
)

from videos.annotation import read_density, read_fixations, read_mask
from videos.check import check_dataset
from videos.images import read_frame
from videos.names import sequence_name
from videos.splits import DATASETS
from videos.video import find_videos, open_video


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


def test_videos_1_and_01_of_one_folder_are_two(tmp_path):
    for name in ("1", "01"):
        make_video(tmp_path / "train" / name, [1, 2])
    assert sorted(video.name for video in find_videos(tmp_path, "train")) == ["01", "1"]


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


# Salient objects: masks instead of density and fixation maps

def masked_stems(video):
    """The stems of the frames with a mask; each mask is its own frame's."""
    for index in video.masked():
        column = read_frame(video.frames[index])[0, 0, 0]
        assert np.argwhere(read_mask(video.masks[video.frames[index].stem])[0]).tolist() == [[column]]
    return [video.frames[index].stem for index in video.masked()]


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
    assert sequence_name(stem) == name


def test_frames_of_a_shared_folder_come_in_the_order_of_their_numbers(tmp_path):
    make_masked(tmp_path / "Imgs", tmp_path / "GTs", ["a_2", "a_10", "a_1", "b_5"])
    assert [[path.stem for path in video.frames] for video in find_videos(tmp_path, "all", annotation="mask")] == [["a_1", "a_2", "a_10"], ["b_5"]]
    assert check_dataset(tmp_path, "all")["problems"] == []                # neither jumps nor names without zeros matter there


def test_a_folder_that_is_named_by_a_dot_still_names_the_video_of_numbers(tmp_path, monkeypatch):
    make_masked(tmp_path / "mine" / "Imgs", tmp_path / "mine" / "GTs", ["1", "2"])
    monkeypatch.chdir(tmp_path / "mine")
    assert [video.name for video in find_videos(Path(), "all", annotation="mask")] == ["mine"]
