import re

import pytest
import torch
from conftest import shallow
from predict_runs import run

from baselines import loading
from baselines.recsal_lite import RecSalLite
from baselines.salema import SalGAN
from prediction import export
from saliency_model import WindowModel, prepare_frame
from weights import save_safetensors

exports = pytest.mark.skipif(torch.__version__ < export.EXPORTABLE, reason="PyTorch is too old to export")


@exports
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_an_exported_network_gives_the_same_map(tmp_path, capsys, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    model = shallow()
    save_safetensors(model.state_dict(), model.config, tmp_path / "a.safetensors")
    run("--export", tmp_path / f"a{suffix}", "--weights", tmp_path / "a.safetensors")
    assert re.search(r"clip \(3, 32, 32, 64\) -> map; differs from PyTorch's output by \S+ at most", capsys.readouterr().out)
    assert (tmp_path / f"a{suffix}").stat().st_size > 10000


@exports
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_an_exported_recurrent_network_gives_the_same_maps_and_states(tmp_path, suffix):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    said = export.export(RecSalLite(frame_size=(32, 64), width=8, output_share=0.5).eval(), tmp_path / f"a{suffix}")
    assert re.search(r"^frame \(3, 32, 64\) and state -> map and state; differs from PyTorch's output by \S+ at most", said)


def test_a_recurrent_network_is_compared_before_the_first_frame_and_after_it():
    model = RecSalLite(frame_size=(32, 64), width=8).eval()
    (frames, zeros), (frame, state) = export.export_examples(model)
    assert frames.shape == (2, 3, 32, 64) and frame.shape == (1, 3, 32, 64) and not any(t.any() for t in zeros) and all(t.any() for t in state)
    assert [t.shape[1:] for t in zeros] == [t.shape[1:] for t in state] and not torch.equal(export.FrameStep(model)(frame, state)[1][0], state[0])


def test_a_network_that_cannot_be_exported_says_so(tmp_path):
    with pytest.raises(ValueError, match="--export to .onnx is for recsalnet, tased_net, recsal_lite: SalGAN cannot be exported"):
        export.export(SalGAN(), tmp_path / "a.onnx")


def test_an_old_pytorch_is_said_to_be_too_old_to_export(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(export, "EXPORTABLE", "99.0")
    with pytest.raises(ValueError, match=r"--export to .pt2 needs PyTorch 99.0 or newer, this is"):
        export.export(tiny_model, tmp_path / "a.pt2")


class HalfOfTheNewest(WindowModel):
    """A network of windows that is traced at once."""

    def forward(self, clip):
        return clip[:, 0, -1] / 2


@exports
def test_a_network_that_exports_wrongly_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "export_pt2", lambda program, examples, path: [[torch.zeros(2, 32, 64)], [torch.zeros(1, 32, 64)]])
    with pytest.raises(ValueError, match="differs from PyTorch's by .*, more than 1e-4"):
        export.export(HalfOfTheNewest((32, 64), prepare_frame), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


def test_exported_safetensors_hold_weights_and_configuration(tmp_path, recsalnet_file, tiny_model):
    run("--export", tmp_path / "a.safetensors", "--weights", recsalnet_file)
    restored = loading.load_model(tmp_path / "a.safetensors", torch.device("cpu"))
    assert restored.config == tiny_model.config and restored.is_described
    assert all(torch.equal(a, b) for a, b in zip(restored.state_dict().values(), tiny_model.state_dict().values()))


def test_another_export_is_refused(tmp_path, tiny_model):
    with pytest.raises(ValueError, match="must end in .pt2, .onnx or .safetensors"):
        export.export(tiny_model, tmp_path / "a.tflite")
