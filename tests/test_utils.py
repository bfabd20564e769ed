import errno
import hashlib
import io
import json
import math
import urllib.request
from pathlib import Path

import pytest
import torch

import utils


def test_json_is_indented_by_dict_with_lists_on_one_line_and_reads_back(tmp_path):
    content = {"scores": {"cc": 0.5, "kl": math.nan}, "frames": {"a \"quoted\" name": ["1/2", "3"], "none": []}, "empty": {}, "list of dicts": [{"a": 1}]}
    utils.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {**content, "scores": {"cc": 0.5, "kl": None}}
    assert '    "a \\"quoted\\" name": ["1/2", "3"],\n' in text


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
    assert utils.local_file("a/b.pth") == utils.local_file(Path("a/b.pth")) == Path("a/b.pth")


def test_a_file_on_the_web_is_downloaded_once_and_checked(web, tmp_path):
    right = hashlib.sha256(b"weights").hexdigest()
    path = utils.local_file(f"https://host/a.pth#sha256={right}")
    assert path.read_bytes() == b"weights" and path.name.endswith("-a.pth") and utils.local_file("https://host/a.pth?download=1") != path
    assert utils.local_file("https://host/a.pth") == path and web == ["https://host/a.pth", "https://host/a.pth?download=1"]
    with pytest.raises(ValueError, match=f"https://host/a.pth has sha256 {right}, expected {'0' * 64}"):
        utils.local_file(f"https://host/a.pth#sha256={'0' * 64}")


def test_a_download_that_is_another_file_or_cut_off_is_not_kept(web, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="https://host/b.pth has sha256"):
        utils.local_file(f"https://host/b.pth#sha256={'0' * 64}")
    cut = io.BytesIO(b"weig")
    cut.headers = {"Content-Length": "7"}
    monkeypatch.setattr(urllib.request, "urlopen", lambda url: cut)
    with pytest.raises(OSError, match="could not download https://host/c.pth: it was cut off after 4 of 7 bytes"):
        utils.local_file("https://host/c.pth")
    assert list((tmp_path / "cache" / "checkpoints").iterdir()) == []


def test_a_download_that_fails_leaves_nothing_and_names_the_address(web, tmp_path, monkeypatch):
    def offline(url):
        raise OSError("no route to host")
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(OSError, match="could not download https://host/a.pth: no route to host"):
        utils.local_file("https://host/a.pth")
    assert list((tmp_path / "cache" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("url", ["http://host/a.pth", "ftp://host/a.pth", "https://host/a.pth#sha256=12"])
def test_another_kind_of_address_is_refused(url):
    with pytest.raises(ValueError, match="expected https://HOST/NAME"):
        utils.local_file(url)


# Files that are whole or not there

def test_a_full_disk_is_said_with_the_files_name_and_nothing_is_left(tmp_path):
    with pytest.raises(OSError, match="No space left on device: '.*a.bin'"), utils.atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="25 requested and 4 written.*a.bin"), utils.atomic_path(tmp_path / "a.bin"):
        raise OSError("25 requested and 4 written")                        # as NumPy says it
    assert list(tmp_path.iterdir()) == []
