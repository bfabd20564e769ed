import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import prepare_dhf1k
import pytest
from prepare_dhf1k import density_map, gaze_to_fixations, locate_gaze, read_gaze

HEADER = "Time\tType\tTrial\tL Dia X [px]\tL Dia Y [px]\tL POR X [px]\tL POR Y [px]\tL Event Info"
SIZE = (45, 90)         # on the 900 x 1440 screen: 16 screen pixels per pixel and a bar of 90 above, so that all is exact
START = 84_042_779_051


def samples(*rows):
    """Gaze records (microseconds since the first, x, y, fixation) whose positions are given in (unrounded) pixels of the video."""
    origin = (START, 0.0, 0.0, False)
    return np.array([origin, *((START + t, 16 * x, 90 + 16 * y, f) for t, x, y, f in rows)], dtype=prepare_dhf1k.SAMPLE)


def pixels(gaze, num_frames=4):
    return [tuple(int(i) for i in point) for point in locate_gaze(gaze, num_frames, SIZE)[0]]


def write_gaze(path, gaze, header=HEADER):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{g['time']}\tSMP\t1\t16.4\t16.4\t{g['x']}\t{g['y']}\t{'Fixation' if g['fixation'] else 'Saccade'}" for g in gaze]
    path.write_text("\n".join([header, *rows]) + "\n")


def write_video(path, num_frames, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30, (size[1] // 2 * 2, size[0] // 2 * 2))
    for k in range(num_frames):
        writer.write(np.full((size[0] // 2 * 2, size[1] // 2 * 2, 3), 40 + 50 * k, dtype=np.uint8))
    writer.release()


def write_annotation(folder, num_maps, num_fixations):
    for kind, count in (("maps", num_maps), ("fixation", num_fixations)):
        (folder / kind).mkdir(parents=True)
        for k in range(1, count + 1):
            (folder / kind / f"{k:04d}.png").write_bytes(prepare_dhf1k.encode_png(np.full(SIZE, k, dtype=np.uint8)))


def prepare(source, out, *flags):
    return prepare_dhf1k.main(prepare_dhf1k.arguments().parse_args([str(source), "--out", str(out), *flags]))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def source(tmp_path):
    """Video 2 of three frames, with its released annotation."""
    write_video(tmp_path / "source/video/002.AVI", 3)
    write_annotation(tmp_path / "source/annotation/0002", 3, 3)
    return tmp_path / "source"


# --- raw gaze --------------------------------------------------------------------------------------------------------------

def test_a_file_with_a_header_only_is_an_error(tmp_path):
    write_gaze(tmp_path / "gaze.txt", [])
    with pytest.raises(ValueError, match=r"gaze\.txt: expected gaze samples"):
        read_gaze(tmp_path / "gaze.txt")


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "gaze.txt").touch()
    with pytest.raises(ValueError, match=r"gaze\.txt, line 1"):
        read_gaze(tmp_path / "gaze.txt")


def test_a_missing_column_is_named(tmp_path):
    write_gaze(tmp_path / "gaze.txt", samples(), header=HEADER.replace("L POR X", "R POR X"))
    with pytest.raises(ValueError, match=r"gaze\.txt, line 1: .*\['L POR X \[px\]'\]"):
        read_gaze(tmp_path / "gaze.txt")


@pytest.mark.parametrize("line", ["1\tSMP\t1\t1\t1\t5", "1\tSMP\t1\t1\t1\tleft\t5\tFixation", "1.5\tSMP\t1\t1\t1\t5\t5\tFixation",
                                  "1\tSMP\t1\t1\t1\tnan\t5\tFixation"])
def test_a_malformed_line_is_an_error_with_file_and_line(tmp_path, line):
    (tmp_path / "gaze.txt").write_text(f"{HEADER}\n1\tSMP\t1\t1\t1\t5\t5\tFixation\n{line}\n")
    with pytest.raises(ValueError, match=r"gaze\.txt, line 3: expected"):
        read_gaze(tmp_path / "gaze.txt")


def test_columns_are_found_by_name_and_line_ends_do_not_matter(tmp_path):
    (tmp_path / "gaze.txt").write_bytes(b"L Event Info\tL POR Y [px]\tL POR X [px]\tTime\r\nFixation\t2.5\t1.5\t7\r\n-\t4\t3\t8\r\n\r\n")
    assert read_gaze(tmp_path / "gaze.txt").tolist() == [(7, 1.5, 2.5, True), (8, 3.0, 4.0, False)]


def test_what_is_written_is_what_is_read(tmp_path):
    gaze = samples((1, 10, 20, True), (4001, 30, 40, False))
    write_gaze(tmp_path / "gaze.txt", gaze)
    assert read_gaze(tmp_path / "gaze.txt").tolist() == gaze.tolist()


def test_no_observers_give_empty_maps():
    maps = list(gaze_to_fixations([], 2, SIZE))
    assert len(maps) == 2 and not np.any(maps) and maps[0].shape == SIZE and maps[0].dtype == bool


def test_the_screen_is_letter_boxed_and_pixels_count_from_one():
    assert pixels(samples((1, 10, 20, True))) == [(0, 19, 9)]
    at_640_by_360 = np.array([(0, 0, 0, False), (1, 9.0, 45 + 18.0, True)], dtype=prepare_dhf1k.SAMPLE)     # scale 4/9, a bar of 45
    assert locate_gaze(at_640_by_360, 1, (360, 640))[0].tolist() == [[0, 7, 3]]


def test_halves_are_rounded_away_from_zero():
    assert pixels(samples((1, 2.5, 0.5, True))) == [(0, 0, 2)]      # to even would be 2 and 0: another pixel, and off the video
    assert prepare_dhf1k.round_half_away(np.array([-2.5, -0.5, -0.4, 0.5, 1.5, 2.5])).tolist() == [-3, -1, 0, 1, 2, 3]


@pytest.mark.parametrize("x, y, kept", [(0.4, 20, False), (0.5, 20, True), (89.4, 20, True), (89.5, 20, False), (-5, 20, False),
                                        (10, 0.4, False), (10, 0.5, True), (10, 44.4, True), (10, 44.5, False), (200, 20, False)])
def test_samples_at_and_beyond_the_borders_are_dropped_the_last_pixel_included(x, y, kept):
    points, counts = locate_gaze(samples((1, x, y, True)), 1, SIZE)
    assert len(points) == counts["used"] == kept
    assert counts["off_video"] == (not kept)


def test_only_events_that_begin_with_f_count():
    gaze = samples((1, 10, 20, True), (2, 30, 20, False))
    assert pixels(gaze) == [(0, 19, 9)]
    for event, fixation in (("Fixation", True), ("F", True), ("Saccade", False), ("Blink", False), ("-", False), ("", False)):
        fields = ["7", "1.0", "2.0", event]
        assert prepare_dhf1k.gaze_sample(fields, {"time": 0, "x": 1, "y": 2, "event": 3}, "here") == (7, 1.0, 2.0, fixation)


@pytest.mark.parametrize("microseconds, frame", [(0, None), (1, 0), (33_333, 0), (33_334, 1), (99_999, 2), (100_000, None), (100_001, 3),
                                                 (133_333, 3), (133_334, None), (-5, None)])
def test_a_sample_exactly_between_two_frames_or_after_the_last_belongs_to_none(microseconds, frame):
    points, counts = locate_gaze(samples((microseconds, 10, 20, True)), 4, SIZE)
    assert points[:, 0].tolist() == ([] if frame is None else [frame])
    assert counts["off_time"] == (frame is None)


def test_every_sample_is_counted_once():
    gaze = samples((1, 10, 20, True), (2, -5, 20, True), (3, -5, 20, False), (900_001, 10, 20, True), (900_002, -5, 20, True))
    counts = locate_gaze(gaze, 4, SIZE)[1]
    assert counts == {"used": 1, "not_fixation": 2, "off_video": 2, "off_time": 1}                  # the first sample is a saccade


def test_the_grid_rule_combines_all_rows_and_columns_of_one_observer_within_a_frame():
    gaze = samples((1, 10, 20, True), (2, 30, 40, True), (40_000, 50, 5, True))
    first, second = gaze_to_fixations([gaze], 2, SIZE, "grid")
    assert np.argwhere(first).tolist() == [[19, 9], [19, 29], [39, 9], [39, 29]]
    assert np.argwhere(second).tolist() == [[4, 49]]


def test_the_points_rule_sets_the_pixels_looked_at():
    first, _ = gaze_to_fixations([samples((1, 10, 20, True), (2, 30, 40, True))], 2, SIZE, "points")
    assert np.argwhere(first).tolist() == [[19, 9], [39, 29]]


def test_different_observers_are_not_combined():
    one, other = samples((1, 10, 20, True)), samples((1, 30, 40, True))
    assert np.argwhere(next(gaze_to_fixations([one, other], 1, SIZE, "grid"))).tolist() == [[19, 9], [39, 29]]


def test_an_unknown_rule_is_an_error_at_once():
    with pytest.raises(ValueError, match="expected a fixation rule among"):
        gaze_to_fixations([], 1, SIZE, "cross")


# --- density ---------------------------------------------------------------------------------------------------------------

def test_no_fixation_gives_a_density_of_zero():
    density = density_map(np.zeros((20, 30), dtype=bool))
    assert density.dtype == np.uint8 and density.shape == (20, 30) and not density.any()


def test_one_fixation_gives_a_gaussian_with_a_peak_of_255():
    fixations = np.zeros((41, 61), dtype=bool)
    fixations[20, 30] = True
    density = density_map(fixations, sigma=4)
    assert density[20, 30] == 255 and density[0, 0] == 0
    assert density[20, 34] == density[24, 30] == round(255 * np.exp(-1 / 2)) and density[20, 38] == round(255 * np.exp(-2))


def test_nothing_is_mirrored_at_the_border():
    fixations = np.zeros((60, 60), dtype=bool)
    fixations[0, 0] = fixations[40, 40] = True
    density = density_map(fixations, sigma=3)
    assert density[0, 0] == density[40, 40] == 255


# --- files -----------------------------------------------------------------------------------------------------------------

def test_a_missing_source_is_an_error_that_says_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected DHF1K's videos in"):
        prepare(tmp_path / "nowhere", tmp_path / "out")


def test_a_folder_without_videos_is_an_error(tmp_path):
    (tmp_path / "video").mkdir()
    with pytest.raises(FileNotFoundError, match="found nothing"):
        prepare(tmp_path, tmp_path / "out")


def test_a_video_that_cannot_be_decoded_is_an_error_and_leaves_nothing(source, tmp_path):
    (source / "video/002.AVI").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"002\.AVI \(8 bytes\) could not be opened"):
        prepare(source, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.*g"))


def test_missing_annotation_shows_before_anything_is_decoded(source, tmp_path):
    write_video(source / "video/003.AVI", 2)
    with pytest.raises(FileNotFoundError, match=r"video 0003 in .* found no such annotation"):
        prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_released_files_become_one_folder_per_video(source, tmp_path):
    assert prepare(source, tmp_path / "out") == 0
    video = tmp_path / "out/train/0002"
    assert names(tmp_path / "out") == ["train"]
    assert names(video) == ["annotation.json", "fixation", "images", "maps"]
    for kind in ("images", "maps", "fixation"):
        assert names(video / kind) == ["0001.png", "0002.png", "0003.png"]
    for kind in ("maps", "fixation"):
        assert (video / kind / "0002.png").read_bytes() == (source / "annotation/0002" / kind / "0002.png").read_bytes()
    assert [round(float(cv2.imread(str(video / "images" / f"000{k}.png")).mean()), -1) for k in (1, 2, 3)] == [40, 90, 140]
    assert json.loads((video / "annotation.json").read_text())["source"] == "released"


def test_the_number_of_a_video_decides_the_split_and_test_videos_get_images_only(tmp_path):
    for name in ("600", "601", "1000"):
        write_video(tmp_path / f"source/video/{name}.AVI", 2)
    for name in ("0600", "0601"):
        write_annotation(tmp_path / "source/annotation" / name, 2, 2)
    prepare(tmp_path / "source", tmp_path / "out")
    assert [names(tmp_path / "out" / split) for split in ("train", "val", "test")] == [["0600"], ["0601"], ["1000"]]
    assert names(tmp_path / "out/test/1000") == ["annotation.json", "images"]


def test_split_puts_a_video_elsewhere(source, tmp_path):
    prepare(source, tmp_path / "out", "--split", "val")
    assert names(tmp_path / "out") == ["val"]


def test_videos_chooses_numbers_and_ranges(tmp_path):
    for number in (1, 2, 3, 5):
        write_video(tmp_path / f"source/video/{number:03d}.AVI", 1)
    prepare(tmp_path / "source", tmp_path / "out", "--videos", "1-2", "5", "--split", "test")
    assert names(tmp_path / "out/test") == ["0001", "0002", "0005"]
    with pytest.raises(FileNotFoundError, match=r"video 4 .* has no 004\.AVI"):
        prepare(tmp_path / "source", tmp_path / "out", "--videos", "3-5", "--split", "test")


@pytest.mark.parametrize("text", ["", "a", "3-", "-3", "5-3", "1-2-3"])
def test_a_malformed_range_is_refused(text):
    with pytest.raises(prepare_dhf1k.argparse.ArgumentTypeError, match="expected a number or an ascending range"):
        prepare_dhf1k.video_range(text)


@pytest.mark.parametrize("maps, fixations, message", [(2, 3, "0002, density maps .* 3 frames were decoded.* there are 2"),
                                                      (3, 4, "0002, fixation maps .* 3 frames were decoded.* there are 4"),
                                                      (0, 3, "0002, density maps .* there are 0")])
def test_counts_that_disagree_are_an_error_naming_video_and_counts(tmp_path, maps, fixations, message):
    write_video(tmp_path / "source/video/002.AVI", 3)
    write_annotation(tmp_path / "source/annotation/0002", maps, fixations)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out/train").exists()


def test_a_gap_in_the_names_is_an_error_though_the_counts_agree(source, tmp_path):
    (source / "annotation/0002/maps/0002.png").rename(source / "annotation/0002/maps/0004.png")
    with pytest.raises(ValueError, match=r"missing: \['0002'\], unexpected: \['0004'\]"):
        prepare(source, tmp_path / "out")


def test_a_map_that_is_cut_short_is_an_error(source, tmp_path):
    path = source / "annotation/0002/maps/0003.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"0003\.png is empty or cut short"):
        prepare(source, tmp_path / "out")


def test_skip_bad_goes_on_and_reports_and_fails_in_the_end(source, tmp_path, capsys):
    for number in (1, 3):
        write_video(source / f"video/{number:03d}.AVI", 3)
    write_annotation(source / "annotation/0001", 2, 3)             # one map too few; and 0003 has no annotation at all
    assert prepare(source, tmp_path / "out", "--skip-bad") == 1
    assert names(tmp_path / "out/train") == ["0002"] and names(tmp_path / "out") == ["train"]
    printed = capsys.readouterr()
    assert "1 videos written (3 frames), 0 were there already, 2 bad ones skipped" in printed.out
    assert "skipped: video 0001" in printed.err and "skipped: video 0003" in printed.err


def test_other_files_beside_the_videos_are_counted(source, tmp_path, capsys):
    (source / "video/readme.txt").touch()
    prepare(source, tmp_path / "out")
    assert "1 files in" in capsys.readouterr().out
    (source / "video/readme.txt").unlink()
    prepare(source, tmp_path / "out")
    assert "files in" not in capsys.readouterr().out


def test_fixations_in_mat_files_alone_are_copied_as_they_are(source, tmp_path):
    folder = source / "annotation/0002/fixation"
    (folder / "maps").mkdir()
    for path in folder.glob("*.png"):
        path.rename(folder / "maps" / f"{path.stem}.mat")
    prepare(source, tmp_path / "out")
    assert names(tmp_path / "out/train/0002/fixation") == ["0001.mat", "0002.mat", "0003.mat"]
    prepare(source, tmp_path / "out")                               # and it counts as whole


def test_a_second_run_writes_nothing(source, tmp_path, capsys):
    prepare(source, tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    assert prepare(source, tmp_path / "out") == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before
    assert "0 videos written (0 frames), 1 were there already" in capsys.readouterr().out


def test_what_an_interrupted_run_left_is_done_again(source, tmp_path):
    left = tmp_path / "out/.partial/train/0002/images"
    left.mkdir(parents=True)
    (left / "0009.png").touch()
    prepare(source, tmp_path / "out")
    assert names(tmp_path / "out/train/0002/images") == ["0001.png", "0002.png", "0003.png"]
    assert names(tmp_path / "out") == ["train"]


def test_a_folder_that_lost_files_is_an_error(source, tmp_path):
    prepare(source, tmp_path / "out")
    (tmp_path / "out/train/0002/maps/0002.png").unlink()
    with pytest.raises(ValueError, match="maps holds 2 files, but had 3"):
        prepare(source, tmp_path / "out")


def test_a_folder_of_somebody_else_is_never_touched(source, tmp_path):
    (tmp_path / "out/train/0002").mkdir(parents=True)
    with pytest.raises(ValueError, match="was not written by this program"):
        prepare(source, tmp_path / "out")


def test_several_workers_write_the_same_files(source, tmp_path):
    write_video(source / "video/003.AVI", 2)
    write_annotation(source / "annotation/0003", 2, 2)
    prepare(source, tmp_path / "one")
    prepare(source, tmp_path / "two", "--workers", "2")
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert files == sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*.*"))
    assert all((tmp_path / "one" / p).read_bytes() == (tmp_path / "two" / p).read_bytes() for p in files)


@pytest.fixture
def raw(tmp_path):
    """Video 2 of two frames with the raw gaze of two observers: file names with three digits and with four."""
    write_video(tmp_path / "raw/video/002.AVI", 2, (46, 90))
    write_gaze(tmp_path / "raw/exportdata_train/P01/P01_Trail002.txt", samples((1, 10, 20, True), (2, 30, 40, True)))
    write_gaze(tmp_path / "raw/exportdata_train/P02/P02_Trail0002.txt", samples((3, 50, 20, True), (4, 50, 20, False)))
    return tmp_path / "raw"


@pytest.mark.parametrize("rule, count", [("grid", 5), ("points", 3)])
def test_maps_are_made_from_raw_gaze_where_there_are_no_released_ones(raw, tmp_path, rule, count):
    prepare(raw, tmp_path / "out", "--fixation-rule", rule)
    video = tmp_path / "out/train/0002"
    fixations = [cv2.imread(str(video / "fixation" / f"000{k}.png"), cv2.IMREAD_UNCHANGED) for k in (1, 2)]
    density = [cv2.imread(str(video / "maps" / f"000{k}.png"), cv2.IMREAD_UNCHANGED) for k in (1, 2)]
    assert np.unique(fixations[0]).tolist() == [0, 255] and (fixations[0] > 0).sum() == count
    assert density[0].shape == (46, 90) and density[0].max() == 255 and not fixations[1].any() and not density[1].any()
    facts = json.loads((video / "annotation.json").read_text())
    assert (facts["source"], facts["rule"], facts["observers"]) == ("raw", rule, 2)
    assert facts["samples"] == {"used": 3, "not_fixation": 3, "off_video": 0, "off_time": 0}


def test_released_maps_come_before_raw_gaze_unless_raw_is_asked_for(raw, tmp_path):
    write_annotation(raw / "annotation/0002", 2, 2)
    prepare(raw, tmp_path / "auto")
    prepare(raw, tmp_path / "raw_out", "--annotation", "raw")
    facts = [json.loads((tmp_path / out / "train/0002/annotation.json").read_text()) for out in ("auto", "raw_out")]
    assert [(f["source"], f["rule"]) for f in facts] == [("released", None), ("raw", "grid")]


def test_maps_made_by_another_rule_are_not_taken_for_done(raw, tmp_path):
    prepare(raw, tmp_path / "out")
    with pytest.raises(ValueError, match="'grid', but 'raw', 'points' is asked for"):
        prepare(raw, tmp_path / "out", "--fixation-rule", "points")


def test_two_gaze_files_of_one_observer_are_an_error(raw, tmp_path):
    write_gaze(raw / "exportdata_train/P01/P01_Trail0002.txt", samples((1, 10, 20, True)))
    with pytest.raises(ValueError, match="two gaze files of one observer"):
        prepare(raw, tmp_path / "out")


def test_a_users_mistake_ends_with_code_2_and_no_traceback(tmp_path):
    script = Path(prepare_dhf1k.__file__)
    result = subprocess.run([sys.executable, script, tmp_path, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("prepare_dhf1k.py: error: expected DHF1K's videos in")
