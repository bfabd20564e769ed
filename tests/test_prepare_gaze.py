import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import prepare_gaze
import pytest
import scipy.io
from PIL import Image

from videos.annotation import read_fixations
from videos.images import read_frame
from videos.video import find_videos

ROOT = Path(__file__).parent.parent
STEMS = ("1001", "1002", "1003", "1004", "1005", "1006")                   # 1002 is of the test list
SIZE = (30, 40)                                                            # H, W
CENTRE = [(20.5, 15.5)] * 10                                               # fixations, x and y, of one observer


def cell(items, shape=None):
    array = np.empty(len(items), dtype=object)
    array[:] = [item if isinstance(item, (dict, str)) else np.asarray(item, dtype=object if isinstance(item, np.ndarray) and item.dtype == object else float) for item in items]
    return array.reshape(shape or (len(items), 1))


def write_images(folder, stems, size=SIZE):
    (folder / "data/stimuli").mkdir(parents=True, exist_ok=True)
    for number, stem in enumerate(stems):
        Image.fromarray(np.full((*size, 3), 40 * number, np.uint8)).save(folder / f"data/stimuli/{stem}.jpg")


def release_structs(folder, images, size=SIZE):
    """As OSIE and EyeCrowd are: {stem: a list for each observer of (x, y)}; the last images come first in the file."""
    write_images(folder, images, size)
    entries = []
    for stem, observers in reversed(images.items()):
        subjects = cell([{"fix_x": [[x for x, _ in points]], "fix_y": [[y for _, y in points]], "fix_duration": [[200.0] * len(points)]} for points in observers])
        entries.append({"img": f"{stem}.jpg", "subjects": subjects})
    (folder / "data/eye").mkdir(exist_ok=True)
    scipy.io.savemat(folder / "data/eye/fixations.mat", {"fixations": cell(entries)})
    return folder


def release_table(folder, images, size=SIZE):
    """As SUN500 is: a row of y, x, and a third column, for each fixation."""
    write_images(folder, images, size)
    rows = [np.array([(y, x, 0.3) for x, y in points]).reshape(-1, 3) if points else np.empty((0, 0)) for observers in images.values() for points in observers]
    (folder / "data/tidy").mkdir(exist_ok=True)
    scipy.io.savemat(folder / "data/tidy/fixations.mat", {"fixations": cell(rows, (len(images), -1))})
    return folder


def prepare(out, *flags):
    prepare_gaze.main(prepare_gaze.arguments().parse_args(["--out", str(out), *map(str, flags)]))
    return out


def lines(path):
    return path.read_text().splitlines()


@pytest.fixture
def osie(tmp_path):
    return release_structs(tmp_path / "osie", {stem: [CENTRE, [(0, 0), (39.9996, 29.5)]] for stem in STEMS})


# What is refused

def test_without_a_set_a_folder_or_its_files_it_is_said_what_to_give(tmp_path, osie):
    with pytest.raises(ValueError, match="give one or several of --osie --eyecrowd --sun500"):
        prepare(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no JPEG images in .*give --sun500 the folder of the repository Yanakz/Scene"):
        prepare(tmp_path / "out", "--osie", osie, "--sun500", tmp_path / "nowhere")
    (osie / "data/eye/fixations.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*data/eye/fixations.mat: give the folder"):
        prepare(tmp_path / "out", "--osie", osie)
    with pytest.raises(ValueError, match="--longer-side must be"):
        prepare(tmp_path / "out", "--osie", osie, "--longer-side", -1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content, said", [
    (b"not of MATLAB", "cannot read .*Fetch it again"), ({"other": np.eye(2)}, r"no cell array `fixations` \(it holds \['other'\]\)"), ({"fixations": np.eye(2)}, "no cell array"),
    ({"fixations": cell([{"name": "1001.jpg"}])}, "image 1 of .*struct with the field img"), ({"fixations": cell([{"img": "1001.jpg", "subjects": cell([{"fix_x": [[1.0]]}])}])}, "the field fix_y"),
    ({"fixations": cell([{"img": "1001.jpg", "subjects": cell([{"fix_x": [[1.0, 2.0]], "fix_y": [[1.0]]}])}])}, "observer 0 has 2 values in fix_x and 1 in fix_y"),
    ({"fixations": cell([{"img": "1009.jpg", "subjects": cell([])}])}, "fixations of the image 1009.jpg: .* has 6 images, but not this one"),
    ({"fixations": cell([{"img": "1001.jpg", "subjects": cell([])}] * 2)}, "1001.jpg: it is there twice"), ({"fixations": cell([{"img": "1001.jpg", "subjects": cell([])}])}, "5 images of .* have no fixations in .*, the first 1002.jpg"),
])
def test_files_that_are_not_as_released_are_refused_before_anything_is_written(tmp_path, osie, content, said):
    file = osie / "data/eye/fixations.mat"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        scipy.io.savemat(file, content)
    with pytest.raises(ValueError, match=said):
        prepare(tmp_path / "out", "--osie", osie)
    assert not (tmp_path / "out").exists()


def test_a_table_must_have_a_row_for_each_image_and_two_columns(tmp_path):
    folder = release_table(tmp_path / "sun", {"001": [CENTRE], "002": [CENTRE]})
    scipy.io.savemat(folder / "data/tidy/fixations.mat", {"fixations": cell([np.ones((3, 1)), np.ones((3, 2))], (2, 1))})
    with pytest.raises(ValueError, match="observer 0 of 001.jpg has an array of 3 x 1, expected n x 2 or more"):
        prepare(tmp_path / "out", "--sun500", folder)
    (folder / "data/stimuli/002.jpg").unlink()
    with pytest.raises(ValueError, match="a cell array of 2 x 1, and there are 1 images"):
        prepare(tmp_path / "out", "--sun500", folder)


def test_an_image_that_is_damaged_or_must_be_rotated_is_refused(tmp_path, osie):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(osie / "data/stimuli/1003.jpg", exif=exif)
    with pytest.raises(ValueError, match="1003.jpg has EXIF orientation 6, expected 1"):
        prepare(tmp_path / "out", "--osie", osie)
    (osie / "data/stimuli/1003.jpg").write_bytes(b"cut")
    with pytest.raises(ValueError, match="cannot read image .*1003.jpg"):
        prepare(tmp_path / "out", "--osie", osie)


@pytest.mark.parametrize("release, flag, name", [(release_structs, "--osie", "1002"), (release_table, "--sun500", "003")])
def test_x_and_y_that_are_swapped_are_noticed(tmp_path, release, flag, name):
    """38, 4 is within 30 x 40 pixels, and 4, 38 below them: two of 22 are 9 %."""
    points = [CENTRE, [*CENTRE, (38, 4), (35, 4)]]
    prepare(tmp_path / "out", flag, release(tmp_path / "right", {name: points}))
    swapped = [[(y, x) for x, y in observer] for observer in points]
    with pytest.raises(ValueError, match="2 of the 22 fixations in .* are outside their images, expected 5% at most: are x and y swapped"):
        prepare(tmp_path / "other", flag, release(tmp_path / "wrong", {name: swapped}))


# What is written

def test_an_image_becomes_a_video_of_one_frame_with_points_and_density(tmp_path, osie):
    video = prepare(tmp_path / "out", "--osie", osie) / "osie-1003"
    assert (video / "images/1003.jpg").read_bytes() == (osie / "data/stimuli/1003.jpg").read_bytes()
    assert lines(video / "fixation/1003.csv") == ["x,y,observer", *["20.500,15.500,0"] * 10, "0.000,0.000,1", "39.999,29.500,1"]
    density = cv2.imread(str(video / "maps/1003.png"), cv2.IMREAD_UNCHANGED).astype(float)
    assert density.shape == SIZE and density.max() == density[15, 20] == 255
    assert density[0, 0] == density[29, 39] == 26                          # 255 / 10, up: one fixation where the centre has ten
    assert density[15, 21] == round(255 * np.exp(-0.5 / (0.032 * 40) ** 2))
    facts = json.loads((video / "annotation.json").read_text())
    assert facts == {"set": "osie", "image": "1003.jpg", "size": [30, 40], "released_size": [30, 40], "fixations": 12, "outside": 0, "sigma": 1.28}
    fixations = read_fixations(video / "fixation/1003.csv", video / "images/1003.jpg")
    assert np.argwhere(fixations).tolist() == [[0, 0], [15, 20], [29, 39]]


def test_the_first_column_of_sun500_is_y_and_observers_without_fixations_keep_their_number(tmp_path):
    folder = release_table(tmp_path / "sun", {"003": [[(35.25, 4)], [], [(1, 29)]], "007": [[], [], []]})
    out = prepare(tmp_path / "out", "--sun500", folder)
    assert lines(out / "sun500-003/fixation/003.csv") == ["x,y,observer", "35.250,4.000,0", "1.000,29.000,2"]
    assert lines(out / "sun500-007/fixation/007.csv") == ["x,y,observer"]
    assert not cv2.imread(str(out / "sun500-007/maps/007.png"), cv2.IMREAD_UNCHANGED).any()


def test_fixations_outside_the_image_are_dropped_and_counted(tmp_path, capsys):
    outside = [(40, 15), (20, 30), (-0.1, 3), (np.nan, 3)]
    folder = release_structs(tmp_path / "crowd", {"003": [CENTRE * 8, outside]})
    out = prepare(tmp_path / "out", "--eyecrowd", folder)
    assert "80 fixations, 4 more were outside their image and dropped" in capsys.readouterr().out
    assert len(lines(out / "eyecrowd-003/fixation/003.csv")) == 81
    assert json.loads((out / "eyecrowd-003/annotation.json").read_text())["outside"] == 4


@pytest.mark.parametrize("longer_side, size", [(20, (15, 20)), (40, SIZE), (384, SIZE), (0, SIZE), (1, (1, 1)), (33, (25, 33))])
def test_larger_images_are_made_smaller_with_their_fixations_and_others_copied(tmp_path, longer_side, size):
    folder = release_structs(tmp_path / "osie", {"1002": [CENTRE, [(0, 0), (39.9999, 29.9999)]]})
    video = prepare(tmp_path / "out", "--osie", folder, "--longer-side", longer_side) / "osie-1002"
    assert read_frame(video / "images/1002.jpg").shape == (*size, 3)
    is_copy = (video / "images/1002.jpg").read_bytes() == (folder / "data/stimuli/1002.jpg").read_bytes()
    assert is_copy == (size == SIZE)
    points = np.loadtxt(video / "fixation/1002.csv", delimiter=",", skiprows=1)
    assert points[0, :2] == pytest.approx([20.5 * size[1] / 40, 15.5 * size[0] / 30], abs=0.001)
    assert points[-1, :2].tolist() == [size[1] - 0.001, size[0] - 0.001]   # the last pixel, not the one beyond it
    assert cv2.imread(str(video / "maps/1002.png"), cv2.IMREAD_UNCHANGED).shape == size
    assert read_fixations(video / "fixation/1002.csv", video / "images/1002.jpg")[-1, -1]


# Lists

def test_lists_split_the_images_as_the_fixed_list_says_and_every_fifth_for_choosing_settings(tmp_path, osie, capsys):
    out = prepare(tmp_path / "out", "--osie", osie)
    expected = {"train": ["1001", "1003", "1004", "1005", "1006"], "test": ["1002"], "fit": ["1001", "1003", "1004", "1005"], "val": ["1006"], "osie-test": ["1002"]}
    assert {path.stem: lines(path) for path in out.glob("*.txt") if path.stem != "ATTRIBUTION"} == {name: [f"osie-{stem}" for stem in stems] for name, stems in expected.items()}
    assert ("warning: 1 of the 140 test images of osie in gaze_test.txt are there: scores on this part cannot be compared with those on the whole test list"
            in capsys.readouterr().err)
    assert [video.name for video in find_videos(out, "osie-test")] == ["osie-1002"]
    assert [len(find_videos(out, split)) for split in ("train", "val", "fit", "test", "all")] == [5, 1, 4, 1, 6]


def test_the_sets_in_the_tree_are_attributed_and_no_others(tmp_path, osie):
    out = prepare(tmp_path / "out", "--osie", osie)
    attribution = (out / "ATTRIBUTION.txt").read_text()
    assert "do not redistribute" in attribution and "\nosie: Xu" in attribution and "eyecrowd" not in attribution and "sun500" not in attribution
    prepare(out, "--sun500", release_table(tmp_path / "sun", {"003": [CENTRE]}))
    assert [line.partition(":")[0] for line in lines(out / "ATTRIBUTION.txt")[4:]] == ["osie", "sun500"]


def test_the_fixed_list_names_a_fifth_of_each_set_once():
    names = lines(ROOT / "data/gaze_test.txt")
    assert [sum(name.startswith(f"{part}-") for name in names) for part in prepare_gaze.SETS] == [140, 100, 100] and len(set(names)) == 340


# Again

def test_a_second_run_writes_nothing_and_another_set_is_added(tmp_path, osie, capsys):
    out = prepare(tmp_path / "out", "--osie", osie)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*-*/*/*")}
    crowd = release_structs(tmp_path / "crowd", {"003": [CENTRE], "004": [CENTRE]})
    prepare(out, "--osie", osie, "--eyecrowd", crowd)
    assert "osie: 0 images written, 6 were there already" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert lines(out / "eyecrowd-test.txt") == ["eyecrowd-003"] and lines(out / "test.txt") == ["osie-1002", "eyecrowd-003"]
    assert lines(out / "train.txt")[-1] == "eyecrowd-004" and lines(out / "val.txt") == ["osie-1006"]
    assert not (out / ".partial").exists()


def test_an_interrupted_run_leaves_whole_images_only_and_is_finished_by_the_next(tmp_path, osie, monkeypatch):
    encode, calls = prepare_gaze.encode_png, []

    def interrupt(image):
        calls.append(image)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(image)

    monkeypatch.setattr(prepare_gaze, "encode_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "out", "--osie", osie)
    assert len(list((tmp_path / "out").glob("osie-*"))) == 2
    monkeypatch.undo()
    out = prepare(tmp_path / "out", "--osie", osie)
    assert len(find_videos(out, "all")) == 6 and not (out / ".partial").exists()


def test_what_is_there_in_another_way_is_not_replaced(tmp_path, osie):
    out = prepare(tmp_path / "out", "--osie", osie)
    with pytest.raises(ValueError, match=r"osie-100\d is there with size \[30, 40\] instead of \[15, 20\], sigma .*--longer-side"):
        prepare(out, "--osie", osie, "--longer-side", 20)
    (out / "osie-1004/maps/1004.png").unlink()
    with pytest.raises(ValueError, match=r"osie-1004 is there without maps/1004.png. Remove the folder"):
        prepare(out, "--osie", osie)
    (out / "osie-1004/annotation.json").write_text("{")
    with pytest.raises(ValueError, match="osie-1004 is there, but was not written by this program"):
        prepare(out, "--osie", osie)


def test_the_command_runs_on_its_own_and_ends_with_one_line_on_an_error(tmp_path, osie):
    command = [sys.executable, ROOT / "data/prepare_gaze.py", "--out", tmp_path / "out", "--osie"]
    done = subprocess.run([*command, osie], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "5 in train.txt, 1 in test.txt, 4 in fit.txt, 1 in val.txt, 1 in osie-test.txt" in done.stdout
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("prepare_gaze.py: error: no JPEG images in ") and done.stderr.count("\n") == 1


def test_another_sets_folder_is_refused_before_anything_is_written(tmp_path):
    release = release_structs(tmp_path / "release", {"9001": [CENTRE], "9002": [CENTRE]})
    with pytest.raises(ValueError, match="none of the 2 images in .*release is one of the test images of osie that gaze_test.txt lists: is it another set's folder"):
        prepare(tmp_path / "out", "--osie", release)
    assert not (tmp_path / "out").exists()
