import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import TESTS, TINY_FLAGS, grey_frames, write_video

import test as evaluation
import train
from model import RecSalNet
from predict import Predictor
from scoring import methods
from videos.decoding import read_video
from weights import save_safetensors


@pytest.fixture
def tiny_weights(tmp_path, tiny_model):
    save_safetensors(tiny_model.state_dict(), tiny_model.config, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


@pytest.mark.parametrize("own", [False, True])
def test_the_quickstart_says_where_people_look_every_25_frames(tmp_path, tiny_weights, run_script, own):
    clip = write_video(tmp_path / "a.mp4", grey_frames(30))
    ended = run_script(TESTS.parent / "examples" / "quickstart.py", clip, *[tiny_weights] * own)
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


@pytest.mark.parametrize("flags, expected", [([], (None, "recsal_lite")), (["--weights", "a.pth"], ("a.pth", "recsalnet")), (["--model", "salema"], (None, "salema"))])
def test_the_page_takes_recsal_lite_where_nothing_is_given(monkeypatch, flags, expected):
    pytest.importorskip("gradio")
    monkeypatch.syspath_prepend(TESTS.parent / "examples")
    import app

    class Asked(Exception):
        pass

    def ask(weights, device, model):
        assert (weights, model) == expected
        raise Asked
    monkeypatch.setattr(app, "Predictor", ask)
    with pytest.raises(Asked):
        app.main(app.arguments().parse_args(flags))


# --- the ablation ----------------------------------------------------------------------------------------------------------

ABLATION = TESTS.parent / "examples" / "ablation.py"
TRAIN_FLAGS = [flag for flag in TINY_FLAGS if flag not in ("--device", "cpu")]


@pytest.fixture
def ablation(monkeypatch):
    """The script, whose programs run in this process: they import PyTorch once."""
    def run(program, *words):
        program = {"train.py": train, "test.py": evaluation}[program]
        assert not program.main(program.arguments().parse_args([str(word) for word in words]))
    monkeypatch.syspath_prepend(ABLATION.parent)
    import ablation
    monkeypatch.setattr(ablation, "run", run)
    return ablation


@pytest.fixture
def short_set(ucf_set, tmp_path):
    """The first frames of each of its videos."""
    late = lambda folder, names: [name for name in names if name.endswith(".png") and int(name.rpartition("_")[2][:-4]) > 3]
    return shutil.copytree(ucf_set, tmp_path / "short", ignore=late)


def ablate(ablation, folder, data, *flags, epochs=1):
    own = ["--recursions", "0", "2", "--dataset", "ucf-sports", "--data", str(data), "--run-dir", str(folder / "runs"), "--out", str(folder / "results"), "--device", "cpu"]
    ablation.main(ablation.arguments().parse_args([*own, *flags]), [*TRAIN_FLAGS, "--epochs", str(epochs), "--val-every", "1"])


def test_the_ablation_trains_each_number_of_recursions_and_scores_them_in_one_table(ablation, short_set, tmp_path, capsys, monkeypatch):
    ablate(ablation, tmp_path, short_set)
    scores = tmp_path / "results/runs"
    assert {"| K=0 | average over frames", "| K=2 | average over frames"} <= {line[:27] for line in (scores / "scores.md").read_text().splitlines()}
    assert (scores / "comparison.png").is_file() and {"K=0", "K=2"} <= {p.name for p in scores.iterdir()}
    for number, folder in ((0, "K0"), (2, "K2")):
        assert RecSalNet.from_pretrained(tmp_path / "runs" / folder / "RecSalNet.pth").num_recursions == number
    assert "resuming" not in capsys.readouterr().out

    with pytest.raises(FileExistsError, match="runs is there: --overwrite"):
        ablate(ablation, tmp_path, short_set, epochs=2)
    monkeypatch.setattr(evaluation, "draw_figures", lambda *arguments: [])  # they were drawn
    monkeypatch.setattr(methods, "gflop", lambda model: 1.0)
    ablate(ablation, tmp_path, short_set, "--overwrite", epochs=2)
    assert capsys.readouterr().out.count("resuming after epoch 1") == 2
    logs = [(tmp_path / "runs" / folder / "log.jsonl").read_text().splitlines() for folder in ("K0", "K2")]
    assert [[json.loads(line)["epoch"] for line in log] for log in logs] == [[1, 2], [1, 2]]


@pytest.mark.parametrize("flags, message", [(["--recursions", "1", "1"], "expected different --recursions"), (["--recursions", "-1"], "expected different --recursions"),
                                            (["--", "--num-rec=3"], "--num-rec=3 cannot follow --"), (["--", "--epochs", "1", "--run-dir", "x"], "--run-dir cannot follow --")])
def test_what_the_ablation_cannot_do_is_said_at_once(tmp_path, flags, message):
    ended = subprocess.run([sys.executable, ABLATION, *flags], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.startswith("ablation.py: error: ") and message in ended.stderr
    assert not list(tmp_path.iterdir())


def test_a_step_of_the_ablation_that_fails_ends_it_with_the_same_exit_code_from_any_directory(tmp_path, monkeypatch, capsys, run_script):
    """The step runs in this process, which has imported PyTorch already; below, steps are processes."""
    printed, errors = [], []

    @contextlib.contextmanager
    def step(command):
        assert command[0] == sys.executable
        printed.append(capsys.readouterr().out)
        ended = run_script(*command[1:])
        printed.append(ended.stdout)
        errors.append(ended.stderr)
        yield ended
    monkeypatch.setattr(subprocess, "Popen", step)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)    # pytest's stay
    ended = run_script(ABLATION, "--data", "nowhere", "--", "--epochs", "1", cwd=tmp_path)
    ended.stdout, ended.stderr = "".join([*printed, ended.stdout]), "".join([*errors, ended.stderr])
    assert ended.returncode == 2 and "train.py: error: no dataset nowhere" in ended.stderr
    line, = ended.stdout.splitlines()
    assert line.startswith("$ train.py --dataset dhf1k --data nowhere") and line.endswith("--num-recursions 0 --run-dir saved_models/ablation/K0 --epochs 1")


def run_step(folder, code):
    """A process of the script that runs a step of this code."""
    (folder / "step.py").write_text(code)
    command = [sys.executable, "-c", "import ablation, sys; ablation.run(sys.argv[1])", folder / "step.py"]
    return subprocess.Popen(command, cwd=ABLATION.parent, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("code, expected", [("", 0), ("raise SystemExit(7)", 7), ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137)])
def test_the_exit_code_of_the_ablation_is_that_of_a_shell_for_its_step(tmp_path, code, expected):
    with run_step(tmp_path, code) as process:
        process.communicate()
    assert process.returncode == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_step_of_the_ablation_that_is_stopped_may_finish_what_it_does(tmp_path, number):
    code = """
import signal, sys, time
def stop(number, frame):
    time.sleep(0.6)
    sys.exit(128 + number)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
    with run_step(tmp_path, code) as process:
        assert [process.stdout.readline() for _ in range(2)][1] == "ready\n"
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)       # a terminal's Ctrl-C reaches both
    assert process.returncode == 128 + number
