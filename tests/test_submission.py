import json
import zipfile

import pytest
from conftest import grey_frames, write_video
from PIL import Image
from predict_runs import run

from prediction import submission


@pytest.fixture
def submitted(tmp_path):
    """The maps of the whole test set, of one frame each."""
    for name in submission.TEST_SET:
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "0001.png")
        (tmp_path / f"{name}.json").write_text(json.dumps({"settings": {}, "kinds": ["png"], "frames": {"0001": 0.0}}))
    return tmp_path


def test_a_submission_holds_the_maps_of_the_test_set_by_method_video_and_frame(submitted):
    assert submission.pack_submission(submitted, submission.TEST_SET, submitted / "a.zip", "Ours") == 300
    names = zipfile.ZipFile(submitted / "a.zip").namelist()
    assert names[0] == "Ours/0701/0001.png" and names[-1] == "Ours/1000/0001.png" and len(names) == 300


@pytest.mark.parametrize("spoil, said", [
    (lambda maps: (maps / "0800" / "0001.png").unlink(), "video 0800: expected the maps 0001.png to 0001.png .* there are 0"),
    (lambda maps: Image.new("L", (4, 4)).save(maps / "0800" / "0002.png"), "video 0800: .* there are 2"),
    (lambda maps: Image.new("RGB", (4, 4)).save(maps / "0800" / "0001.png"), "0800/0001.png must be an 8-bit grey picture, its mode is RGB"),
    (lambda maps: (maps / "0800.json").unlink(), "video 0800: expected the maps 0001.png to 0000.png"),
])
def test_a_submission_with_a_wrong_map_is_refused(submitted, spoil, said):
    spoil(submitted)
    with pytest.raises(ValueError, match=said):
        submission.pack_submission(submitted, submission.TEST_SET, submitted / "a.zip", "Ours")
    assert not (submitted / "a.zip").exists()


def test_a_submission_of_part_of_the_test_set_is_refused_before_anything_is_computed(tmp_path, clip):
    with pytest.raises(ValueError, match=r"missing: 300, the first .*; not of the set: 1, the first \['my clip ü'\]"):
        run(clip, "--weights", tmp_path / "none.pth", "--submission", tmp_path / "a.zip")


def test_the_command_packs_a_submission_under_the_methods_name(tmp_path, recsalnet_file, monkeypatch, capsys):
    monkeypatch.setattr(submission, "TEST_SET", ["0701", "0702"])
    for name in ("701", "702"):                                            # as DHF1K's own files are called
        write_video(tmp_path / f"{name}.mp4", grey_frames(2))
    common = (tmp_path / "701.mp4", tmp_path / "702.mp4", "--out", tmp_path / "out", "--weights", recsalnet_file, "--device", "cpu", "--submission", tmp_path / "a.zip")
    run(*common, "--method", "Ours")
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == [f"Ours/070{video}/000{frame}.png" for video in (1, 2) for frame in (1, 2)]
    with pytest.raises(FileExistsError, match="a.zip would be replaced: --overwrite replaces it"):
        run(*common, "--skip-existing")
