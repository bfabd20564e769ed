import hashlib
import io
import urllib.request
import zipfile
from pathlib import Path

import pytest
import torch

from weights import local_file, read_weights

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
