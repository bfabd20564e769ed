import functools
import json

import pytest
import torch

from benchmarks import evaluation, measures, network, plain, timing

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_plain_formulation_gives_our_results_and_every_measure_is_timed(tmp_path, capsys):
    flags = f"--size 30 40 --fixations 12 --repeats 1 --out {tmp_path / 'a.json'}".split()
    measures.main(measures.arguments().parse_args(flags))
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["measure"] for row in rows] == ["AUC-J", "SIM", "s-AUC", "CC", "NSS", "KL", "all six"]
    assert all(row["difference"] < (0.05 if row["measure"] in ("s-AUC", "all six") else 1e-6) for row in rows)  # s-AUC's splits are random there
    assert all(row["plain_ms"] > 0 and row["ours_ms"] > 0 for row in rows) and "| AUC-J |" in capsys.readouterr().out


def test_frames_are_measured_in_batches_and_settings_recorded(tmp_path):
    flags = f"--size 20 30 --fixations 5 --repeats 1 --batch-size 3 --threads 2 --out {tmp_path / 'a.json'}".split()
    measures.main(measures.arguments().parse_args(flags))
    assert json.loads((tmp_path / "a.json").read_text())["settings"] == {
        "size": [20, 30], "fixations": 5, "batch_size": 3, "repeats": 1, "threads": 2, "device": "cpu"}
    assert torch.get_num_threads() == 2
    assert measures.make_frames((20, 30), 5, 3)["fixations"].sum((1, 2)).tolist() == [5, 5, 5]


def test_the_networks_benchmark_compares_forward_passes_and_steps_with_the_plain_formulation(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(network.timing, "matrix_rate", lambda dtype, device: 1e12)
    flags = f"--size 32 32 --repeats 1 --no-memory --device cpu --batch-sizes 1 2 --out {tmp_path / 'a.json'}".split()
    network.main(network.arguments().parse_args(flags))
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [(row["what"], row["variant"], row["batch"]) for row in rows[:6]] == [
        ("forward", "plain float32", 1), ("forward", "plain float32, freed memory kept", 1), ("forward", "float32", 1), ("forward", "float32", 2),
        ("forward", "bfloat16", 1), ("forward", "bfloat16", 2)]
    assert len(rows) == 14 and rows[0]["times plain"] == 1 and all(row["s per clip"] > 0 and row["GFLOP/s"] > 0 for row in rows)


def test_the_plain_formulation_is_the_network():
    model = network.make_model(CPU)
    clip = network.make_clip(1, (64, 96), CPU)
    with torch.no_grad():
        assert (plain.forward(model.state_dict(), clip) - model(clip)).abs().max() < 1e-5


def test_the_evaluations_benchmark_times_every_stage(tmp_path, capsys):
    flags = f"--frames 3 --frame-size 32 32 --repeats 1 --device cpu --out {tmp_path / 'a.json'}".split()
    evaluation.main(evaluation.arguments().parse_args(flags))
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == ["decode and resize", "forward", "post", "measures", "write", "all but forward",
                                         "the same without measures", "end to end"]
    assert all(row["ours, ms a frame"] > 0 for row in rows) and "| end to end |" in capsys.readouterr().out


def test_peak_memory_is_what_a_call_needs():
    megabytes = timing.peak_memory(functools.partial(allocate, 64), CPU)
    assert megabytes is None or 60 < megabytes < 80


def allocate(megabytes):
    return lambda: torch.ones(megabytes * 2 ** 18)
