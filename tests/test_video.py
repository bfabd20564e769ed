import itertools
import shutil

import numpy as np
import pytest
import scipy.io
from hypothesis import assume, given
from hypothesis import strategies as st
from small_sets import (
    SETTINGS,
    make_masked,
    make_video,
    write,
    write_fixations,
    write_mask,
)

from videos.annotation import read_fixations
from videos.check import check_dataset
from videos.trees import VideoFolders
from videos.video import find_videos, list_frames, list_video, open_video


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


def test_annotation_without_frame_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"annotation without frame in video .*: 2 files, the first .*maps/0003.png; .* holds 2 frames, 0001.png to 0002.png"):
        open_video(make_video(tmp_path / "v", [1, 2], annotated=[1, 2, 3]))


def test_a_video_without_annotation_is_an_error_only_where_it_is_needed(tmp_path):
    folder = make_video(tmp_path / "v", [1, 2], annotated=[])
    with pytest.raises(FileNotFoundError, match="no annotation for video .*use predict.py"):
        open_video(folder)
    assert open_video(folder, need_annotation=False).annotated() == []


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


def test_of_two_folders_of_fixations_the_first_counts(tmp_path):
    folder = make_video(tmp_path / "v", [1])
    write_fixations(folder / "fixations" / "0001.png", [(5, 5)])
    write_fixations(folder / "fixation" / "maps" / "0001.mat", [(4, 4)])
    assert open_video(folder).fixations["0001"] == folder / "fixation" / "0001.png"


@pytest.mark.parametrize("places", [("fixation/0001.csv",), ("fixations/0001.csv",), ("fixation/maps/0001.csv",), ("fixations/0001.mat", "fixation/0001.csv"),
                                    ("fixations/maps/0001.mat", "fixation/0001.csv"), ("fixations/0001.png", "fixation/0001.csv"), ("fixation/1.csv",)])
def test_points_are_paired_by_name_where_there_is_neither_image_nor_mat(tmp_path, places):
    folder = make_video(tmp_path / "v", [1])
    (folder / "fixation/0001.png").unlink()
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if place.endswith(".csv"):
            (folder / place).write_text("x,y,observer\n4.5,3.2,0\n")
        else:
            write_fixations(folder / place, [(3, 4)])
    video = open_video(folder)
    assert video.fixations["0001"] == folder / places[0] and video.annotated() == [0]
    assert np.argwhere(read_fixations(video.fixations["0001"], video.maps["0001"])).tolist() == [[3, 4]]


@pytest.mark.parametrize("place", ["fixation/notes.csv", "fixation/0002.csv", "fixation/maps/notes.csv", "fixation/sub-0001.csv"])
def test_a_csv_file_that_is_not_named_like_a_frame_is_no_annotation(tmp_path, place):
    folder = make_video(tmp_path / "v", [1])
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text("observer,age\n0,31\n")
    assert open_video(folder).fixations == {"0001": folder / "fixation/0001.png"}


def test_points_are_paired_as_other_fixations_of_diem_are(tmp_path):
    folder = make_video(tmp_path / "v", [1])
    for kind, name in (("images", "img_00001"), ("maps", "eyeMap_00001")):
        (folder / kind / "0001.png").rename(folder / kind / f"{name}.png")
    (folder / "fixation/0001.png").unlink()
    (folder / "fixation/fixMap_00001.csv").write_text("x,y\n4,3\n")
    assert open_video(folder).fixations == {"img_00001": folder / "fixation/fixMap_00001.csv"}


def test_a_video_thinned_out_in_time_has_no_gap_but_one_with_a_frame_lost_has(tmp_path):
    assert len(open_video(make_video(tmp_path / "a", [5, 10, 15, 20])).frames) == 4
    with pytest.raises(FileNotFoundError, match=r"0020.png follows 0010.png"):
        open_video(make_video(tmp_path / "b", [5, 10, 20]))


# Salient objects: masks instead of density and fixation maps

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


# The same for any names, gaps and lengths

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
    _, problems = list_video(VideoFolders("v", root / "v" / "images", root, ()))
    named = [problem.message for problem in problems if problem.kind == "missing"]
    expected = [f"{after:04d}.png follows {before:04d}.png" for before, after in itertools.pairwise(kept) if after - before > 1]
    assert len(named) == len(expected) and all(text in message for text, message in zip(expected, named))


def test_frames_to_predict_may_have_names_that_differ_in_zeros_only(tmp_path):
    empty_files(tmp_path / "a", ["1.png", "2.png", "02.png", "img_1.png"])
    assert {path.name for path in list_frames(tmp_path / "a")} == {"1.png", "2.png", "02.png", "img_1.png"}
    (tmp_path / "a" / "2.jpg").touch()
    with pytest.raises(ValueError, match="two frames share a name"):
        list_frames(tmp_path / "a")


def test_one_lost_fixation_map_is_not_a_frame_with_a_density_map_alone(tmp_path):
    folder = make_video(tmp_path / "train" / "a", [1, 2, 3])
    (folder / "fixation" / "0002.png").unlink()
    assert find_videos(tmp_path, "train", annotation="density alone")[0].annotated() == [0, 2]


def test_fixations_without_density_maps_say_how_to_make_them(tmp_path):
    shutil.rmtree(make_video(tmp_path / "v", [1, 2]) / "maps")
    with pytest.raises(FileNotFoundError, match="data.make_maps` makes density maps"):
        open_video(tmp_path / "v")
