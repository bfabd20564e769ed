import json
import os
import shutil

import numpy as np
import pytest
from conftest import grey_frames, write_video
from PIL import Image
from predict_runs import run

from model import RecSalNet
from prediction import record
from prediction.sources import Source


def test_two_inputs_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="several inputs are called a"):
        record.check_names([Source(tmp_path / "x" / "a.mp4"), Source(tmp_path / "y" / "a.avi")])


def test_an_interrupted_run_goes_on_with_the_frames_that_are_missing(tmp_path, recsalnet_file, monkeypatch):
    clip = write_video(tmp_path / "a.mp4", list(np.random.default_rng(1).integers(0, 256, (40, 48, 64, 3), np.uint8)))
    common = ("--weights", recsalnet_file, "--device", "cpu", "--scene-cuts", "--save", "png", "npy")
    run(clip, "--out", tmp_path / "whole", *common)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    record = tmp_path / "cut" / "a.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "frames": None}))
    for number in range(37, 41):
        (tmp_path / "cut" / "a" / f"{number:04d}.png").unlink()
    with pytest.raises(FileExistsError, match="was predicted already: --skip-existing keeps what is there and goes on after it, --overwrite replaces it"):
        run(clip, "--out", tmp_path / "cut", *common)
    clips, forward = [], RecSalNet.forward
    monkeypatch.setattr(RecSalNet, "forward", lambda self, clip: (clips.append(1), forward(self, clip))[1])
    run(clip, "--out", tmp_path / "cut", *common, "--skip-existing")
    assert len(clips) == 4
    written = sorted(p.name for p in (tmp_path / "whole" / "a").iterdir())
    assert len(written) == 80 and all((tmp_path / "whole" / "a" / n).read_bytes() == (tmp_path / "cut" / "a" / n).read_bytes() for n in written)
    assert json.loads(record.read_text())["frames"] == json.loads((tmp_path / "whole" / "a.json").read_text())["frames"]
    run(clip, "--out", tmp_path / "cut", *common, "--skip-existing")       # everything is there
    assert len(clips) == 4


def test_what_was_made_otherwise_is_not_gone_on_with_and_overwriting_leaves_nothing_of_it(tmp_path, recsalnet_file, clip):
    common = (clip, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu")
    run(*common, "--save", "png", "sheet")
    with pytest.raises(ValueError, match="was predicted otherwise: every was 1, is 4. Give --overwrite"):
        run(*common, "--skip-existing", "--every", "4")
    run(*common, "--overwrite", "--every", "4")
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.png")) == ["0001.png", "0005.png", "0009.png"]


@pytest.mark.parametrize("change, said", [
    (lambda clip: write_video(clip, grey_frames(4)), "input was .*bytes.*, is"), (lambda clip: os.utime(clip, (1, 1)), "input was .*modified.*, is"),
])
def test_another_video_of_the_same_name_is_not_gone_on_with(tmp_path, recsalnet_file, clip, change, said):
    common = (clip, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu")
    run(*common)
    change(clip)
    with pytest.raises(ValueError, match=said):
        run(*common, "--skip-existing")


def test_a_folder_with_another_frame_or_rate_is_not_gone_on_with(tmp_path, recsalnet_file):
    (tmp_path / "a").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30)).save(tmp_path / "a" / f"{number}.png")
    common = (tmp_path / "a", "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--skip-existing")
    run(*common)
    with pytest.raises(ValueError, match="input was .*'fps': 25.0}, is .*'fps': 30.0}"):
        run(*common, "--fps", "30")
    Image.new("RGB", (40, 30)).save(tmp_path / "a" / "3.png")
    with pytest.raises(ValueError, match="input was {'frames': 3"):
        run(*common)


def test_an_input_is_never_written_over(tmp_path, recsalnet_file, clip):
    other = shutil.copy(clip, tmp_path / f"{clip.stem}_overlay.mp4")
    with pytest.raises(ValueError, match="outputs of .*ü.mp4 would be written over or into the input .*_overlay.mp4"):
        run(clip, other, "--out", tmp_path, "--weights", recsalnet_file, "--device", "cpu", "--save", "overlay", "--overwrite")
    assert other.read_bytes() == clip.read_bytes()


def test_a_run_that_made_nothing_leaves_nothing(tmp_path, recsalnet_file, clip):
    with pytest.raises(ValueError, match="has no frame from second 50 to its end; the last one that was seen is at second 0.50"):
        run(clip, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--start", "50")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("flag", ["--overwrite", "--skip-existing"])
@pytest.mark.parametrize("content", [None, "{}", "[1]", "no JSON", '{"name": "my own"}'])
def test_files_of_others_are_never_replaced(tmp_path, recsalnet_file, clip, flag, content):
    (tmp_path / "out" / clip.stem).mkdir(parents=True)
    (tmp_path / "out" / clip.stem / "0001.png").write_bytes(b"a frame of mine")
    if content is not None:
        (tmp_path / "out" / f"{clip.stem}.json").write_text(content)
    with pytest.raises(FileExistsError, match="is there, and .*json does not say that this program wrote it"):
        run(clip, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", flag)
    assert (tmp_path / "out" / clip.stem / "0001.png").read_bytes() == b"a frame of mine"


@pytest.mark.parametrize("flag", ["--overwrite", "--skip-existing"])
@pytest.mark.parametrize("place, first, second", [
    ("_sheet.png", "png", "sheet"), ("_overlay.mp4", "npy", "overlay"), ("/0001.png", "overlay", "png"), ("/0001.png", "npy", "png"),
])
def test_an_earlier_run_vouches_only_for_the_kinds_it_wrote(tmp_path, recsalnet_file, clip, flag, place, first, second):
    common = (clip, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu")
    run(*common, "--save", first)
    mine = tmp_path / "out" / f"{clip.stem}{place}"
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="does not say that this program wrote it"):
        run(*common, "--save", second, flag)
    run(*common, "--save", first, flag)
    assert mine.read_bytes() == b"mine"


def test_another_kind_is_added_to_what_is_there(tmp_path, recsalnet_file, clip):
    common = (clip, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--skip-existing")
    run(*common, "--save", "png")
    before = (tmp_path / "out" / clip.stem / "0001.png").stat().st_mtime_ns
    run(*common, "--save", "npz")
    assert json.loads((tmp_path / "out" / f"{clip.stem}.json").read_text())["kinds"] == ["npz", "png"]
    assert (tmp_path / "out" / clip.stem / "0001.png").stat().st_mtime_ns == before and (tmp_path / "out" / f"{clip.stem}.npz").exists()


def test_nothing_is_removed_before_everything_is_checked(tmp_path, recsalnet_file, clip):
    run(clip, "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu")
    (tmp_path / "out" / "frames").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "out" / "frames" / "1.png")
    with pytest.raises(ValueError, match="would be written over or into the input"):
        run(clip, tmp_path / "out" / "frames", "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--overwrite")
    assert len(list((tmp_path / "out" / clip.stem).iterdir())) == 9


def test_a_folder_of_videos_does_not_get_its_own_outputs(tmp_path, recsalnet_file, clip):
    with pytest.raises(ValueError, match="is an input: its outputs would be taken for videos the next time"):
        run(tmp_path, "--out", tmp_path, "--weights", recsalnet_file, "--device", "cpu")


def test_maps_never_fall_among_the_frames(tmp_path, recsalnet_file, tiny_set):
    video = sorted((tiny_set / "val").iterdir())[0]
    with pytest.raises(ValueError, match="would be written over or into the input .*: choose another --out"):
        run(video, "--out", video.parent, "--weights", recsalnet_file, "--device", "cpu")
