import json
import subprocess
import sys
from pathlib import Path

import cv2
import make_sample
import numpy as np
import pytest
import scenes
from scenes import Thing

TINY = ("--train-videos", "2", "--val-videos", "1", "--frames", "12", "--size", "36", "64", "--observers", "5")
TINY_VSOD = ("--kind", "vsod", "--train-videos", "2", "--val-videos", "2", "--frames", "12", "--size", "36", "64", "--stills", "3")
SIZE = (36, 64)


def make(out, *flags):
    make_sample.main(make_sample.arguments().parse_args(["--out", str(out), *(() if "vsod" in flags else TINY), *flags]))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def read(folder, kind):
    return np.stack([cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in sorted((folder / kind).glob("*.png"))])


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A set that tests only read."""
    out = tmp_path_factory.mktemp("made") / "sample"
    make(out)
    return out


@pytest.fixture(scope="module")
def vsod_sample(tmp_path_factory):
    """A set with masks that tests only read."""
    out = tmp_path_factory.mktemp("made") / "vsod_sample"
    make(out, *TINY_VSOD)
    return out


# --- gaze ------------------------------------------------------------------------------------------------------------------

def test_gaze_that_is_nowhere_or_beside_the_frame_gives_an_empty_map():
    gaze = np.array([[[np.nan, np.nan]], [[-0.6, 3.0]], [[63.5, 3.0]], [[2.0, 35.6]]])
    assert not any(fixations.any() for fixations in scenes.fixation_maps(gaze, SIZE))


def test_gaze_sets_the_nearest_pixel_row_from_y_and_column_from_x():
    fixations, = scenes.fixation_maps(np.array([[[5.4, 7.6], [np.nan, np.nan], [63.4, 0.0]]]), SIZE)
    assert np.argwhere(fixations).tolist() == [[0, 63], [8, 5]]


def thing(path):
    return Thing(np.zeros((3, 2)), 8.0, np.array([0.0, 0.0, 255.0]), np.array(path, dtype=float))


def test_what_is_out_of_sight_has_no_interest_and_what_stands_still_has_little():
    outside, still, moving = thing([[-9, 5], [-9, 5]]), thing([[5, 5], [5, 5]]), thing([[5, 5], [6.28, 5]])     # 1.28 = 2 x 0.01 x 64
    interest = scenes.find_interest([outside, still, moving], np.zeros((*SIZE, 3), dtype=np.uint8), SIZE)
    assert interest == pytest.approx(np.array([[0, 0.03, 2], [0, 0.03, 2]]) * 255 / 200)


def test_an_entry_is_noticed_three_to_eight_frames_later():
    interest = np.zeros((20, 1))
    interest[5:] = 1
    assert np.flatnonzero(scenes.entries(interest)).tolist() == [8, 9, 10, 11, 12, 13]


def test_a_single_frame_is_possible():
    gaze = scenes.watch(np.random.default_rng(0), [thing([[5, 5]])], np.ones((1, 1)), SIZE)
    assert gaze.shape == (1, 2) and np.isfinite(gaze).all()


def test_a_path_turns_at_the_border_and_may_come_in_from_outside():
    path = scenes.bounce(np.array([-2.0, 10.0]), np.array([3.0, 0.0]), 6, (20, 12), radius=2.0)
    assert path[:, 0].tolist() == [-2, 1, 4, 7, 10, 13] and (path[:, 1] == 10).all()
    path = scenes.bounce(np.array([9.0, 10.0]), np.array([3.0, 0.0]), 3, (20, 12), radius=2.0)
    assert path[:, 0].tolist() == [9, 12, 9]


def test_an_object_larger_than_the_frame_is_placed_in_its_middle():
    assert scenes.place(np.random.default_rng(0), SIZE, 100.0).tolist() == [32, 18]


# --- masks -----------------------------------------------------------------------------------------------------------------

def square(path, half=5.0, colour=(0.0, 0.0, 255.0)):
    """A square of 2 * half x 2 * half pixels; centred between pixels, its sides lie on whole ones."""
    return Thing(half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), 2.0, np.array(colour), np.array(path, dtype=float))


def test_a_mask_is_where_the_moving_object_is():
    mask = scenes.draw_mask(SIZE, [square([[20, 10], [30, 10]])], 1)
    assert mask.dtype == bool and mask.shape == SIZE
    assert mask[6:15, 26:35].all() and not mask[:4].any() and not mask[17:].any() and not mask[:, :24].any() and not mask[:, 37:].any()


def test_what_stands_still_is_not_in_the_mask_and_hides_what_moves_only_where_it_is_in_front():
    mover, still = square([[0, 20], [20, 20]]), square([[24, 20], [24, 20]])                # overlap in columns 19 to 25
    behind, before = (scenes.draw_mask(SIZE, things, 1) for things in ([mover, still], [still, mover]))
    assert behind[16:25, 16:18].all() and not behind[:, 20:].any()
    assert before[16:25, 16:25].all() and not before[:, 27:].any()
    assert not scenes.draw_mask(SIZE, [still], 1).any()


def test_what_moves_beside_the_frame_is_not_in_the_mask_yet():
    entering = square([[-9, 20], [-1, 20]])
    assert not scenes.draw_mask(SIZE, [entering], 0).any() and scenes.draw_mask(SIZE, [entering], 1)[:, 0].any()


def test_a_mask_is_where_a_frame_with_what_moves_differs_from_one_without_it_but_for_its_anti_aliased_border():
    for seed in range(20):
        scene = scenes.make_scene(np.random.default_rng(seed), 12, SIZE, scenes.VSOD_SPEED)
        emptier = scenes.Scene([one for one in scene.things if not one.moves], scene.background, scene.shifts)
        for t in (0, 5, 9):
            differs = (scene.frame(t) != emptier.frame(t)).any(axis=2).astype(np.uint8)
            mask, near = scene.mask(t).astype(np.uint8), np.ones((3, 3), dtype=np.uint8)
            inner = cv2.erode(differs, near, borderType=cv2.BORDER_CONSTANT, borderValue=0)    # beside the frame nothing differs
            assert not (mask > cv2.dilate(differs, near)).any() and not (inner > mask).any()


# --- the set ---------------------------------------------------------------------------------------------------------------

def test_the_tree_is_that_of_the_prepared_dhf1k_and_val_goes_on_counting(sample):
    assert sorted(str(p.relative_to(sample)) for p in sample.glob("*/*")) == ["train/001", "train/002", "val/003"]
    assert sorted(p.name for p in sample.iterdir()) == ["sample.json", "train", "val"]
    for video, num_frames in json.loads((sample / "sample.json").read_text())["videos"].items():
        assert 10 <= num_frames <= 14
        for kind in ("images", "maps", "fixation"):
            assert sorted(p.name for p in (sample / video / kind).iterdir()) == [f"{k:04d}.png" for k in range(1, num_frames + 1)]


def test_images_are_coloured_fixations_binary_and_density_has_its_peak_or_is_empty(sample):
    for video in sample.glob("*/*"):
        images, density, fixations = (read(video, kind) for kind in ("images", "maps", "fixation"))
        assert images.shape[1:] == (*SIZE, 3) and density.shape == fixations.shape == images.shape[:3]
        assert set(np.unique(fixations)) <= {0, 255}
        assert density.max(axis=(1, 2)).tolist() == (255 * fixations.any(axis=(1, 2))).tolist()


def test_objects_move(sample):
    for video in sample.glob("*/*"):
        images = read(video, "images").astype(int)
        assert all((images[k] != images[k + 1]).any() for k in range(len(images) - 1))


def test_about_two_percent_of_the_frames_have_no_fixation():
    rng, background = np.random.default_rng(0), np.zeros((*SIZE, 3), dtype=np.uint8)
    gaze = scenes.simulate_gaze(rng, [thing(np.full((100, 2), 20.0))], background, observers=17)
    assert np.isnan(gaze).all(axis=(1, 2)).sum() == 2


def test_observers_follow_what_moves_and_not_what_stands_still():
    moving, still = thing(np.stack([np.linspace(5, 25, 40), np.full(40, 8)], axis=1)), thing(np.full((40, 2), (50.0, 28.0)))
    gaze = scenes.simulate_gaze(np.random.default_rng(0), [still, moving], np.zeros((*SIZE, 3), dtype=np.uint8), observers=17)
    at_moving, at_still = (np.linalg.norm(gaze - one.path[:, None], axis=2) < 8 for one in (moving, still))
    assert at_moving.sum() > 0.5 * np.isfinite(gaze[..., 0]).sum() > 5 * at_still.sum()


def test_the_same_flags_give_the_same_bytes_and_another_seed_others(sample, tmp_path):
    make(tmp_path / "same")
    make(tmp_path / "other", "--seed", "1")
    assert contents(tmp_path / "same") == contents(sample)
    assert contents(tmp_path / "other")["train/001/images/0001.png"] != contents(sample)["train/001/images/0001.png"]


def test_more_videos_leave_the_earlier_ones_as_they_were(sample, tmp_path):
    make(tmp_path / "more", "--train-videos", "3", "--val-videos", "2")
    for ours, theirs in (("train/001", "train/001"), ("train/002", "train/002"), ("val/003", "val/004")):
        assert contents(sample / ours) == contents(tmp_path / "more" / theirs)
    assert contents(sample / "train/001") != contents(sample / "val/003")


# --- the set with masks ----------------------------------------------------------------------------------------------------

def test_the_tree_with_masks_is_that_of_smcfs_authors_and_test_sequences_go_on_counting(vsod_sample):
    marker = json.loads((vsod_sample / "sample.json").read_text())
    lengths = marker["videos"]
    assert marker["flags"]["kind"] == "vsod" and list(lengths) == ["train/s001", "train/s002", "val/s003", "val/s004", "stills"]
    assert all(10 <= lengths[name] <= 14 for name in lengths if name != "stills") and lengths["stills"] == 3
    files = {"TrainSet_RGB": [f"still_{k:05d}" for k in range(3)],
             "TrainSet_Video": [f"{name}_{k:05d}" for name in ("s001", "s002") for k in range(lengths[f"train/{name}"])]}
    folders = {("TrainSet_RGB", "Imgs", "GTs"): files["TrainSet_RGB"], ("TrainSet_Video", "Imgs", "ground-truth"): files["TrainSet_Video"],
               **{(f"TestSet/sample/{name}", "Frame", "ground-truth"): [f"{k:05d}" for k in range(lengths[f"val/{name}"])] for name in ("s003", "s004")}}
    expected = {f"{place}/{sort}/{stem}.{kind}" for (place, frames, masks), stems in folders.items()
                for sort, kind in ((frames, "jpg"), (masks, "png")) for stem in stems}
    assert set(contents(vsod_sample)) == expected | {"sample.json"}


def test_masks_are_0_or_255_of_their_frames_size_and_no_sequence_is_without_a_salient_object(vsod_sample):
    for folder in (vsod_sample / "TrainSet_RGB/GTs", vsod_sample / "TrainSet_Video/ground-truth", *vsod_sample.glob("TestSet/sample/*/ground-truth")):
        masks = read(folder.parent, folder.name)
        assert masks.shape[1:] == SIZE and set(np.unique(masks)) == {0, 255}
        assert 0.005 < (masks > 0).mean() < 0.2
    assert {cv2.imread(str(p), cv2.IMREAD_UNCHANGED).shape for p in vsod_sample.rglob("*.jpg")} == {(*SIZE, 3)}


def test_a_written_frame_and_its_mask_are_those_of_the_scene(vsod_sample):
    scene = scenes.make_scene(np.random.default_rng([0, 1, 1]), 12, list(SIZE), scenes.VSOD_SPEED)
    frame, mask = (cv2.imread(str(vsod_sample / "TestSet/sample/s004" / name), cv2.IMREAD_UNCHANGED) for name in ("Frame/00007.jpg", "ground-truth/00007.png"))
    assert np.array_equal(mask > 0, scene.mask(7))
    assert np.abs(frame.astype(int) - scene.frame(7)).mean() < 3


def test_test_sequences_of_the_default_set_are_not_all_of_whole_groups_of_five_frames():
    seeds = [[0, 1, i] for i in range(make_sample.DEFAULTS["vsod"]["val_videos"])]
    assert any(len(scenes.make_scene(np.random.default_rng(seed), 40, [90, 160]).shifts) % 5 for seed in seeds)


def test_the_same_flags_give_the_same_bytes_and_more_videos_and_stills_leave_the_earlier_ones_as_they_were(vsod_sample, tmp_path):
    make(tmp_path / "same", *TINY_VSOD)
    assert contents(tmp_path / "same") == contents(vsod_sample)
    make(tmp_path / "more", *TINY_VSOD, "--train-videos", "3", "--stills", "4")
    more, ours = contents(tmp_path / "more"), contents(vsod_sample)
    assert all(more[name.replace("s004", "s005").replace("s003", "s004")] == content for name, content in ours.items() if name != "sample.json")
    make(tmp_path / "other", *TINY_VSOD, "--seed", "1")
    assert contents(tmp_path / "other")["TrainSet_Video/Imgs/s001_00000.jpg"] != ours["TrainSet_Video/Imgs/s001_00000.jpg"]


@pytest.mark.parametrize("flags, default", [(TINY, "data/sample"), (TINY_VSOD, "data/vsod_sample")])
def test_each_kind_has_a_folder_of_its_own_unless_out_says_otherwise(tmp_path, monkeypatch, flags, default):
    monkeypatch.chdir(tmp_path)
    make_sample.main(make_sample.arguments().parse_args(list(flags)))
    assert [p.parent.as_posix() for p in tmp_path.rglob("sample.json")] == [(tmp_path / default).as_posix()]


# --- running it again ------------------------------------------------------------------------------------------------------

def test_a_second_run_with_the_same_flags_writes_nothing(sample, capsys):
    before = {p: p.stat().st_mtime_ns for p in sample.rglob("*")}
    make(sample)
    assert {p: p.stat().st_mtime_ns for p in sample.rglob("*")} == before
    assert "already there" in capsys.readouterr().out


def test_other_flags_are_an_error_that_names_overwrite(sample):
    with pytest.raises(ValueError, match=r"holds another set.*--overwrite"):
        make(sample, "--seed", "1")


def test_overwrite_replaces_the_set_and_leaves_no_video_of_the_old_one(tmp_path):
    make(tmp_path / "set")
    make(tmp_path / "set", "--train-videos", "1", "--overwrite")
    assert sorted(p.name for p in (tmp_path / "set").glob("*/*")) == ["001", "002"]
    assert (tmp_path / "set/val/002").is_dir()


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_folder_of_somebody_else_is_never_touched(tmp_path, flags):
    (tmp_path / "train/001").mkdir(parents=True)
    (tmp_path / "train/001/thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match="was not written by this program"):
        make(tmp_path, *flags)
    assert contents(tmp_path) == {"train/001/thesis.tex": b"all of it"}


def test_a_marker_of_another_program_is_no_licence_to_remove(tmp_path):
    (tmp_path / "sample.json").write_text('{"flags": {"colour": "red"}}')
    with pytest.raises(ValueError, match="is not a marker that this program wrote"):
        make(tmp_path, "--overwrite")


def test_overwrite_removes_nothing_where_somebody_added_a_video(tmp_path):
    make(tmp_path / "set")
    (tmp_path / "set/train/mine").mkdir()
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match=r"train/mine.*nothing was removed"):
        make(tmp_path / "set", "--seed", "1", "--overwrite")
    assert contents(tmp_path / "set") == before


def test_an_interrupted_run_is_completed_by_the_next_and_lost_frames_are_noticed(sample, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scenes, "draw_frame", stop)
        make(tmp_path / "set")
    assert (tmp_path / "set/sample.json.unfinished").is_file() and not (tmp_path / "set/sample.json").exists()
    with pytest.raises(ValueError, match="holds another set"):
        make(tmp_path / "set", "--seed", "1")
    make(tmp_path / "set")
    assert contents(tmp_path / "set") == contents(sample)
    (tmp_path / "set/val/003/images/0001.png").unlink()
    with pytest.raises(ValueError, match="has lost frames of"):
        make(tmp_path / "set")


def test_a_marker_written_before_there_were_kinds_is_one_of_gaze(sample, capsys):
    assert list(json.loads((sample / "sample.json").read_text())["flags"]) == ["generator", "train_videos", "val_videos", "frames", "size", "observers", "seed"]
    make(sample, "--kind", "gaze")
    assert "already there" in capsys.readouterr().out


def test_a_set_of_one_kind_is_replaced_by_one_of_the_other_only_with_overwrite(tmp_path):
    make(tmp_path / "set", *TINY_VSOD)
    with pytest.raises(ValueError, match=r"holds another set.*--overwrite"):
        make(tmp_path / "set")
    make(tmp_path / "set", "--overwrite")
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["sample.json", "train", "val"]
    make(tmp_path / "set", *TINY_VSOD, "--overwrite")
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == ["TestSet", "TrainSet_RGB", "TrainSet_Video", "sample.json"]


@pytest.mark.parametrize("mine", ["TrainSet_Video/Imgs/mine_00000.jpg", "TrainSet_Video/Imgs/s003_00000.jpg", "TrainSet_Video/ground-truth/s001_00000.jpg",
                                  "TrainSet_Video/Flow/s001_00000.jpg", "TestSet/sample/s003/notes.txt", "TestSet/DAVIS/blackswan/Frame/00000.jpg"])
def test_overwrite_removes_nothing_where_somebody_added_a_file_to_a_set_with_masks(tmp_path, mine):
    make(tmp_path / "set", *TINY_VSOD)
    (tmp_path / "set" / mine).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "set" / mine).write_bytes(b"years of work")
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match="not written by this program.*nothing was removed"):
        make(tmp_path / "set", *TINY_VSOD, "--seed", "1", "--overwrite")
    assert contents(tmp_path / "set") == before


@pytest.mark.parametrize("flags, frames", [((), "train/001/images"), (TINY_VSOD, "TrainSet_Video/Imgs")])
def test_overwrite_removes_the_flow_that_programs_keep_beside_frames(tmp_path, flags, frames):
    make(tmp_path / "set", *flags)
    (tmp_path / "set" / frames / "flow_dis").mkdir()
    (tmp_path / "set" / frames / "flow_dis/0001.npy").touch()
    make(tmp_path / "set", *flags)                                         # it does no harm
    make(tmp_path / "set", *flags, "--seed", "1", "--overwrite")
    assert not (tmp_path / "set" / frames / "flow_dis").exists() and (tmp_path / "set/sample.json").is_file()


def test_an_interrupted_run_for_masks_is_completed_or_removed_by_the_next_and_lost_files_are_noticed(vsod_sample, tmp_path, monkeypatch):
    def stop_in_frame_7(path, content):
        if "00007" in path.name:
            path.with_name(f".{path.name}.partial").write_bytes(content[:10])
            raise KeyboardInterrupt
        write_atomically(path, content)
    write_atomically = make_sample.write_atomically
    for flags in ((), ("--seed", "1", "--overwrite")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(make_sample, "write_atomically", stop_in_frame_7)
            make(tmp_path / "set", *TINY_VSOD, *flags)
    assert (tmp_path / "set/TrainSet_Video/Imgs/.s001_00007.jpg.partial").is_file()
    make(tmp_path / "set", *TINY_VSOD, "--overwrite")
    assert contents(tmp_path / "set") == contents(vsod_sample)
    for lost, part in (("TrainSet_RGB/GTs/still_00001.png", "stills"), ("TrainSet_Video/Imgs/s002_00003.jpg", "train/s002"), ("TestSet/sample/s003/ground-truth/00000.png", "val/s003")):
        kept = (tmp_path / "set" / lost).read_bytes()
        (tmp_path / "set" / lost).unlink()
        with pytest.raises(ValueError, match=rf"has lost frames of \['{part}'\]"):
            make(tmp_path / "set", *TINY_VSOD)
        (tmp_path / "set" / lost).write_bytes(kept)


@pytest.mark.parametrize("flags, message", [(("--seed", "-1"), "expected a --seed from 0"),
                                            (("--size", "16", "64"), "expected a --size of at least"),
                                            (("--stills", "9"), "--stills has no effect on --kind gaze"),
                                            ((*TINY_VSOD, "--observers", "17"), "--observers has no effect on --kind vsod"),
                                            ((*TINY_VSOD, "--frames", "1"), "expected --frames of at least 2")])
def test_senseless_flags_are_refused_and_leave_nothing(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "set", *flags)
    assert not (tmp_path / "set").exists()


def test_a_users_mistake_ends_with_code_2_and_no_traceback(tmp_path):
    (tmp_path / "notes.txt").touch()
    result = subprocess.run([sys.executable, Path(make_sample.__file__), "--out", tmp_path], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.startswith("make_sample.py: error: ") and "choose another --out" in result.stderr
