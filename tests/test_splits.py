import shutil

import numpy as np
import pytest
from small_sets import LAYOUTS, make_masked, make_video, make_vsod, write, write_layout

from videos.check import check_dataset
from videos.splits import DATASETS, of_datasets
from videos.video import find_videos


def test_no_dataset_no_split_and_an_empty_split_are_said_with_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dataset .*nowhere.*make_sample.py"):
        find_videos(tmp_path / "nowhere", "train")
    make_video(tmp_path / "train" / "0001", [1])
    with pytest.raises(FileNotFoundError, match='no split "val".*holds train'):
        find_videos(tmp_path, "val")
    (tmp_path / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="no videos in .*val"):
        find_videos(tmp_path, "val")


def test_bad_videos_are_left_out_and_listed_where_asked_for(tmp_path):
    make_video(tmp_path / "train" / "0001", [1, 2])
    make_video(tmp_path / "train" / "0002", [1, 3])
    skipped = []
    assert [v.name for v in find_videos(tmp_path, "train", skipped=skipped)] == ["0001"]
    assert len(skipped) == 1 and "0002" in skipped[0]
    shutil.rmtree(tmp_path / "train" / "0001")
    with pytest.raises(FileNotFoundError, match="no usable video.*all 1 were skipped"):
        find_videos(tmp_path, "train", skipped=[])


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


def test_videos_of_one_name_in_two_splits_are_no_problem_until_both_are_asked_for(tmp_path):
    write_layout(tmp_path, LAYOUTS["RecSal-Net"], {"train": [1], "val": [1]})
    assert len(find_videos(tmp_path, "train")) == 1
    with pytest.raises(ValueError, match="share their name"):
        find_videos(tmp_path, "all")


def test_the_splits_of_the_known_set_of_masks_are_its_folders(tmp_path):
    make_vsod(tmp_path)
    known = DATASETS["vsod"]
    assert [len(find_videos(tmp_path, split, annotation="mask")) for split in (known.train, known.val, known.test)] == [2, 2, 2]


def test_every_dataset_is_scored_on_its_test_split_or_on_the_parts_of_it():
    assert DATASETS["dhf1k"].scored() == ("val",) and DATASETS["diem"].scored() == ("test",)
    assert DATASETS["gaze-images"].scored() == ("osie-test", "eyecrowd-test", "sun500-test")
    assert of_datasets("train").startswith("default: train; ") and "gaze-images" not in of_datasets("train")  # as the first
    assert of_datasets("test").endswith("diem: test; vsod: TestSet/DAVIS; gaze-images: osie-test eyecrowd-test sun500-test")


def test_a_video_of_one_name_in_two_test_sets_is_an_error_until_one_is_chosen(tmp_path):
    sets = tmp_path / "TestSet"
    for name in ("DAVIS", "FBMS"):
        make_masked(sets / name / "bear" / "Frame", sets / name / "bear" / "GT", ["1", "2"])
    for root, split in ((sets, "all"), (tmp_path, "TestSet")):
        with pytest.raises(ValueError, match="1 videos share their name with another, such as bear: choose a split"):
            find_videos(root, split, annotation="mask")
    assert len(find_videos(sets, "FBMS", annotation="mask")) == 1


def test_sets_of_density_maps_are_not_looked_for_two_folders_below(tmp_path):
    make_video(tmp_path / "collection" / "set" / "train" / "a", [1, 2])
    make_video(tmp_path / "collection" / "b" / "c", [1, 2])
    for root, split in ((tmp_path, "all"), (tmp_path, "collection")):
        with pytest.raises(FileNotFoundError, match="no videos in|no frames of video b"):
            find_videos(root, split)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_lists_may_have_windows_line_ends_a_byte_order_mark_and_other_zeros(tmp_path, encoding):
    write_layout(tmp_path, LAYOUTS["SalEMA"], {"": [1, 2, 3]})
    (tmp_path / "mine.txt").write_bytes("0003\r\n001\r\n".encode(encoding))
    assert [video.name for video in find_videos(tmp_path, "mine.txt")] == [video.name for video in find_videos(tmp_path, "mine")] == ["1", "3"]


@pytest.mark.parametrize("content, said", [("\ufeff1".encode("utf-16"), "mine.txt is not text in UTF-8"), (b"\n", "lists 0 videos: a name in each line"), (None, "no list mine.txt: there is no such file")])
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
