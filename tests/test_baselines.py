"""What holds for every network of MODELS, and for one that a reader of docs/extending.md adds."""
import json
import re
import types

import numpy as np
import pytest
import torch
from conftest import TESTS, TINY_FLAGS, make_small
from PIL import Image

import predict
import test as evaluation
import train
from baselines import MODELS, loading
from saliency_model import SaliencyModel

SMALL = {"recsalnet": {"frame_size": (32, 64), "width": 16, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}, "tased_net": {"frame_size": (32, 32)}, "recsal_lite": {"frame_size": (32, 64), "width": 8},
         "smcf": {"frame_size": (32, 64), "trunk_width": 8, "trunk_blocks": (1, 1, 1, 1)}}


@pytest.fixture(scope="module", params=list(MODELS))
def weights(request, tmp_path_factory):
    """The key of a network, and a file of its weights, made small where it can be."""
    path = tmp_path_factory.mktemp("weights") / "a.pth"
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        torch.manual_seed(0)
        model = MODELS[request.param](**SMALL.get(request.param, {"frame_size": (32, 48)}))
        torch.save(model.state_dict(), path)
        path.with_suffix(".json").write_text(json.dumps({"configuration": model.config}))
        yield request.param, path


def frames(count, size=(45, 80)):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), np.uint8) for _ in range(count)]


def test_every_network_gives_a_map_for_every_frame_at_its_size(weights):
    name, path = weights
    maps = list(predict.Predictor(path, "cpu", model=name).predict_frames(frames(3)))
    assert [m.shape for m in maps] == [(45, 80)] * 3
    assert all(np.isfinite(m).all() and 0 <= m.min() and m.max() <= 1 for m in maps)


def test_every_networks_maps_become_eight_bits(weights):
    name, path = weights
    model = loading.load_model(path, torch.device("cpu"), name=name)
    grey = model.quantise(torch.tensor([[0.0, 0.25], [0.5, 1.0]]))
    assert grey.dtype == torch.uint8 and grey[0, 0] == 0 and grey[1, 1] == 255


def test_every_network_is_built_again_from_its_configuration(weights):
    name, path = weights
    model = MODELS[name].from_pretrained(path)
    assert isinstance(model, SaliencyModel) and model.is_described and not model.training
    again = MODELS[name](**model.config)
    assert again.config == model.config and again.state_dict().keys() == model.state_dict().keys()


def test_another_networks_file_is_refused(weights):
    name, path = weights
    for other in set(MODELS) - {name}:
        with pytest.raises(ValueError, match=f"{path.name} does not hold {MODELS[other].__name__}|has no alpha|does not fit (SalGAN|SSNet|TSNet)"):
            MODELS[other].from_pretrained(path)


def test_maps_at_the_networks_size_are_written_without_resizing(weights, tmp_path, capsys):
    name, path = weights
    folder = tmp_path / "video"
    folder.mkdir()
    for number, frame in enumerate(frames(2)):
        Image.fromarray(frame).save(folder / f"{number + 1:04d}.png")
    predict.main(predict.arguments().parse_args([str(folder), "--model", name, "--weights", str(path), "--no-resize", "--out", str(tmp_path / "out"), "--device", "cpu"]))
    size = list(MODELS[name].from_pretrained(path).map_size)
    assert all(np.array(Image.open(tmp_path / "out" / "video" / f"000{n}.png")).shape == tuple(size) for n in (1, 2))
    assert ("fewer frames than 62" in capsys.readouterr().out) == (name == "tased_net")


# A reader's own network

@pytest.fixture
def contrast(monkeypatch):
    """The network of docs/extending.md, added as it says."""
    code, = re.findall(r"```python\n(import torch\nfrom torch import Tensor, nn.*?class Contrast.*?)```", (TESTS.parent / "docs" / "extending.md").read_text(), re.DOTALL)
    module = types.ModuleType("contrast")
    exec(code, module.__dict__)
    monkeypatch.setitem(MODELS, "contrast", module.Contrast)
    return code


def test_the_documented_network_has_about_thirty_lines(contrast):
    assert len(contrast.splitlines()) <= 35


def test_the_documented_network_trains_resumes_predicts_and_is_scored(only_scores, contrast, short_set, tmp_path):
    flags = ["--model", "contrast", "--data", str(short_set), "--run-dir", str(tmp_path), "--workers", "0", "--device", "cpu", "--no-tensorboard"]
    assert train.main(train.arguments().parse_args([*flags, "--epochs", "1"])) == 0
    assert train.main(train.arguments().parse_args([*flags, "--resume"])) == 0
    assert [json.loads(line)["epoch"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2]
    evaluation.main(evaluation.arguments().parse_args(["--model", "contrast", "--weights", str(tmp_path / "Contrast.pth"), "--data", str(short_set), "--out", str(tmp_path), "--device", "cpu"]))
    scores = json.loads((tmp_path / "tiny_val_Contrast_float" / "scores.json").read_text())
    assert scores["scores"]["Contrast"]["frames"] == 16 and scores["methods"]["Contrast"]["parameters"] == 3 * 8 * 100 + 8 + 8 + 1
    images = next((short_set / "val").iterdir()) / "images"
    predict.main(predict.arguments().parse_args([str(images), "--model", "contrast", "--weights", str(tmp_path / "Contrast.pth"), "--out", str(tmp_path / "maps"), "--device", "cpu"]))
    assert len(list((tmp_path / "maps" / "images").iterdir())) == len(list(images.iterdir()))
    with pytest.raises(ValueError, match="--alpha is an argument of salema, not of contrast"):
        train.main(train.arguments().parse_args([*flags, "--alpha", "0.1", "--overwrite"]))


def test_a_network_that_forgets_an_argument_is_told_before_it_trains(contrast, tiny_set, tmp_path, monkeypatch):
    class Forgetful(MODELS["contrast"]):
        def __init__(self, frame_size=(36, 64), width=8, residual=False):
            super().__init__(frame_size, width)
    monkeypatch.setitem(MODELS, "contrast", Forgetful)
    with pytest.raises(ValueError, match="Forgetful must pass its arguments residual to super"):
        train.main(train.arguments().parse_args([*TINY_FLAGS[-5:], "--model", "contrast", "--data", str(tiny_set), "--run-dir", str(tmp_path)]))


def test_a_network_that_starts_from_nothing_says_so(contrast, tiny_set, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="Contrast starts from nothing pretrained"):
        train.main(train.arguments().parse_args([*TINY_FLAGS[-5:], "--model", "contrast", "--data", str(tiny_set), "--run-dir", str(tmp_path / "run"), "--encoder-weights", str(tmp_path / "a.pth")]))
