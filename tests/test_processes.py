"""Two processes on one machine, with gloo: started once, each runs `work` below; the tests look at what they left."""
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import TESTS, TINY, TINY_FLAGS
from runs import take_step
from torch.nn.parallel import DistributedDataParallel

import test as evaluation
import train
import utils
from baselines import salema
from loss import Recipe
from model import RecSalNet
from training.progress import Progress

WEIGHTS = {"kl": 1.0, "cc": 1.0, "nss": 0.1}
CASES = {                                                                  # the samples of each process's batches
    "one clip each": [[[0]], [[1]]],
    "one process has none": [[[0]], []],
    "batches of different sizes, one process has one fewer": [[[0, 1], [2]], [[3]]],
}
VALUES = {"cc": [[0.1, float("nan"), 0.3], [0.7]], "kl": [[1e9, 1.0, 1e-9], [1.0 / 3]], "nss": [[float("nan")] * 3, [float("nan")]]}


def make_network(seed):
    torch.manual_seed(seed)
    return RecSalNet(**{**TINY, "drop_path": 0.0}).train()


def make_batch(samples):
    """The samples of these numbers; number 3 has no fixation, so that its terms are left out."""
    each = []
    for number in samples:
        generator = torch.Generator().manual_seed(number)
        fixations = torch.rand(32, 64, generator=generator) < (0.01 if number != 3 else 0)
        each.append({"clip": torch.randint(0, 256, (3, 32, 32, 64), generator=generator, dtype=torch.uint8),
                     "density": torch.rand(32, 64, generator=generator) * (number != 3), "fixations": fixations})
    return {**{name: torch.stack([sample[name] for sample in each]) for name in each[0]}, "video": ["v"] * len(samples), "frame": ["1"] * len(samples)}


def gradients(network, module, batches, accumulate):
    """Of one step on these batches; every process has `accumulate`, some of which may be empty."""
    take_step(network, module, [make_batch(samples) for samples in batches], Recipe(loss_weights=WEIGHTS, accumulate=accumulate))
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def make_recurrent():
    """A SalEMA that is quick."""
    salema.STAGES = ((8, 8), (8, 8), (8, 8, 8), (8, 8, 8), (8, 8, 8))
    torch.manual_seed(0)
    return salema.SalEMA(frame_size=(32, 32)).train()


def make_clip(number, length):
    """A clip of so many frames, all annotated, of a video of its own."""
    generator = torch.Generator().manual_seed(number)
    return {"clip": torch.randint(0, 256, (1, 3, length, 32, 32), generator=generator, dtype=torch.uint8), "density": torch.rand(length, 32, 32, generator=generator),
            "fixations": torch.rand(length, 32, 32, generator=generator) < 0.01, "annotated": torch.ones(length, dtype=torch.bool), "number": number, "first": 0,
            "video": ["v"] * length, "frame": ["1"] * length}


def recurrent_gradients(network, module, clips):
    """Of a step on 5 frames: in one process both videos, or one in each of two."""
    take_step(network, module, clips, Recipe(loss_weights={"kl": 0.0, "bce": 1.0}, accumulate=2))
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def work(folder, scoring):
    """What the tests below look at; `scoring` are flags of test.py."""
    with utils.process_group("cpu"):
        number = utils.rank()
        network = make_network(seed=number)
        module = DistributedDataParallel(network)                          # all get the first one's weights
        found = {}
        for name, shares in CASES.items():
            accumulate = max(map(len, shares))
            found[name] = {key: grad.clone() for key, grad in gradients(network, module, shares[number], accumulate).items()}
        means = train.mean_values({name: shares[number] for name, shares in VALUES.items()}, skipped=number)
        progress = Progress(2, clips=number + 1, sums={"loss": 0.5} if number else {}).combined().record()
        order = utils.all_gather(number)
        print("only the first one prints")
        recurrent = make_recurrent()
        module = train.for_training(recurrent)
        carried = recurrent_gradients(recurrent, module, [make_clip(7, 3)] if number == 0 else [make_clip(8, 2)])
        idle = recurrent_gradients(recurrent, module, [make_clip(7, 5)] if number == 0 else [])
        evaluation.main(evaluation.arguments().parse_args(scoring))
        torch.save({"recurrent": carried, "idle": idle, "gradients": found, "means": means, "progress": progress, "order": order}, folder / f"{number}.pt")


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def scoring(tiny_set, tmp_path_factory):
    """Flags of test.py: a network on the tiny set."""
    torch.manual_seed(0)
    network, path = RecSalNet(**TINY), tmp_path_factory.mktemp("scoring") / "RecSalNet.pth"
    torch.save(network.state_dict(), path)
    path.with_suffix(".json").write_text(json.dumps({"configuration": network.config}))
    return ["--data", str(tiny_set), "--weights", str(path), "--device", "cpu", "--centre-baseline"]


@pytest.fixture(scope="module")
def results(scoring, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port(), "PYTHONPATH": f"{TESTS.parent}:{TESTS}:{TESTS.parent / 'data'}",
              "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([sys.executable, __file__, str(folder), *scoring, "--out", str(folder / "scores")], env={**common, "RANK": number, "LOCAL_RANK": number}, stdout=subprocess.PIPE, text=True)
                 for number in ("0", "1")]
    said = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return {"said": said, "scores": folder / "scores", **{number: torch.load(folder / f"{number}.pt", weights_only=True) for number in (0, 1)}}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_average_the_gradients_of_one_with_all_clips_in_a_batch(results, name):
    together = [number for share in CASES[name] for batch in share for number in batch]
    network = make_network(seed=0)
    expected = gradients(network, network, [together], 1)
    largest = max(grad.abs().max() for grad in expected.values())
    for number in (0, 1):
        found = results[number]["gradients"][name]
        assert found.keys() == expected.keys()
        assert max((found[key] - expected[key]).abs().max() for key in expected) < 1e-5 * largest
        assert all(torch.equal(grad, results[0]["gradients"][name][key]) for key, grad in found.items())


@pytest.mark.parametrize("name, clips", [("recurrent", [(7, 3), (8, 2)]), ("idle", [(7, 5)])])
def test_networks_that_carry_a_state_are_trained_on_videos_of_each_process(results, name, clips, monkeypatch):
    """Alpha has no part in the map of a video's first frame, and none where a process has no video left."""
    monkeypatch.setattr(salema, "STAGES", salema.STAGES)                   # put back afterwards
    network = make_recurrent()
    expected = recurrent_gradients(network, train.for_training(network), [make_clip(*clip) for clip in clips])
    largest = max(grad.abs().max() for grad in expected.values())
    for number in (0, 1):
        found = results[number][name]
        assert found.keys() == expected.keys() and found["alpha"] != 0
        assert max((found[key] - expected[key]).abs().max() for key in expected) < 1e-5 * largest


def test_measures_are_summed_and_counted_over_processes_not_averaged_twice(results):
    for number in (0, 1):
        means = results[number]["means"]
        assert means["cc"] == pytest.approx((0.1 + 0.3 + 0.7) / 3, rel=1e-9)
        assert means["kl"] == pytest.approx((1e9 + 1 + 1e-9 + 1 / 3) / 4, rel=1e-9)
        assert means["nss"] != means["nss"] and means["clips"] == 4 and means["skipped"] == 1


def test_progress_is_added_up_and_processes_are_heard_in_order(results):
    for number in (0, 1):
        assert results[number]["progress"]["clips"] == 3 and results[number]["progress"]["sums"] == {"loss": 0.5}
        assert results[number]["order"] == [0, 1]
    assert results["said"][0].startswith("only the first one prints\n") and results["said"][1] == ""


@pytest.mark.parametrize("error, said", [
    (torch.distributed.DistNetworkError("Failed to recv, got 0 bytes"), "has ended, and says why itself"), (RuntimeError("[gloo] Connection reset"), "has ended, and says why itself"),
    (RuntimeError("gloo: Timed out waiting 1800000ms"), "did not come within 30 minutes"),
])
def test_what_the_loss_of_another_process_means_is_said(error, said, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(utils.dist, "rendezvous", lambda *a, **k: iter([(None, 0, 2)]))
    monkeypatch.setattr(utils, "fresh_store", lambda *a: None)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(utils.dist, name, lambda *a, **k: None)
    with pytest.raises(ConnectionError, match=f"another process of this run {said}"), utils.process_group("cpu"):
        raise error
    with pytest.raises(RuntimeError, match="another trouble"), utils.process_group("cpu"):
        raise RuntimeError("another trouble")


def test_alone_there_is_nobody_to_wait_for():
    with utils.process_group("cpu"):
        assert (utils.rank(), utils.world_size(), utils.all_gather("a"), utils.all_reduce_sum([1.5])) == (0, 1, ["a"], [1.5])


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_two_processes_score_the_same_table_as_one(results, scoring, tmp_path):
    assert results["said"][0].count("| RecSalNet | average over frames |") == 1
    evaluation.main(evaluation.arguments().parse_args([*scoring, "--out", str(tmp_path / "one")]))
    folders = [out / "tiny_val_RecSalNet_float" for out in (tmp_path / "one", results["scores"])]
    scores = [json.loads((folder / "scores.json").read_text()) for folder in folders]
    for method in ("RecSalNet", "centre Gaussian"):
        for average in ("frame_average", "video_average"):
            assert scores[0]["scores"][method][average] == pytest.approx(scores[1]["scores"][method][average], rel=1e-9)
    assert scores[0]["other_frames"] == scores[1]["other_frames"] and scores[0]["notes"] == scores[1]["notes"]
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*.png") if path.parent != folder) for folder in folders]
    assert files[0] == files[1] and all((folders[0] / path).read_bytes() == (folders[1] / path).read_bytes() for path in files[0])
    assert (folders[0] / "per_frame.csv").read_text() == (folders[1] / "per_frame.csv").read_text()


def epochs_of(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()] if (run_dir / "log.jsonl").is_file() else []


def test_two_torchruns_as_on_two_machines_train_as_one_process_does_and_resume_by_themselves_when_a_process_dies(tiny_set, tmp_path):
    """The one whose process is killed counts a restart, the other one does not."""
    flags = [*TINY_FLAGS, "--drop-path", "0", "--data", str(tiny_set), "--epochs", "8", "--val-every", "4", "--lr", "1e-5"]  # Adam makes steps of lr of rounding too
    endpoint = f"localhost:{free_port()}"
    machines = [torchrun("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "1", "--rdzv-endpoint", endpoint, TESTS.parent / "train.py", *flags, "--run-dir", tmp_path / "two",
                         "--batch-size", "1") for _ in range(2)]
    waited = time.monotonic() + 100
    while not (tmp_path / "two" / "last.pt").is_file() and machines[0].poll() is None and time.monotonic() < waited:  # after the first line of the log
        time.sleep(0.05)
    children = [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent_of(path) == machines[1].pid]
    os.kill(max(children), signal.SIGKILL)
    output = "".join(machine.communicate(timeout=120)[0] for machine in machines)
    assert "Traceback" not in output and [machine.returncode for machine in machines] == [0, 0], output
    assert output.count("resuming after epoch") == output.count("finished 8 epochs") == 1, output
    assert train.main(train.arguments().parse_args([*flags, "--run-dir", str(tmp_path / "one"), "--batch-size", "2"])) == 0
    one, two = (epochs_of(tmp_path / name) for name in ("one", "two"))
    assert [line["epoch"] for line in one] == [line["epoch"] for line in two] == list(range(1, 9))
    for a, b in zip(one, two):
        assert all(b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-3) for name in a if name in ("loss", "kl", "cc", "nss", "val_cc", "val_kl"))
        assert a["nss_left_out"] == b["nss_left_out"]
    launches = json.loads((tmp_path / "two" / "run.json").read_text())["launches"]
    assert len(launches) == 2 and launches[1]["epoch"] >= 1 and launches[0]["hardware"]["processes"] == 2


def parent_of(process):
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]), sys.argv[2:])
