"""What several tests share: the authors' names, a network that is small enough, and a set that is."""
import json
from pathlib import Path

import make_sample
import pytest
import torch
from parity import fill
from torch import nn
from torch._dynamo.testing import CompileCounter

from model import RecSalNet

TESTS = Path(__file__).parent
TINY = {"frame_size": (32, 64), "width": 16, "embed_dim": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "drop_path": 0.1}
TINY_FLAGS = ("--frame-size 32 64 --width 16 --embed-dim 12 --depths 1 2 1 1 --num-heads 1 1 2 2 --drop-path 0.1 "
              "--encoder-weights none --workers 0 --device cpu --no-tensorboard").split()


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


@pytest.fixture
def compilations(monkeypatch):
    """Counts graphs as PyTorch compiles them (`frame_count`), and runs them uncompiled: a C++ compiler is not needed."""
    torch._dynamo.reset()
    counter, compile_module = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compile_module(self, backend=counter, **options))
    return counter
