import argparse
import hashlib
import io
import pickle
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel

import saliency_model
from baselines.stsnet import STSConvNet
from saliency_model import SaliencyModel
from weights import local_file, read_weights, sha256_of

# Files on the web

@pytest.fixture
def web(tmp_path, monkeypatch):
    """What any https address gives, and the addresses that were asked for; the cache is the test's own."""
    (tmp_path / "served").write_bytes(b"weights")
    fetched, open_url = [], urllib.request.urlopen
    monkeypatch.setattr(urllib.request, "urlopen", lambda url: (fetched.append(url), open_url((tmp_path / "served").as_uri()))[1])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    return fetched


def test_a_path_is_a_local_file_as_it_is():
    assert local_file("a/b.pth") == local_file(Path("a/b.pth")) == Path("a/b.pth")


def test_a_file_on_the_web_is_downloaded_once_and_checked(web, tmp_path):
    right = hashlib.sha256(b"weights").hexdigest()
    path = local_file(f"https://host/a.pth#sha256={right}")
    assert path.read_bytes() == b"weights" and path.name.endswith("-a.pth") and local_file("https://host/a.pth?download=1") != path
    assert local_file("https://host/a.pth") == path and web == ["https://host/a.pth", "https://host/a.pth?download=1"]
    with pytest.raises(ValueError, match=f"https://host/a.pth has sha256 {right}, expected {'0' * 64}"):
        local_file(f"https://host/a.pth#sha256={'0' * 64}")


def test_a_download_that_is_another_file_or_cut_off_is_not_kept(web, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="https://host/b.pth has sha256"):
        local_file(f"https://host/b.pth#sha256={'0' * 64}")
    cut = io.BytesIO(b"weig")
    cut.headers = {"Content-Length": "7"}
    monkeypatch.setattr(urllib.request, "urlopen", lambda url: cut)
    with pytest.raises(OSError, match="could not download https://host/c.pth: it was cut off after 4 of 7 bytes"):
        local_file("https://host/c.pth")
    assert list((tmp_path / "cache" / "checkpoints").iterdir()) == []


def test_a_download_that_fails_leaves_nothing_and_names_the_address(web, tmp_path, monkeypatch):
    def offline(url):
        raise OSError("no route to host")
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(OSError, match="could not download https://host/a.pth: no route to host"):
        local_file("https://host/a.pth")
    assert list((tmp_path / "cache" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("url", ["http://host/a.pth", "ftp://host/a.pth", "https://host/a.pth#sha256=12"])
def test_another_kind_of_address_is_refused(url):
    with pytest.raises(ValueError, match="expected https://HOST/NAME"):
        local_file(url)


# Wrappings

ENTRIES = {"conv.weight": torch.ones(2), "conv.bias": torch.zeros(1)}


def stored(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    return tmp_path / "a.pth"


def named(prefix):
    return {prefix + name: t for name, t in ENTRIES.items()}


@pytest.mark.parametrize("content", [
    named("module."), named("_orig_mod."), named("model."), named("net."),
    named("module._orig_mod."), named("_orig_mod.module."), named("model.net.module._orig_mod.model."),
    {"n_averaged": torch.tensor(3), **named("module.")},
    {"n_averaged": torch.tensor(3), **named("module._orig_mod.")},
    {"_orig_mod.n_averaged": torch.tensor(3), **named("_orig_mod.module.")},
    {"state_dict": ENTRIES}, {"model_state_dict": ENTRIES}, {"model": ENTRIES}, {"net": ENTRIES, "epoch": 3}, {"model_state": ENTRIES},
    {"ema": {"n_averaged": torch.tensor(3), **named("module.")}}, {"whatever its name": ENTRIES}, {"model": {"state_dict": ENTRIES}},
    {"state_dict": named("model."), "pytorch-lightning_version": "2.0", "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}]},
    {"model": ENTRIES, "optimizer": {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}},
    {"net": ENTRIES, "metrics": {"loss": torch.tensor(0.5)}, "rng": {"cpu": torch.zeros(8, dtype=torch.uint8)}, "empty": {}},
])
def test_the_only_state_dict_is_found_in_whatever_it_is_wrapped(tmp_path, content):
    entries, configuration = read_weights(stored(tmp_path, content))
    assert list(entries) == list(ENTRIES) and all(torch.equal(t, ENTRIES[name]) for name, t in entries.items()) and configuration == {}


@pytest.mark.parametrize("content", [
    {"model.conv.weight": torch.ones(2), "loss.weight": torch.ones(2)},      # not all carry it
    {"n_averaged": torch.tensor(3), "conv.weight": torch.ones(2)},           # no SWA's
    {"modules.conv.weight": torch.ones(2)},
])
def test_a_prefix_that_not_all_names_carry_stays(tmp_path, content):
    assert read_weights(stored(tmp_path, content))[0].keys() == content.keys()


def test_what_carries_no_prefix_beside_the_networks_entries_is_another_modules(tmp_path):
    lightning = {"state_dict": {**named("model."), "loss_fn.weight": torch.ones(3), "metric.total": torch.zeros(1)}}
    assert list(read_weights(stored(tmp_path, lightning), ["conv.weight"])[0]) == list(ENTRIES)
    mixed = {"module._orig_mod.conv.weight": torch.ones(2), "_orig_mod.module.conv.bias": torch.zeros(1)}
    assert list(read_weights(stored(tmp_path, mixed), ["conv.weight"])[0]) == list(ENTRIES)


def test_of_several_state_dicts_the_only_one_that_has_the_networks_names_is_taken(tmp_path):
    path = stored(tmp_path, {"discriminator": {"fc.weight": torch.ones(9)}, "model": named("module."), "norm": {"mean": torch.ones(3)}})
    assert list(read_weights(path, ["conv.weight"])[0]) == list(ENTRIES)
    with pytest.raises(ValueError, match=r"holds 3 state dicts, .*such as .*a.pth#model"):
        read_weights(path)


def test_a_state_dict_may_lie_four_keys_deep_but_an_optimisers_is_none(tmp_path):
    path = stored(tmp_path, {"callbacks": {"ema": {"shadow": {"state_dict": ENTRIES}}}, "optimizer": {"named": {"conv.weight": torch.ones(2)}}})
    assert list(read_weights(path)[0]) == list(ENTRIES)


def test_a_picture_called_weights_is_another_kind_of_file_and_a_pointer_beside_them_is_named(tmp_path):
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.pth", "PNG")
    with pytest.raises(ValueError, match="or is it another kind of file"):
        read_weights(tmp_path / "a.pth")
    stored(tmp_path, ENTRIES)
    (tmp_path / "a.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="a.json should describe the weights beside it: it is a Git LFS pointer"):
        read_weights(tmp_path / "a.pth")


def test_prefixes_are_taken_off_only_until_a_name_is_the_networks_own(tmp_path):
    path = stored(tmp_path, {"module.model.net.0.weight": torch.ones(2)})
    assert list(read_weights(path, ["net.0.weight"])[0]) == ["net.0.weight"]
    assert list(read_weights(path, ["model.net.0.weight", "absent"])[0]) == ["model.net.0.weight"]
    assert list(read_weights(path)[0]) == ["0.weight"]


class Small(SaliencyModel):
    def __init__(self, frame_size=(32, 64), width=1):
        super().__init__(frame_size, saliency_model.prepare_frame, width=width)
        self.net = nn.Sequential(nn.Conv2d(3, width, 1))


class Compiled(nn.Module):
    def __init__(self, network):
        super().__init__()
        self._orig_mod = network                                           # as torch.compile's wrapper has it


@pytest.mark.parametrize("known", [(), ("net.0.weight",)])
@pytest.mark.parametrize("wrap", [lambda network: network, nn.DataParallel, AveragedModel, Compiled, lambda network: AveragedModel(Compiled(network))])
def test_a_network_whose_own_names_begin_with_such_a_word_loads_from_every_wrapper(tmp_path, monkeypatch, known, wrap):
    monkeypatch.setattr(Small, "known_by", known)
    network = Small(width=2)
    loaded = Small.from_pretrained(stored(tmp_path, {"net": wrap(network).state_dict(), "configuration": network.config}))
    assert loaded.config == network.config and all(torch.equal(t, network.state_dict()[name]) for name, t in loaded.state_dict().items())


def test_several_state_dicts_are_listed_and_one_is_chosen(tmp_path):
    averaged = {"conv.weight": torch.full((2,), 3.0)}
    path = stored(tmp_path, {"state_dict": ENTRIES, "state_dict_ema": {"module": averaged}, "epoch": 3})
    with pytest.raises(ValueError, match=r"a.pth holds 2 state dicts, state_dict \(2 entries\), state_dict_ema.module \(1 entries\): choose one with "
                                         r"FILE#KEY, such as .*a.pth#state_dict$"):
        read_weights(path)
    assert read_weights(f"{path}#state_dict")[0].keys() == ENTRIES.keys()
    assert torch.equal(read_weights(f"{path}#state_dict_ema.module")[0]["conv.weight"], averaged["conv.weight"])
    assert local_file(f"{path}#state_dict") == path
    assert sha256_of(f"{path}#state_dict") == hashlib.sha256(path.read_bytes()).hexdigest() + "#state_dict" == sha256_of(path) + "#state_dict"


def test_a_key_that_is_not_there_is_said_with_those_that_are(tmp_path):
    path = stored(tmp_path, {"model": ENTRIES, "ema": ENTRIES})
    with pytest.raises(ValueError, match=r"holds no state dict emma: expected one of model \(2 entries\), ema \(2 entries\)"):
        read_weights(f"{path}#emma")
    torch.save(ENTRIES, path)
    with pytest.raises(ValueError, match="holds no state dict ema: it is one itself, give the file without #KEY"):
        read_weights(f"{path}#ema")
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match=r"holds no state dict ema: got a dict with 1 entries such as \['epoch'\]"):
        read_weights(f"{path}#ema")


def test_a_file_whose_own_name_has_a_hash_sign_is_read(tmp_path):
    torch.save({"model": ENTRIES, "ema": ENTRIES}, tmp_path / "run#3.pth")
    assert read_weights(f"{tmp_path}/run#3.pth#ema")[0].keys() == ENTRIES.keys()
    (tmp_path / "run#3.pth").rename(tmp_path / "run#3.pth#ema")
    assert local_file(f"{tmp_path}/run#3.pth#ema").name == "run#3.pth#ema"
    with pytest.raises(FileNotFoundError, match="no weight file .*absent#3.pth: it does not exist"):
        read_weights(tmp_path / "absent#3.pth")


def test_a_state_dict_of_a_file_on_the_web_is_chosen_with_and_without_a_checksum(web, tmp_path):
    torch.save({"model": ENTRIES, "ema": named("module.")}, tmp_path / "served")
    right = hashlib.sha256((tmp_path / "served").read_bytes()).hexdigest()
    for address in ("https://host/a.pth#ema", f"https://host/a.pth#sha256={right}#ema"):
        assert read_weights(address)[0].keys() == ENTRIES.keys()
    assert web == ["https://host/a.pth"]


# What is not a weight file

@pytest.mark.parametrize("content, said", [
    (b"", "cannot be read as a weight file: it is empty: get the file again"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "cannot be read as a weight file: it is a Git LFS pointer.*`git lfs pull`"),
    (b"\n <!DOCTYPE HTML><html><body>Sign in</body></html>", "cannot be read as a weight file: it is a web page .*get the file that it leads to"),
    (b"<Html lang='en'>", "cannot be read as a weight file: it is a web page"),
])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.caffemodel"])
def test_a_pointer_a_web_page_and_an_empty_file_are_named_as_that(tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {said}"):
        STSConvNet.read_file(tmp_path / name)


class Own(nn.Module):
    pass


@pytest.mark.parametrize("content, named", [
    (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    (Own(), "test_weights.Own"),
    ({"state_dict": ENTRIES, "args": argparse.Namespace(lr=1)}, "argparse.Namespace"),
    ({"state_dict": ENTRIES, "best": np.float64(0.5)}, r"numpy\.\w+\.multiarray.scalar"),
])
@pytest.mark.parametrize("as_archive", [True, False])
@pytest.mark.filterwarnings("ignore")                                      # PyTorch's, of older formats
def test_a_foreign_class_is_named_with_the_line_that_saves_a_state_dict(tmp_path, content, named, as_archive):
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=as_archive)
    with pytest.raises(ValueError, match=rf'it holds an object of the class {named}, and .*save a state dict: torch.save\(model.state_dict\(\), "weights.pth"\)$'):
        read_weights(tmp_path / "a.pth")


def test_a_scripted_network_and_a_plain_pickle_are_named_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:  # as torch.jit.save writes it, code and all
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/code/__torch__.py", b"pass" * 100)
        archive.writestr("a/constants.pkl", b"")
    (tmp_path / "b.pth").write_bytes(pickle.dumps({"conv.weight": [1.0]}))
    for name, said in (("a.pt", "a.pt is a TorchScript archive"), ("b.pth", "it is a pickle that torch.save did not write")):
        with pytest.raises(ValueError, match=f"{said}.*save a state dict"):
            read_weights(tmp_path / name)


# Files from strangers

class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (Path.touch, (self.victim,))


@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"state_dict": {"weight": evil}}])
@pytest.mark.parametrize("as_archive", [True, False])
def test_a_pickle_that_would_run_something_is_refused_unrun(tmp_path, wrap, as_archive):
    torch.save(wrap(Malicious(tmp_path / "touched")), tmp_path / "a.pth", _use_new_zipfile_serialization=as_archive)
    with pytest.raises(ValueError, match="a.pth .* cannot be read as a PyTorch weight file of tensors and plain types"):
        read_weights(tmp_path / "a.pth")
    assert not (tmp_path / "touched").exists()
    torch.load(tmp_path / "a.pth", weights_only=False)                     # it would have
    assert (tmp_path / "touched").exists()


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1000_000)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as whole, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"bomb.pth would unpack from \d+ to 4\d+ bytes"):
        read_weights(tmp_path / "bomb.pth")


def test_a_tensor_that_claims_more_values_than_the_file_holds_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1).expand(10 ** 9)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="weight claims more values than the file holds"):
        read_weights(tmp_path / "a.pth")
