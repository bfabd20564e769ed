"""What several tests share: the authors' names, a network that is small enough, and a set that is."""
import json
import math
import runpy
import shutil
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import make_sample
import numpy as np
import pytest
import torch
from parity import fill
from torch import nn
from torch._dynamo.testing import CompileCounter

import utils
from baselines import salema, stsnet
from baselines.stsnet import STSMaxNet
from model import RecSalNet

TESTS = Path(__file__).parent
TINY = {"frame_size": (32, 64), "width": 16, "embed_dim": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "drop_path": 0.1}
TINY_FLAGS = ("--frame-size 32 64 --width 16 --embed-dim 12 --depths 1 2 1 1 --num-heads 1 1 2 2 --drop-path 0.1 "
              "--encoder-weights none --workers 0 --device cpu --no-tensorboard").split()

needs_bfloat16 = pytest.mark.skipif(not utils.computes_bfloat16(torch.device("cpu")), reason="bfloat16 takes minutes on this CPU, which has no instructions for it")


def pytest_addoption(parser):
    parser.addoption("--device", choices=["cuda", "cpu"], default="cuda", help="where the tests marked cuda run")
    parser.addoption("--tiny", action="store_true", help="the tests marked cuda take small networks and few frames")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        for item in (item for item in items if item.get_closest_marker("cuda")):
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


def few_channels(patch):
    """Two-stream networks of the same layers, but few channels: files of them are small, and steps quick."""
    patch.setattr(stsnet, "STREAM", {"conv1": (3, 8, 7), "conv2": (8, 8, 5), "conv3": (8, 8, 3), "conv4": (8, 8, 5), "conv5": (8, 8, 5)})
    patch.setattr(stsnet, "TAIL", {"conv6": (8, 8, 7), "conv7": (8, 8, 3), "conv8": (8, 8, 3), "conv9": (8, 1, 3)})


def make_small(patch):
    """Networks of few channels, where no argument makes them so."""
    patch.setattr(salema, "STAGES", ((4, 4), (4, 4), (4, 4, 4), (4, 4, 4), (4, 4, 4)))
    few_channels(patch)


@pytest.fixture(scope="session")
def manifest():
    """Name -> shape of every entry of the authors' state dict."""
    return json.loads((TESTS / "manifests" / "recsalnet.json").read_text())


@pytest.fixture(scope="session")
def weights(manifest):
    """A state dict of the full network, as `golden/` was recorded with."""
    return fill.weights(manifest, seed=1, gain=1.0)


@pytest.fixture(scope="session")
def full_model(weights):
    model = RecSalNet()
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture
def tiny_model():
    torch.manual_seed(0)
    return RecSalNet(**TINY).eval()


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory):
    """A generated set of small frames; read-only for tests, which copy it to change it."""
    out = tmp_path_factory.mktemp("data") / "tiny"
    flags = f"--out {out} --train-videos 3 --val-videos 2 --frames 36 --size 45 80".split()
    make_sample.main(make_sample.arguments().parse_args(flags))
    return out


@pytest.fixture(scope="session")
def vsod_set(tmp_path_factory):
    """A generated set with masks: two sequences of 9 frames in TrainSet_Video, seven stills, two sequences in TestSet/sample; read-only for tests."""
    out = tmp_path_factory.mktemp("vsod") / "vsod"
    flags = f"--kind vsod --out {out} --train-videos 2 --val-videos 2 --frames 8 --size 40 64 --stills 7".split()
    make_sample.main(make_sample.arguments().parse_args(flags))
    return out


@pytest.fixture(scope="session")
def short_vsod_set(vsod_set, tmp_path_factory):
    """The same, 5 frames of each sequence: one group of SMCF; read-only for tests."""
    late = lambda folder, names: [name for name in names if name[-4:] in (".jpg", ".png") and not name.startswith("still") and int(name[-9:-4]) > 4]
    return shutil.copytree(vsod_set, tmp_path_factory.mktemp("short_vsod") / "vsod", ignore=late)


@pytest.fixture(scope="session")
def ucf_set(tiny_set, tmp_path_factory):
    """The tiny set with the splits, the names and the kinds of files of UCF-Sports, cut to 20 frames; videos 1, 2 and 3 to train, 4 and 5 to test."""
    root = tmp_path_factory.mktemp("ucf")
    for split, name in (("train", "training"), ("val", "testing")):
        for video in (tiny_set / split).iterdir():
            for kind in ("images", "maps", "fixation"):
                (root / name / f"Kick-{video.name}" / kind).mkdir(parents=True)
                for path in sorted((video / kind).iterdir())[:20]:
                    shutil.copy(path, root / name / f"Kick-{video.name}" / kind / f"Kick_{video.name}_{path.stem}.png")
    return root


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory):
    """RecSal-Net's file, of the smallest network, with its configuration."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = RecSalNet(**TINY)
    torch.save(model.state_dict(), folder / "RecSalNet.pth")
    (folder / "RecSalNet.json").write_text(json.dumps({"configuration": model.config}))
    return folder / "RecSalNet.pth"


@pytest.fixture(scope="session")
def scored(tiny_set, weights_file, tmp_path_factory):
    """The folder of a run of test.py; read-only for tests."""
    from score_runs import run
    out = tmp_path_factory.mktemp("results")
    run(tiny_set, weights_file, out, "--centre-baseline")
    return out / "tiny_val_RecSalNet_float"


@pytest.fixture(scope="session")
def short_scored(short_set, weights_file, tmp_path_factory):
    """The same of 8 frames of each video; read-only for tests."""
    from score_runs import run
    out = tmp_path_factory.mktemp("short_results")
    run(short_set, weights_file, out, "--centre-baseline")
    return out / "tiny_val_RecSalNet_float"


@pytest.fixture
def no_figures(monkeypatch):
    import test as evaluation
    monkeypatch.setattr(evaluation, "draw_figures", lambda *arguments: [])


@pytest.fixture
def only_scores(no_figures, monkeypatch):
    """Runs of test.py that draw no figures and count no operations, which take longer than the scores of a few frames."""
    from scoring import methods
    monkeypatch.setattr(methods, "gflop", lambda model: 1.0)


def write_video(path, pictures, times=None, rate=25, sound=None, codec="libx264", index_first=False, sound_lasts=None):
    """A video file of (H, W, 3) pictures, at `times` in seconds or at a constant rate.

    With a tone if `sound` names a codec, as long as the pictures or `sound_lasts` seconds.
    """
    import av  # the tests of a GPU run without it
    with av.open(str(path), "w", options={"movflags": "+faststart"} if index_first and path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = ticks = 1 / Fraction(rate) if codec.startswith(("gif", "mpeg")) else Fraction(1, 1000)
        tone = container.add_stream(sound, rate=44100) if sound else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round((times[number] if times else number / rate) / ticks), ticks
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for start in range(0, round(44100 * (sound_lasts or len(pictures) / rate)) if sound else 0, 1024):
            wave = np.sin(2 * math.pi * 440 / 44100 * (start + np.arange(1024, dtype=np.float32)))[None]
            layout = {"aac": ("fltp", wave.astype(np.float32))}.get(sound, ("s16", (32767 * wave).astype(np.int16)))
            samples = av.AudioFrame.from_ndarray(layout[1], format=layout[0], layout="mono")
            samples.sample_rate, samples.pts = 44100, start
            container.mux(tone.encode(samples))
        if sound:
            container.mux(tone.encode(None))
    return path


MATRICES = {                                                               # a display matrix's a, b, c, d -> where it shows the upper left corner
    (1, 0, 0, 1): (0, 0), (-1, 0, 0, 1): (0, -1), (1, 0, 0, -1): (-1, 0), (-1, 0, 0, -1): (-1, -1),
    (0, 1, 1, 0): (0, 0), (0, 1, -1, 0): (0, -1), (0, -1, 1, 0): (-1, 0), (0, -1, -1, 0): (-1, -1),  # these four swap height and width
}


def give_matrix(path, matrix):
    """Write a display matrix (a, b, c, d) into the track header of an MP4 file of one track; returns the path."""
    content = bytearray(path.read_bytes())
    a, b, c, d = (round(x * 2 ** 16) for x in matrix)
    at = content.index(b"tkhd") + 44
    content[at:at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2 ** 30)
    path.write_bytes(content)
    return path


def grey_frames(count, size=(48, 64), step=8):
    """Frames of one grey level each, (H, W, 3) uint8: 0, 8, 16 .."""
    return [np.full((*size, 3), step * number % 256, np.uint8) for number in range(count)]


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Runs a script as `python SCRIPT FLAGS` would, in this process, which has imported PyTorch already; what it returns is as subprocess.run's."""
    def run(script, *flags, cwd="."):
        capsys.readouterr()
        command, code = [str(script), *map(str, flags)], 0
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command)
            patch.chdir(cwd)
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as ended:
                code = ended.code or 0
        return subprocess.CompletedProcess(command, code, *capsys.readouterr())
    return run


@pytest.fixture
def compilations(monkeypatch):
    """Counts graphs as PyTorch compiles them (`frame_count`), and runs them uncompiled: a C++ compiler is not needed."""
    torch._dynamo.reset()
    counter, compile_module = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_module(self, **{**options, "backend": counter}))
    return counter


def trained(dataset, run_dir, *flags):
    """The folder of a run, trained with these flags."""
    from runs import run
    assert run(dataset, run_dir, *flags) == 0
    return run_dir


@pytest.fixture(scope="session")
def finished(tiny_set, tmp_path_factory):
    """A run folder after three epochs; read-only for tests."""
    return trained(tiny_set, tmp_path_factory.mktemp("finished"), "--epochs", "3", "--val-every", "2")


@pytest.fixture
def small_salgan(monkeypatch):
    monkeypatch.setattr(salema, "STAGES", ((8, 8), (8, 8), (8, 8, 8), (8, 8, 8), (8, 8, 8)))  # a SalGAN that is quick


@pytest.fixture
def small_networks(small_salgan, monkeypatch):
    few_channels(monkeypatch)


@pytest.fixture
def recsalnet_file(tmp_path, tiny_model):
    """Weights of the tiny network, with their configuration beside them."""
    torch.save(tiny_model.state_dict(), tmp_path / "RecSalNet.pth")
    (tmp_path / "RecSalNet.json").write_text(json.dumps({"configuration": tiny_model.config}))
    return tmp_path / "RecSalNet.pth"


@pytest.fixture
def stsmaxnet_file(tmp_path, monkeypatch):
    """Weights of a network of single frames and their flow, made small."""
    few_channels(monkeypatch)
    torch.manual_seed(0)
    torch.save(STSMaxNet().state_dict(), tmp_path / "STSMaxNet.pth")
    return tmp_path / "STSMaxNet.pth"


@pytest.fixture
def clip(tmp_path):
    """Nine frames of odd size at a variable rate, with sound."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 48, 62, 3), np.uint8)
    return write_video(tmp_path / "my clip ü.mp4", list(noise), times=[0, 0.04, 0.08, 0.12, 0.3, 0.34, 0.38, 0.42, 0.5], sound="aac")


def shallow():
    """What traces the network, takes as long as it is deep."""
    torch.manual_seed(0)
    return RecSalNet(**{**TINY, "num_recursions": 1}).eval()


@pytest.fixture(scope="session")
def trained_once(tiny_set, tmp_path_factory):
    """The folder of a run of one epoch without validation; read-only for tests."""
    return trained(tiny_set, tmp_path_factory.mktemp("one_epoch"), "--epochs", "1", "--val-every", "0")


@pytest.fixture
def once(trained_once, tmp_path):
    """A copy of that run, for a test to change."""
    return shutil.copytree(trained_once, tmp_path / "once")


@pytest.fixture(scope="session")
def short_set(tiny_set, tmp_path_factory):
    """Its videos, 8 frames of each; read-only for tests."""
    late = lambda folder, names: [name for name in names if name.endswith(".png") and int(name[:-4]) > 8]
    return shutil.copytree(tiny_set, tmp_path_factory.mktemp("short") / "tiny", ignore=late)
