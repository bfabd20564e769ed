import copy
import functools
import json
import types

import pytest
import torch
from conftest import grey_frames, make_small, write_video
from torch import nn

from baselines.recsal_lite import RecSalLite
from benchmarks import clips, evaluation, gpu, gpu_stages, lite, measures, network, plain, timing
from dataloader import ClipDataset
from saliency_model import prepare_frame
from scoring import methods
from utils import computes_bfloat16
from weights import save_safetensors

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def made():
    """A full network; read-only for tests. Random weights take longer than all else here."""
    return network.make_model(CPU, (32, 32))


@pytest.fixture
def made_once(made, monkeypatch):
    """Full networks are copies of that one, whose operations nobody counts; small ones are made."""
    make = network.make_model
    monkeypatch.setattr(evaluation, "RecSalNet", lambda frame_size: copy.deepcopy(made))
    monkeypatch.setattr(methods, "gflop", lambda model: 1.0)
    monkeypatch.setattr(network, "make_model", lambda device, size, **config: make(device, size, **config) if config else copy.deepcopy(made))


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


def test_the_networks_benchmark_compares_forward_passes_and_steps_with_the_plain_formulation(tmp_path, capsys, monkeypatch, made_once):
    monkeypatch.setattr(network.timing, "matrix_rate", lambda dtype, device: 1e12)
    monkeypatch.setattr(network, "median_seconds", lambda call, repeats, device, warm_up: timing.median_seconds(call, repeats, device, warm_up=0))
    flags = f"--size 32 32 --repeats 1 --no-memory --device cpu --out {tmp_path / 'a.json'}".split()
    network.main(network.arguments().parse_args([*flags, "--what", "forward", "--batch-sizes", "1", "2"]))
    forwards = json.loads((tmp_path / "a.json").read_text())["rows"]
    bfloat16 = ["bfloat16"] * computes_bfloat16(CPU)                       # left out, with a word, on a CPU that has no instructions for it
    assert ("bfloat16 left out" in capsys.readouterr().out) == (not bfloat16)
    assert [(row["what"], row["variant"], row["batch"]) for row in forwards] == [("forward", variant, batch) for variant, batch in (
        ("plain float32", 1), ("plain float32, freed memory kept", 1), *((precision, batch) for precision in ("float32", *bfloat16) for batch in (1, 2)))]
    network.main(network.arguments().parse_args([*flags, "--what", "step"]))
    steps = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["variant"] for row in steps if row["what"] == "step"][-1] == f"{(['float32'] + bfloat16)[-1]}, checkpointing"
    assert forwards[0]["times plain"] == steps[0]["times plain"] == 1 and all(row["s per clip"] > 0 and row["GFLOP/s"] > 0 for row in forwards + steps)


def test_the_plain_formulation_is_the_network(made):
    clip = network.make_clip(1, (64, 96), CPU)
    with torch.no_grad():
        assert (plain.forward(made.state_dict(), clip) - made(clip)).abs().max() < 1e-5


def test_the_evaluations_benchmark_times_every_stage(tmp_path, capsys, made_once):
    flags = f"--frames 3 --frame-size 32 32 --repeats 1 --device cpu --out {tmp_path / 'a.json'}".split()
    evaluation.main(evaluation.arguments().parse_args(flags))
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == ["decode and resize", "forward", "post", "measures", "write", "all but forward",
                                         "the same without measures", "end to end"]
    assert all(row["ours, ms a frame"] > 0 for row in rows) and "| end to end |" in capsys.readouterr().out


def test_peak_memory_is_what_a_call_needs():
    allocate = functools.partial(functools.partial, torch.ones, 64 * 2 ** 18)  # of no module that the other process would have to import
    megabytes = timing.peak_memory(allocate, CPU)
    assert megabytes is None or 60 < megabytes < 80


def test_the_benchmark_of_clips_compares_decoding_with_prepared_frames(tmp_path, capsys):
    flags = f"--videos 1 --frames 32 --frame-size 32 64 --epochs 1 --folder {tmp_path} --out {tmp_path / 'a.json'}".split()
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


def test_recsal_lite_is_measured_beside_a_plain_formulation_that_gives_the_same_maps(tmp_path, capsys, monkeypatch):
    model = RecSalLite(frame_size=(32, 64), width=8).eval()
    clip = torch.randint(0, 256, (1, 3, 2, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    state = model.maps(model.normalise(clip))[1]
    slow = lite.plain(model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in slow.modules()) == 1 + 2 + 14 * 3 and not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(lite.one_frame(slow, clip, state), lite.one_frame(model, clip, state), atol=1e-3, rtol=0)
    save_safetensors(model.state_dict(), model.config, tmp_path / "a.safetensors")
    monkeypatch.setattr(lite, "CLIP", write_video(tmp_path / "a.mp4", grey_frames(4)))
    lite.main(lite.arguments().parse_args(f"--weights {tmp_path / 'a.safetensors'} --frames 2 --repeats 1 --device cpu --out {tmp_path / 'a.json'}".split()))
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["forward, 32 x 64", "forward, 192 x 256", "predict.py, to an overlay", "test.py, six measures"]
    assert all(row["frames/s"] > 0 for row in rows) and "| predict.py, to an overlay |" in capsys.readouterr().out


# What needs a GPU

@pytest.mark.parametrize("name", [name for name in gpu_stages.STAGES if name != "checks"])
def test_every_stage_of_what_needs_a_gpu_runs_on_a_cpu(name, tmp_path, monkeypatch, made_once):
    rows, compiled = [], []
    make_small(monkeypatch)
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: compiled.append(options))  # test_engine.py and test_train.py trace the network
    gpu_stages.STAGES[name](CPU, True, tmp_path / f"{name}.json", rows.append)
    assert rows and gpu.report([{"stage": name, "status": "done", "seconds": 1.0, "rows": rows}], "Tiny").startswith("# Tiny")
    if name in ("forward", "step"):
        assert rows[0][name] == "plain float32" and rows[-1][name].endswith("compiled") and all(row["clips/s"] > 0 for row in rows)
        assert compiled == [{"dynamic": False, "backend": "eager"}]
    if name == "profile":
        assert {row["of"].split(",")[0] for row in rows} == {"forward", "step"} and sum("kernel" in row for row in rows) == 50
        assert next(row["ms"] for row in rows if row.get("kind") == "resizing") > 0
    if name == "networks":
        assert len(rows) == 11


def test_the_command_runs_the_checks_and_tells_how_each_ended(tmp_path, capsys):
    flags = f"--out {tmp_path} --device cpu --tiny --stages machine checks".split()
    assert gpu.main(gpu.arguments().parse_args(flags)) == 0, (tmp_path / "gpu.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checks.json", "gpu.md", "machine.json"]
    rows = json.loads((tmp_path / "checks.json").read_text())["rows"]
    assert {row["outcome"] for row in rows} == {"passed", "skipped"} and len(rows) > 30
    text = (tmp_path / "gpu.md").read_text()
    assert "| memory stays flat over a long video | passed |" in text and "| revision |" in text
    assert capsys.readouterr().out.count(": done") == 2 and list(gpu.STAGES) == list(gpu_stages.STAGES)


def test_a_stage_that_fails_or_is_stopped_keeps_its_rows_and_does_not_affect_the_others(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "gpu_stages.py").write_text(
        "import json, sys, time\n"
        "json.dump({'rows': [{'a': 1.0, 'b': None}]}, open(sys.argv[3], 'w'))\n"
        "print('as far as here', flush=True)\n"
        "{'machine': lambda: sys.exit(3), 'checks': lambda: time.sleep(60)}.get(sys.argv[1], int)()\n")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "STAGES", {"machine": (1, "One"), "checks": (1, "Two"), "forward": (5, "Three"), "step": (9000, "Four")})
    assert gpu.main(gpu.arguments().parse_args(["--out", str(tmp_path / "out")])) == 1
    stages = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    statuses = {name: stage["status"] for name, stage in stages.items()}
    assert statuses == {"machine": "failed (exit code 3)", "checks": "stopped after 2 s", "forward": "done"}  # it was given what the first left
    assert all(stage["rows"] == [{"a": 1.0, "b": None}] for stage in stages.values()) and stages["checks"]["log"] == ["as far as here"]
    text = (tmp_path / "out" / "gpu.md").read_text()
    assert text.count("| a | b |\n| --- | --- |\n| 1 | - |") == 3 and "`step`: left out, too little time was left" in text


@pytest.mark.parametrize("limit, guess, found", [(7, 7, 7), (7, 3, 7), (7, 12, 7), (0, 0, 0), (0, 4, 0), (1, 0, 1)])
def test_the_largest_batch_is_found_from_any_guess(limit, guess, found):
    assert gpu_stages.largest_batch(lambda batch: batch <= limit, guess) == found


def test_a_card_is_filled_by_two_steps_with_an_empty_cache_and_a_limit_that_is_lifted_again(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(total_memory=80e9))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: calls.append(round(share, 3)))
    assert gpu_stages.fits_card(12, CPU, lambda batch: lambda: calls.append(f"step of {batch}"), 3)
    assert calls == ["empty", 0.141, "step of 3", "step of 3", "empty", 1.0]

    def too_much(batch):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert not gpu_stages.fits_card(12, CPU, too_much, 3) and calls[-2:] == ["empty", 1.0]


def test_batches_for_cards_are_tried_where_this_one_is_as_large_and_else_extrapolated(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(total_memory=24e9))
    monkeypatch.setattr(gpu_stages, "fits_card", lambda card, device, prepare, batch: 2 + 3 * batch <= card)
    measured = {"eager": [{"batch": 1, "peak GB in all": 5.0}, {"batch": 4, "peak GB in all": 14.0}], "checkpointing": [{"batch": 1, "peak GB in all": None}]}
    rows = []
    for card in (12, 24, 80):
        gpu_stages.fit_card(card, measured, dict.fromkeys(measured), "bfloat16", CPU, rows.append)
    assert [(row["batch that fits"], row["found by"]) for row in rows] == [(3, "trying"), (7, "trying"), (25, "extrapolation")]


def test_a_file_in_the_place_of_the_folder_and_no_minutes_are_refused(tmp_path, capsys):
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        gpu.main(gpu.arguments().parse_args(["--out", str(tmp_path / "a")]))
    with pytest.raises(SystemExit):
        gpu.arguments().parse_args(["--out", str(tmp_path), "--minutes", "0"])
    assert "must be above 0, got 0" in capsys.readouterr().err
