import json
import shutil
import unicodedata

import cv2
import numpy as np
import pytest
import torch
from conftest import TESTS
from parity import fill
from PIL import Image
from score_runs import (
    density_as_maps,
    frame_scores,
    make_fixations,
    run,
    save_maps,
    score_files,
    score_small,
    small_set,
)

from model import RecSalNet
from prediction.engine import saliency_maps
from prediction.outputs import to_8_bit
from scoring import methods
from videos.resizing import imresize
from videos.video import find_videos


def test_predictions_may_have_other_zeros_than_the_frames(only_scores, short_set, tmp_path):
    video = sorted((short_set / "val").iterdir())[0]
    (maps := tmp_path / "maps" / video.name).mkdir(parents=True)
    for path in (video / "maps").iterdir():
        shutil.copy(path, maps / f"{int(path.stem)}.png")
    shutil.copytree(video, tmp_path / "set" / "val" / video.name)
    score_files(tmp_path / "set", tmp_path / "maps", tmp_path / "out")
    folder, = (tmp_path / "out").iterdir()
    assert json.loads((folder / "scores.json").read_text())["scores"]["maps"]["frame_average"]["cc"] == pytest.approx(1)


def test_maps_of_any_method_and_size_are_scored(only_scores, short_set, tmp_path, capsys):
    """Half the frames' size, in another kind of file: scored as if they had been resized before."""
    for video in find_videos(short_set, "val"):
        for frame in video.frames:
            small = imresize(torch.from_numpy(np.array(Image.open(video.maps[frame.stem]))), (30, 50))
            for folder, saliency in (("small", small), ("large", imresize(small, (45, 80)))):
                path = tmp_path / folder / video.name / f"{frame.stem}.bmp"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(saliency.numpy()).save(path)
    for folder in ("small", "large"):
        score_files(short_set, tmp_path / folder, tmp_path / "out")
    assert "Maps resized to their annotation's size: 16 of 16" in capsys.readouterr().out
    small, large = (frame_scores(tmp_path / "out" / f"tiny_val_{folder}_dhf1k") for folder in ("small", "large"))
    assert all(small[frame] == pytest.approx(large[frame], nan_ok=True) for frame in large) and small["004", "0001"]["cc"] > 0.9


def test_stored_maps_that_are_resized_are_rounded_in_the_benchmarks_protocol_only(only_scores, short_set, tmp_path):
    draw = lambda video, index: np.array(Image.open(video.maps[video.frames[index].stem]).resize((40, 22)))
    save_maps(short_set, tmp_path / "maps", draw)
    for protocol in ("float", "dhf1k"):
        score_files(short_set, tmp_path / "maps", tmp_path, "--protocol", protocol)
    rounded, exact = (frame_scores(tmp_path / f"tiny_val_maps_{protocol}")["004", "0001"] for protocol in ("dhf1k", "float"))
    assert rounded != pytest.approx(exact, abs=1e-9) and rounded == pytest.approx(exact, abs=0.05)
    assert "maps as their files have them" in (tmp_path / "tiny_val_maps_float" / "scores.md").read_text()


def test_missing_maps_are_an_error_that_says_what_is_there_or_a_video_left_out(only_scores, short_set, short_scored, tmp_path, capsys):
    maps = shutil.copytree(short_scored / "RecSalNet", tmp_path / "maps")
    (maps / "004" / "0007.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no map for 1 of the 8 frames to score of video 004: expected .*0007.png .or .*, but .*004 holds 0001.png to 0008.png, 7 in all.*1 of 2 videos lack maps; --skip-bad"):
        score_files(short_set, maps, tmp_path / "a")
    score_files(short_set, maps, tmp_path / "b", "--skip-bad")
    assert "Skipped, 1 of 2 videos scored.** video 004: no map for 1" in capsys.readouterr().out
    assert len(list((maps / "004").iterdir())) == 7                        # the user's own files stay
    with pytest.raises(FileNotFoundError, match="no predictions .*nowhere: the folder does not exist"):
        score_files(short_set, tmp_path / "nowhere", tmp_path / "c")


def test_grey_maps_in_colour_files_are_scored_and_heat_maps_refused(only_scores, short_set, short_scored, tmp_path):
    stored = lambda video, index: np.array(Image.open(short_scored / "RecSalNet" / video.name / video.frames[index].name))
    save_maps(short_set, tmp_path / "rgb", lambda video, index: np.stack([stored(video, index)] * 3, axis=2))
    save_maps(short_set, tmp_path / "heat", lambda video, index: cv2.applyColorMap(stored(video, index), cv2.COLORMAP_JET))
    score_files(short_set, tmp_path / "rgb", tmp_path)
    score_files(short_set, short_scored / "RecSalNet", tmp_path, "--method", "grey")
    assert (tmp_path / "tiny_val_rgb_dhf1k" / "per_frame.csv").read_text().replace("rgb", "grey") == (tmp_path / "tiny_val_grey_dhf1k" / "per_frame.csv").read_text()
    with pytest.raises(ValueError, match=r"heat.004.0001.png is in colour: expected a grey map"):
        score_files(short_set, tmp_path / "heat", tmp_path)


def test_predictions_are_found_in_folders_of_another_unicode_form(no_figures, tmp_path):
    data = small_set(tmp_path / "set")
    (data / "val" / "a").rename(data / "val" / unicodedata.normalize("NFC", "Café"))
    maps = density_as_maps(data, tmp_path / "maps")
    (maps / unicodedata.normalize("NFC", "Café")).rename(maps / unicodedata.normalize("NFD", "Café"))
    assert score_small(data, maps, tmp_path / "out")["scores"]["maps"]["videos"] == 2


def test_predictions_that_are_a_file_are_called_one(short_set, weights_file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no predictions .*RecSalNet.pth: it is a file; expected a folder with VIDEO/FRAME.png"):
        score_files(short_set, weights_file, tmp_path)


def test_every_frame_is_decoded_once(only_scores, short_set, weights_file, tmp_path, monkeypatch):
    opened = []
    real = methods.read_frame
    monkeypatch.setattr(methods, "read_frame", lambda path: (opened.append(path), real(path))[1])
    run(short_set, weights_file, tmp_path)
    assert len(opened) == len(set(opened)) == sum(len(v.frames) for v in find_videos(short_set, "val"))


@pytest.fixture(scope="module")
def full_file(weights, tmp_path_factory):
    """The full network's weight file, without a configuration."""
    path = tmp_path_factory.mktemp("full") / "RecSalNet.pth"
    torch.save(weights, path)
    yield path
    path.unlink()                                                          # pytest keeps the folders of three runs


def test_the_programs_maps_with_the_full_networks_weights_are_those_of_the_network(only_scores, full_file, tmp_path):
    (tmp_path / "RecSalNet.pth").hardlink_to(full_file)
    (tmp_path / "RecSalNet.json").write_text(json.dumps({"configuration": {"frame_size": [32, 32]}}))
    make_fixations(tmp_path / "set" / "val" / "a", [(0, 0)], size=(40, 60))
    run(tmp_path / "set", tmp_path / "RecSalNet.pth", tmp_path / "out")
    model = RecSalNet.from_pretrained(tmp_path / "RecSalNet.pth")
    with torch.no_grad():
        clip = torch.stack([model.prepare(np.zeros((40, 60, 3), np.uint8))] * 32, dim=1)[None]
        expected = to_8_bit(model.finish(model(model.normalise(clip)), (40, 60))[0])
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "set_val_RecSalNet_float" / "RecSalNet" / "a" / "0001.png")), expected)


def test_a_weight_file_by_fill_gives_the_golden_map_through_the_programs_engine(full_file):
    """The recorded clip's frames go through `saliency_maps` one by one; the 32nd map is that of the whole clip."""
    recorded = np.load(TESTS / "golden" / "recsalnet_64x96.npz")
    clip = fill.clip(tuple(recorded["shape"]), int(recorded["seed"]))[0]
    model = RecSalNet.from_pretrained(full_file)
    model.prepare = lambda frame: clip[:, frame[0, 0, 0]]                  # the recorded input is normalised already
    model.normalise = lambda clip: clip
    model.finish = lambda output, size: output
    forward, seen = model.forward, []
    model.forward = lambda clip: (seen.append(clip), forward(clip) if len(seen) == 32 else clip[:, 0, 0])[1]  # one forward is enough
    maps = list(saliency_maps(model, (np.full((1, 1, 3), number, np.uint8) for number in range(32))))
    assert len(maps) == 32
    assert abs(maps[31].numpy() - recorded["saliency"][0]).max() < 1e-5
