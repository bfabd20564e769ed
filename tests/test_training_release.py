import json

import pytest
import torch
from safetensors import safe_open

from baselines.recsal_lite import RecSalLite
from training import release


@pytest.fixture
def run_dir(tmp_path):
    """A run folder of train.py, as far as the release reads it."""
    model = RecSalLite(frame_size=(32, 64), width=8, output_share=0.5)
    torch.save(model.state_dict(), tmp_path / "RecSalLite.pth")
    about = {"model": "RecSalLite", "configuration": model.config, "epoch": 3, "data": {"datasets": []}, "recipe": {"seed": 7}, "revision": "abc", "versions": {}}
    (tmp_path / "RecSalLite.json").write_text(json.dumps(about))
    return tmp_path


def make(run_dir, *flags):
    release.main(release.arguments().parse_args(["--run-dir", str(run_dir), "--out", str(run_dir / "a.safetensors"), *map(str, flags)]))
    with safe_open(run_dir / "a.safetensors", framework="pt") as file:
        return file.metadata()


def test_the_file_is_the_run_in_half_precision_with_its_configuration(run_dir):
    make(run_dir)
    model, before = RecSalLite.from_pretrained(run_dir / "a.safetensors"), torch.load(run_dir / "RecSalLite.pth", weights_only=True)
    assert model.config == {"num_recursions": 1, "frame_size": [32, 64], "width": 8, "output_share": 0.5} and model.is_described
    for name, t in model.state_dict().items():
        assert t.dtype == torch.float32 and torch.equal(t, before[name].half().float())


def test_the_metadata_say_what_the_weights_are(run_dir):
    scores = {"split": "osie-test", "protocol": "float", "scores": {"RecSalLite": {"frames": 140, "videos": 140, "frame_average": {"cc": 0.5}, "left_out": {}}}}
    (run_dir / "scores.json").write_text(json.dumps(scores))
    metadata = make(run_dir, "--scores", run_dir / "scores.json")
    training = json.loads(metadata["training"])
    assert training["revision"] == "abc" and training["recipe"] == {"seed": 7} and training["epoch"] == 3
    assert json.loads(metadata["scores"]) == {"osie-test": {"frames": 140, "frame_average": {"cc": 0.5}, "protocol": "float"}}
    assert "MIT" in metadata["licence"] and "not redistributed" in metadata["licence"]


def test_a_run_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weight file .*RecSalLite.pth"):
        make(tmp_path)
