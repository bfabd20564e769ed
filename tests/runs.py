"""What the tests of training share: small runs, and what they leave behind."""
import json
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import torch
from conftest import TESTS, TINY_FLAGS

import train
from training.progress import Progress, StopRequest


def flags_for(tiny_set, run_dir, *extra):
    return [*TINY_FLAGS, "--data", str(tiny_set), "--run-dir", str(run_dir), "--lr", "1e-3", "--epochs", "2", "--val-every", "1", *extra]


def run(tiny_set, run_dir, *extra):
    return train.main(train.arguments().parse_args(flags_for(tiny_set, run_dir, *extra)))


def weights_of(run_dir):
    return torch.load(run_dir / "last.pt", weights_only=True)["model"]


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def log_of(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def broken_copy(tiny_set, tmp_path):
    shutil.copytree(tiny_set, tmp_path / "set")
    for path in sorted((tmp_path / "set" / "train").iterdir())[0].glob("images/*.png"):
        path.write_bytes(b"half a picture")
    return tmp_path / "set"


def start(tiny_set, run_dir, *extra):
    command = [sys.executable, TESTS.parent / "train.py", *flags_for(tiny_set, run_dir, "--workers", "1", *extra)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def wait_for(process, happened):
    """Waits until something has happened; fails if the run ends before."""
    waited = time.monotonic() + 120
    while not happened() and time.monotonic() < waited and process.poll() is None:
        time.sleep(0.0005)
    assert happened() and process.poll() is None, process.communicate()


def train_model(name, tiny_set, run_dir, *extra):
    flags = ["--model", name, "--data", tiny_set, "--run-dir", run_dir, "--encoder-weights", "none", "--workers", "0", "--device", "cpu", "--no-tensorboard",
             "--frame-size", "32", "32", "--epochs", "1", "--batch-size", "1", "--lr", "1e-3", *extra]
    return train.main(train.arguments().parse_args([str(flag) for flag in flags]))


SMALL_SMCF = ("--trunk-width", "4", "--trunk-blocks", "1", "1", "1", "1", "--frame-size", "32", "64", "--batch-size", "5", "--no-keep-flow")


def train_smcf(vsod_set, run_dir, *extra):
    return train_model("smcf", vsod_set, run_dir, *SMALL_SMCF, *extra)


def take_step(model, module, batches, recipe):
    """One step of train.py on `recipe.accumulate` batches at a rate of 0: the gradients stay where they are, and so do the weights."""
    class Loader(list):
        batch_sampler, dataset = SimpleNamespace(epoch=0), SimpleNamespace(skip_bad=False)
    loader = Loader({"skipped": [], **batch} for batch in [*batches, *[{}] * (recipe.accumulate - len(batches))])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    assert train.train_one_epoch(model, module, loader, recipe, "float32", optimizer, Progress(len(loader)), SimpleNamespace(requested=False))


class StopAfter(StopRequest):
    """As if the user pressed Ctrl-C during the n-th optimiser step."""
    step = 0

    @property
    def requested(self):
        StopAfter.step += 1
        return StopAfter.step >= StopAfter.at

    @requested.setter
    def requested(self, value):
        pass
