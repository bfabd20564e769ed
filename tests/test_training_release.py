import json

import pytest
import torch
from safetensors import safe_open

from baselines.recsal_lite import RecSalLite
from training import release
from weights import sha256_of


@pytest.fixture
def run_dir(tmp_path):
    """A run folder of train.py, as far as the release reads it."""
    model = RecSalLite(frame_size=(32, 64), width=8, output_share=0.5)
    torch.save(model.state_dict(), tmp_path / "RecSalLite.pth")
    about = {"model": "RecSalLite", "configuration": model.config, "epoch": 3, "data": {"datasets": []}, "recipe": {"seed": 7}, "revision": "abc", "versions": {}}
    (tmp_path / "RecSalLite.json").write_text(json.dumps(about))
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    return tmp_path


def make(run_dir, *flags):
    release.main(release.arguments().parse_args(["--run-dir", str(run_dir), "--out", str(run_dir / "a.safetensors"), *map(str, flags)]))
    with safe_open(run_dir / "a.safetensors", framework="pt") as file:
        return file.metadata()


def write_scores(run_dir):
    scores = {"split": "osie-test", "protocol": "float", "methods": {"lite": {"weights_sha256": sha256_of(run_dir / "a.safetensors")}},
              "scores": {"lite": {"frames": 140, "videos": 140, "frame_average": {"cc": 0.5}, "left_out": {}}}}
    (run_dir / "scores.json").write_text(json.dumps(scores))


def test_the_file_is_the_run_in_half_precision_with_its_configuration(run_dir):
    make(run_dir)
    model, before = RecSalLite.from_pretrained(run_dir / "a.safetensors"), torch.load(run_dir / "RecSalLite.pth", weights_only=True)
    assert model.config == {"num_recursions": 1, "frame_size": [32, 64], "width": 8, "output_share": 0.5} and model.is_described
    for name, t in model.state_dict().items():
        assert t.dtype == torch.float32 and torch.equal(t, before[name].half().float())


def test_the_metadata_say_what_the_weights_are(run_dir):
    make(run_dir)
    write_scores(run_dir)
    metadata = make(run_dir, "--scores", run_dir / "scores.json")
    training = json.loads(metadata["training"])
    assert training["log"] == [{"epoch": 1}, {"epoch": 2}] and training["revision"] == "abc" and training["recipe"]["seed"] == 7 and training["recipe"]["gamma"] == RecSalLite.recipe.gamma and training["epoch"] == 3
    assert json.loads(metadata["scores"]) == {"osie-test": {"frames": 140, "frame_average": {"cc": 0.5}, "protocol": "float"}}
    assert "MIT" in metadata["licence"] and "not redistributed" in metadata["licence"]


def test_scores_of_other_weights_or_of_a_split_twice_are_refused(run_dir):
    make(run_dir)
    write_scores(run_dir)
    with pytest.raises(ValueError, match="scores osie-test a second time"):
        make(run_dir, "--scores", run_dir / "scores.json", run_dir / "scores.json")
    (run_dir / "a.safetensors").write_bytes(b"another file")
    with pytest.raises(ValueError, match="has no scores of .*a.safetensors as it is now"):
        make(run_dir, "--scores", run_dir / "scores.json")


def test_what_half_precision_cannot_hold_is_refused(run_dir):
    model = RecSalLite(frame_size=(32, 64), width=8)
    model.readout.bias.data.fill_(1e6)
    torch.save(model.state_dict(), run_dir / "RecSalLite.pth")
    with pytest.raises(ValueError, match="values that half precision cannot"):
        make(run_dir)


def test_a_run_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weight file .*RecSalLite.pth"):
        make(tmp_path)
