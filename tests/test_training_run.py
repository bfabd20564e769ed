import json
import math
import sys

import pytest
import torch
from runs import log_of, run, same, weights_of

import training.run
from model import RecSalNet
from training.run import trim_log


def test_existing_weights_are_not_replaced_unasked(tiny_set, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "RecSalNet.pth").write_bytes(b"the authors' weights")
    with pytest.raises(FileExistsError, match=r"RecSalNet.pth would be replaced: .*--resume.*--overwrite"):
        run(tiny_set, run_dir)
    assert (run_dir / "RecSalNet.pth").read_bytes() == b"the authors' weights"
    run(tiny_set, run_dir, "--overwrite", "--epochs", "1")
    RecSalNet.from_pretrained(run_dir / "RecSalNet.pth")


def test_overwrite_starts_with_an_empty_log(tiny_set, once):
    run(tiny_set, once, "--epochs", "1", "--val-every", "0", "--overwrite")
    assert [line["epoch"] for line in log_of(once)] == [1]


def test_overwrite_that_cannot_start_leaves_the_old_run_as_it_was(tiny_set, tmp_path, once):
    with pytest.raises(FileNotFoundError):
        run(tiny_set, once, "--overwrite", "--encoder-weights", str(tmp_path / "absent.pth"))
    assert run(tiny_set, once, "--epochs", "2", "--val-every", "0", "--resume") == 0


def test_a_run_writes_best_weights_their_description_and_a_log(finished):
    assert {"RecSalNet.pth", "RecSalNet.json", "last.pt", "log.jsonl"} <= {p.name for p in finished.iterdir()}
    assert not list(finished.glob(".*part"))
    model = RecSalNet.from_pretrained(finished / "RecSalNet.pth")
    described = json.loads((finished / "RecSalNet.json").read_text())
    assert described["configuration"] == json.loads(json.dumps(model.config))
    assert {"validation", "protocol", "recipe", "revision", "versions", "epoch"} <= described.keys()
    assert all(name.startswith(("backbone.", "conv", "aspp", "fusion")) for name in torch.load(finished / "RecSalNet.pth", weights_only=True))


def test_every_epoch_is_logged_with_every_term_and_validated_when_due_and_at_the_end(finished):
    log = log_of(finished)
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert ["val_cc" in line for line in log] == [False, True, True]
    for line in log:
        assert all(math.isfinite(line[name]) for name in ("loss", "kl", "cc", "nss", "sim", "l1", "seconds", "clips_per_second"))
        assert line["clips_per_second"] > 0 and 0 <= line["data_wait"] <= 1
        assert line["nss_left_out"] in (0, 1, 2, 3)


def test_the_kept_weights_are_those_of_the_best_validation(finished):
    described, log = json.loads((finished / "RecSalNet.json").read_text()), log_of(finished)
    best = max((line for line in log if "val_cc" in line), key=lambda line: line["val_cc"])
    assert described["epoch"] == best["epoch"] and described["validation"]["cc"] == best["val_cc"]


def test_without_validation_the_last_weights_are_kept(trained_once):
    assert same(torch.load(trained_once / "RecSalNet.pth", weights_only=True), weights_of(trained_once))
    assert json.loads((trained_once / "RecSalNet.json").read_text())["validation"] is None


def test_tensorboard_curves_are_written_where_it_is_installed(tiny_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)     # as if it were not installed
    run(tiny_set, tmp_path / "without", "--epochs", "1", "--tensorboard")
    assert "no TensorBoard curves" in capsys.readouterr().out
    monkeypatch.undo()
    pytest.importorskip("tensorboard")                                     # `make test` installs it
    run(tiny_set, tmp_path / "with", "--epochs", "1", "--tensorboard")
    assert list((tmp_path / "with" / "tensorboard").iterdir())


def test_a_full_disk_stops_a_run_with_the_files_name_and_keeps_what_was_there(tiny_set, once):
    resource = pytest.importorskip("resource")
    before, limits = weights_of(once), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))        # no file may be larger than this: writing ends half way
    try:
        with pytest.raises(OSError, match=r"could not be written .*what was there before is kept.*RecSalNet.pth"):
            run(tiny_set, once, "--epochs", "2", "--val-every", "0", "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(weights_of(once), before) and not list(once.glob(".*.part"))
    run(tiny_set, once, "--epochs", "2", "--val-every", "0", "--resume")


def test_a_run_folder_that_cannot_be_written_is_said_before_training(tiny_set, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/run"):
        run(tiny_set, tmp_path / "file" / "run")


def test_a_log_line_cut_off_or_ahead_of_the_checkpoint_is_removed_on_resuming(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n{"epo')
    trim_log(tmp_path / "log.jsonl", 2)
    assert [line["epoch"] for line in log_of(tmp_path)] == [1, 2]


def test_the_run_folder_says_what_made_it(finished):
    recorded = json.loads((finished / "run.json").read_text())
    launch, = recorded["launches"]
    assert {"command", "revision", "versions", "hardware", "date"} <= launch.keys() and launch["hardware"]["processes"] == 1 and launch["epoch"] == 0
    assert recorded["recipe"]["seed"] == 0 and recorded["recipe"]["train"].startswith("3 videos") and "crc" in recorded["recipe"]["train"]


@pytest.mark.parametrize("content", ["{", '{"launches": 5}', '{"launches": []}', "[]"])
def test_a_damaged_record_of_launches_does_not_stop_a_run(tiny_set, once, content):
    (once / "run.json").write_text(content)
    run(tiny_set, once, "--epochs", "2", "--val-every", "0", "--resume")
    assert len(json.loads((once / "run.json").read_text())["launches"]) == 1


def test_a_damaged_log_is_said_with_its_name(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epo\n')
    with pytest.raises(ValueError, match="log.jsonl is damaged, move it away"):
        trim_log(tmp_path / "log.jsonl", 1)


def test_a_run_that_another_launch_began_is_neither_resumed_nor_replaced_by_a_restart(tiny_set, once, monkeypatch):
    """Only what this very torchrun began is; a refused launch stays refused when torchrun tries again."""
    before = (once / "RecSalNet.pth").read_bytes()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    ours = training.run.launcher()
    monkeypatch.setattr(training.run, "launcher", lambda: "another")
    for _ in range(2):
        with pytest.raises(FileExistsError, match="would be replaced"):
            run(tiny_set, once, "--epochs", "2", "--val-every", "0")
    assert (once / "RecSalNet.pth").read_bytes() == before
    monkeypatch.setattr(training.run, "launcher", lambda: ours)
    run(tiny_set, once, "--epochs", "2", "--val-every", "0")           # the same one goes on by itself
    assert [line["epoch"] for line in log_of(once)] == [1, 2]
