import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import TESTS
from runs import StopAfter, flags_for, log_of, run, same, start, train_model, train_smcf, wait_for, weights_of

import train
from training.progress import Progress


def test_a_file_that_is_no_state_of_a_run_is_said(tiny_set, tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt is not a last.pt of train.py: .*got a dict with 1 entries"):
        run(tiny_set, tmp_path, "--resume")


def test_nothing_to_resume_is_said(tiny_set, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        run(tiny_set, tmp_path / "run", "--resume")


@pytest.mark.parametrize("at", [2, 3, 7])
def test_a_stopped_run_resumes_to_bit_identical_weights(tiny_set, tmp_path, finished, monkeypatch, at):
    flags = ("--epochs", "3", "--val-every", "2")
    StopAfter.step, StopAfter.at = 0, at
    with monkeypatch.context() as patch:
        patch.setattr(train, "StopRequest", StopAfter)
        assert run(tiny_set, tmp_path, *flags) == train.STOPPED
    torch.manual_seed(99)                                                  # another process has other random numbers
    assert run(tiny_set, tmp_path, *flags, "--resume") == 0
    assert same(weights_of(tmp_path), weights_of(finished))
    assert same(torch.load(tmp_path / "RecSalNet.pth", weights_only=True), torch.load(finished / "RecSalNet.pth", weights_only=True))
    without_time = [{name: value for name, value in line.items() if name not in ("time", "seconds", "clips_per_second", "data_wait")} for line in log_of(tmp_path)]
    assert without_time == [{name: value for name, value in line.items() if name not in ("time", "seconds", "clips_per_second", "data_wait")} for line in log_of(finished)]


def test_more_epochs_can_be_added_to_a_finished_run(tiny_set, tmp_path, finished):
    run(tiny_set, tmp_path, "--epochs", "1", "--val-every", "2")
    run(tiny_set, tmp_path, "--epochs", "3", "--val-every", "2", "--resume")
    assert same(weights_of(tmp_path), weights_of(finished))


@pytest.mark.parametrize("flags, said", [(("--lr", "0.5"), "lr was 0.001, is 0.5"), (("--width", "24"), r"exactly, but width was 16, is 24\. Give the same options")])
def test_resuming_with_other_options_is_refused_by_name(tiny_set, finished, flags, said):
    with pytest.raises(ValueError, match=said):
        run(tiny_set, finished, "--val-every", "2", "--resume", *flags)


def test_resuming_on_another_set_is_refused(tiny_set, tmp_path):
    shutil.copytree(tiny_set, tmp_path / "set")
    run(tmp_path / "set", tmp_path / "run", "--epochs", "1")
    shutil.rmtree(tmp_path / "set" / "train" / "002")
    with pytest.raises(ValueError, match="train was 3 videos.*is 2 videos"):
        run(tmp_path / "set", tmp_path / "run", "--resume")


def test_ctrl_c_leaves_a_resumable_state_and_exit_code_130(tiny_set, tmp_path, capsys):
    command = [sys.executable, TESTS.parent / "train.py", *flags_for(tiny_set, tmp_path, "--epochs", "1000", "--val-every", "1000", "--workers", "1")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    waited = time.time() + 120
    while not (tmp_path / "log.jsonl").exists() and time.time() < waited and process.poll() is None:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)                                  # a terminal sends it to the workers as well
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "--resume continues" in output and "Traceback" not in output
    stored = torch.load(tmp_path / "last.pt", weights_only=True)
    epochs = len(log_of(tmp_path))
    assert stored["epoch"] == epochs
    assert run(tiny_set, tmp_path, "--epochs", str(epochs + 1), "--val-every", "1000", "--workers", "1", "--resume") == 0
    assert f"finished {epochs + 1} epochs" in capsys.readouterr().out


KILLED_WHILE_WRITING = """
import os, runpy, signal, sys
replace, written = os.replace, []
def replace_or_die(source, target):
    written.append(os.path.basename(target))
    if written.count("last.pt") == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace, sys.argv = replace_or_die, sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_sigterm_as_schedulers_send_it_leaves_a_resumable_state_and_exit_code_143(tiny_set, tmp_path):
    process = start(tiny_set, tmp_path, "--epochs", "1000", "--val-every", "1000")
    wait_for(process, (tmp_path / "log.jsonl").exists)
    for _ in range(2):                                                     # to every process of the job, and again through its launcher
        os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == train.TERMINATED == 143 and "--resume continues" in output and "Traceback" not in output, output
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == len(log_of(tmp_path))


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_validation_is_interrupted_at_once_and_done_again_on_resuming(tiny_set, tmp_path, finished, monkeypatch, number, code):
    validate = train.validate
    monkeypatch.setattr(train, "validate", lambda *arguments: (signal.raise_signal(number), validate(*arguments))[1])
    assert run(tiny_set, tmp_path, "--epochs", "3", "--val-every", "2") == code
    assert [line["epoch"] for line in log_of(tmp_path)] == [1] and not (tmp_path / "RecSalNet.pth").exists()
    monkeypatch.undo()
    assert run(tiny_set, tmp_path, "--epochs", "3", "--val-every", "2", "--resume") == 0
    assert same(weights_of(tmp_path), weights_of(finished)) and [line["epoch"] for line in log_of(tmp_path)] == [1, 2, 3]


def test_a_state_of_a_run_with_a_network_that_its_weights_do_not_fit_is_refused(tiny_set, once):
    stored = torch.load(once / "last.pt", weights_only=True)
    torch.save({**stored, "configuration": {**stored["configuration"], "width": 8 * 10 ** 6}}, once / "last.pt")
    flags = ["--data", str(tiny_set), "--run-dir", str(once), "--device", "cpu", "--resume"]
    with pytest.raises(ValueError, match="last.pt do not fit RecSalNet: .*of another shape"):
        train.main(train.arguments().parse_args(flags))


@pytest.mark.parametrize("changed, said", [
    ({"optimizer": {}}, "optimiser's state in .*last.pt cannot be read"), ({"random": []}, "holds 0 random states of 1 processes"), ({"random": "a"}, "last.pt, random is damaged: expected a dict"),
    ({"configuration": [1]}, "configuration is not what"), ({"progress": "x"}, "progress is not what"), ({"progress": {"batches": 1}}, "last.pt, progress is damaged: expected a dict .*'batches': 1"),
    ({"progress": {**Progress(2).record(), "clips": [3]}}, "progress, clips is damaged: expected a int"), ({"recipe": {"lr": torch.zeros(3)}}, "recipe is not what"),
    ({"random": [{"cpu": torch.zeros(5), "cuda": []}]}, "random, cpu is damaged: expected a Tensor"), ({"amsgrad": True}, "not this run's: amsgrad of a group"),
    ({"exp_avg": torch.tensor(0.), "exp_avg_sq": torch.tensor(0.)}, "does not fit the network: 2 entries"), ({"best_cc": math.nan}, "best_cc cannot be nan"), ({"epoch": -5}, "epoch cannot be -5"),
    ({"exp_avg": torch.zeros(1).expand(5000), "step": torch.zeros(())}, "exp_avg claims more values than the file holds"), ({"step": torch.zeros(2)}, "does not fit the network: 1 entries, the first step"),
    ({"progress": {**Progress(2).record(), "batches": -1}}, "batches cannot be -1"),
    ({"betas": torch.zeros(2)}, "has no 1 groups"), ({"depths": 3}, "depths of the configuration"), ({"moments": torch.zeros(2)}, "optimiser's state in"),
    ({"recipe": None}, "recipe is not what"), ({"epoch": "3"}, "epoch is not what"),
    ({"depths": [10 ** 7, 1, 1, 1]}, "depths of the configuration"), ({"exp_avg": torch.zeros(3)}, "optimiser's state in .*last.pt does not fit the network: 1 entries, the first exp_avg"),
])
def test_a_damaged_state_of_a_run_is_refused(tiny_set, once, changed, said):
    stored = torch.load(once / "last.pt", weights_only=True)
    if "depths" in changed:
        changed = {"configuration": {**stored["configuration"], **changed}}
    if "moments" in changed:
        stored["optimizer"]["state"][0] = changed.pop("moments")
    for part, names in ((stored["optimizer"]["state"][0], {"exp_avg", "step"}), (stored["optimizer"]["param_groups"][0], {"amsgrad", "betas"})):
        if names & changed.keys():
            part.update(changed)
            changed = {}
    torch.save({**stored, **changed}, once / "last.pt")
    flags = ["--data", str(tiny_set), "--run-dir", str(once), "--workers", "0", "--device", "cpu", "--no-tensorboard", "--lr", "1e-3", "--epochs", "2", "--val-every", "0", "--resume"]
    with pytest.raises(ValueError, match=said):
        train.main(train.arguments().parse_args(flags))


def test_a_state_that_the_version_before_several_processes_wrote_resumes_with_one(tiny_set, tmp_path, finished):
    run(tiny_set, tmp_path, "--epochs", "1", "--val-every", "2")
    stored = torch.load(tmp_path / "last.pt", weights_only=True)
    older = {name: value for name, value in stored["recipe"].items() if name not in ("processes", "deterministic")}
    torch.save({**stored, "random": stored["random"][0], "recipe": older}, tmp_path / "last.pt")
    run(tiny_set, tmp_path, "--epochs", "3", "--val-every", "2", "--resume")
    assert same(weights_of(tmp_path), weights_of(finished))


def test_a_run_stopped_in_the_middle_of_a_video_goes_on_bit_for_bit(tiny_set, tmp_path, small_salgan, monkeypatch):
    flags = ("--epochs", "2", "--val-every", "0", "--flip", "--residual", "--dropout")
    train_model("salema", tiny_set, tmp_path / "straight", *flags)
    set_rates, made = train.set_rates, []
    monkeypatch.setattr(train, "set_rates", lambda *arguments: (made.append(1), len(made) == 3 and signal.raise_signal(signal.SIGTERM), set_rates(*arguments))[-1])
    assert train_model("salema", tiny_set, tmp_path / "cut", *flags) == train.TERMINATED
    stored = torch.load(tmp_path / "cut" / "last.pt", weights_only=True)
    assert stored["progress"]["batches"] == stored["progress"]["steps"] == 3 and stored["carried"][0]["state"] is not None
    monkeypatch.setattr(train, "set_rates", set_rates)
    train_model("salema", tiny_set, tmp_path / "cut", *flags, "--resume")
    assert same(weights_of(tmp_path / "cut"), weights_of(tmp_path / "straight"))


def test_a_state_of_another_network_is_not_gone_on_with(tiny_set, tmp_path, small_salgan):
    train_model("salgan", tiny_set, tmp_path, "--val-every", "0")
    with pytest.raises(ValueError, match="model was SalGAN, is SalEMA"):
        train_model("salema", tiny_set, tmp_path, "--val-every", "0", "--alpha", "0.1", "--resume")


@pytest.mark.parametrize("name, state", [("salema", torch.zeros(1, 8, 1, 2)), ("salclstm30", (torch.zeros(1, 8, 2, 1), torch.zeros(1, 8, 2, 2))), ("salclstm30", torch.zeros(1, 8, 2, 2)),
                                         ("salgan", torch.zeros(1, 8, 2, 2))])
def test_a_carried_state_of_other_shapes_than_the_networks_is_refused(name, state, tiny_set, tmp_path, small_salgan, monkeypatch):
    set_rates, made = train.set_rates, []
    with monkeypatch.context() as patch:
        patch.setattr(train, "set_rates", lambda *arguments: (made.append(1), len(made) == 2 and signal.raise_signal(signal.SIGTERM), set_rates(*arguments))[-1])
        assert train_model(name, tiny_set, tmp_path, "--val-every", "0") == train.TERMINATED
    stored = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**stored, "carried": [{**stored["carried"][0], "state": state}]}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt is damaged: it carries a state of shapes \(.*from clip to clip, Sal\w+ one of"):
        train_model(name, tiny_set, tmp_path, "--val-every", "0", "--resume")


def test_a_carried_state_that_is_damaged_is_refused(tiny_set, tmp_path, small_salgan):
    train_model("salema", tiny_set, tmp_path, "--val-every", "0")
    stored = torch.load(tmp_path / "last.pt", weights_only=True)
    for carried, said in (([], "0 carried states of 1 processes"), ([{"video": "a", "next": 0, "state": None}], "carried, video is damaged"), ([3], "carried is damaged"),
                          ([{"video": 0, "next": 0, "state": (3,)}], "state does not consist")):
        torch.save({**stored, "carried": carried}, tmp_path / "last.pt")
        with pytest.raises(ValueError, match=said):
            train_model("salema", tiny_set, tmp_path, "--val-every", "0", "--resume")


def test_smcf_is_validated_on_groups_by_cc_and_mae_and_goes_on_to_the_same_weights(short_vsod_set, tmp_path, monkeypatch):
    flags = ("--encoder-weights", "none", "--val-every", "1", "--val-split", "TestSet/sample", "--epochs", "2", "--scales", "1")
    assert train_smcf(short_vsod_set, tmp_path / "whole", *flags) == 0
    real, steps = train.set_rates, []

    def stop_after_three(*arguments):
        steps.append(1)
        if len(steps) == 3:                                                # in the middle of the second epoch, of two steps each
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments)
    monkeypatch.setattr(train, "set_rates", stop_after_three)
    assert train_smcf(short_vsod_set, tmp_path / "cut", *flags) == 130
    monkeypatch.setattr(train, "set_rates", real)
    assert train_smcf(short_vsod_set, tmp_path / "cut", *flags, "--resume") == 0
    whole, cut = (torch.load(tmp_path / name / "SMCF.pth", weights_only=True) for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert {"val_cc", "val_mae"} < log_of(tmp_path / "whole")[0].keys() and "val_nss" not in log_of(tmp_path / "whole")[0]


def test_a_run_killed_while_it_writes_ends_as_if_nothing_had_happened(tiny_set, tmp_path):
    """When its second last.pt is written, and not yet renamed; tests/long/kill.py kills at every other moment."""
    epochs = ("--epochs", "3", "--val-every", "1")
    run(tiny_set, tmp_path / "straight", *epochs)
    killed = tmp_path / "killed"
    writing = lambda: list(killed.glob(".*.part"))
    flags = flags_for(tiny_set, killed, "--workers", "1", *epochs)
    ended = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, TESTS.parent / "train.py", *flags], capture_output=True,
                           env={**os.environ, "PYTHONPATH": str(TESTS.parent)})
    assert ended.returncode == -signal.SIGKILL and writing(), ended.stderr
    for name in ("last.pt", "RecSalNet.pth"):
        torch.load(killed / name, weights_only=True)
    json.loads((killed / "RecSalNet.json").read_text())
    run(tiny_set, killed, *epochs, "--resume")
    assert same(weights_of(killed), weights_of(tmp_path / "straight"))
    assert same(*(torch.load(folder / "RecSalNet.pth", weights_only=True) for folder in (killed, tmp_path / "straight")))
    assert [line["epoch"] for line in log_of(killed)] == list(range(1, 4)) and not writing()
    assert len(json.loads((killed / "run.json").read_text())["launches"]) == 2
