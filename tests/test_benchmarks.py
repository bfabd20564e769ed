import functools
import json

import pytest
import torch

from benchmarks import clips, evaluation, measures, network, plain, timing
from dataloader import ClipDataset
from model import prepare_frame
from utils import computes_bfloat16

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
    bfloat16 = ["bfloat16"] * computes_bfloat16(CPU)                       # left out, with a word, on a CPU that has no instructions for it
    assert ("bfloat16 left out" in capsys.readouterr().out) == (not bfloat16)
    assert [(row["variant"], row["batch"]) for row in rows if row["what"] == "forward"] == [
        ("plain float32", 1), ("plain float32, freed memory kept", 1), *((precision, batch) for precision in ("float32", *bfloat16) for batch in (1, 2))]
    assert [row["variant"] for row in rows if row["what"] == "step"][-1] == f"{(['float32'] + bfloat16)[-1]}, checkpointing"
    assert rows[0]["times plain"] == 1 and all(row["s per clip"] > 0 and row["GFLOP/s"] > 0 for row in rows)


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


def test_the_benchmark_of_clips_compares_decoding_with_prepared_frames(tmp_path, capsys):
    flags = f"--videos 2 --frames 33 --frame-size 32 64 --epochs 1 --folder {tmp_path} --out {tmp_path / 'a.json'}".split()
    clips.main(clips.arguments().parse_args(flags))
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["clips from"] for row in rows] == ["PNG, 360 x 640", "prepared, 32 x 64"]
    assert rows[1]["times PNG"] == pytest.approx(rows[1]["clips/s"] / rows[0]["clips/s"]) and rows[1]["KB a frame"] == pytest.approx(3 * 32 * 64 / 1e3, abs=0.01)


def test_the_benchmark_of_clips_refuses_to_time_what_is_not_the_same(tmp_path):
    videos = clips.make_videos(tmp_path, 1, 32, (36, 64))
    prepare = functools.partial(prepare_frame, size=(32, 32))
    one, other = (ClipDataset(videos, function) for function in (prepare, lambda frame: prepare(frame) ^ 1))
    clips.check_same(one, one)
    with pytest.raises(AssertionError, match="clip 0 differs"):
        clips.check_same(one, other)
