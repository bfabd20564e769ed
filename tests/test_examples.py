import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import TESTS, grey_frames, write_video

import utils
from dataloader import read_video
from model import RecSalNet
from predict import Predictor


@pytest.fixture
def tiny_weights(tmp_path, tiny_model):
    utils.save_safetensors(tiny_model.state_dict(), tiny_model.config, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_the_quickstart_says_where_people_look_every_25_frames(tmp_path, tiny_weights):
    clip = write_video(tmp_path / "a.mp4", grey_frames(30))
    command = [sys.executable, TESTS.parent / "examples" / "quickstart.py", clip, tiny_weights]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(TESTS.parent)})
    assert ended.returncode == 0, ended.stderr[-1000:]
    assert [line.split(":")[0].split() for line in ended.stdout.splitlines()] == [["second", "0.00"], ["second", "1.00"]]


def test_the_page_makes_an_overlay_and_shows_its_frames(tmp_path, tiny_weights, monkeypatch):
    gradio = pytest.importorskip("gradio")
    monkeypatch.syspath_prepend(TESTS.parent / "examples")
    import app
    predictor = Predictor(tiny_weights, "cpu")
    assert isinstance(predictor.model, RecSalNet) and app.build(predictor, tmp_path)
    clip = write_video(tmp_path / "a.mp4", grey_frames(10))
    overlay = app.predict_overlay(predictor, str(clip), tmp_path, lambda *unused, **also: None)
    times, frames = app.times_of(overlay), list(read_video(overlay))
    assert times == pytest.approx(np.arange(10) / 25) and app.frame_at(None, times, 0.0) is None
    assert all(np.array_equal(app.frame_at(str(overlay), times, at), frames[shown]) for at, shown in ((0.0, 0), (0.07, 1), (0.08, 2), (0.36, 9), (9.0, 9)))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(gradio.Error, match="no frame could be decoded"):
        app.predict_overlay(predictor, str(tmp_path / "b.mp4"), tmp_path, lambda *unused, **also: None)
    with pytest.raises(gradio.Error, match="Drop a video first"):
        app.predict_overlay(predictor, None, tmp_path, lambda *unused, **also: None)
