import ast
import errno
import json
import math
import time
from pathlib import Path

import pytest
import torch

import utils
from utils import BoundedExecutor, default_precision, in_threads, precision_context, select_device


def test_json_is_indented_by_dict_with_lists_on_one_line_and_reads_back(tmp_path):
    content = {"scores": {"cc": 0.5, "kl": math.nan}, "frames": {"a \"quoted\" name": ["1/2", "3"], "none": []}, "empty": {}, "list of dicts": [{"a": 1}]}
    utils.write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {**content, "scores": {"cc": 0.5, "kl": None}}
    assert '    "a \\"quoted\\" name": ["1/2", "3"],\n' in text


@pytest.mark.parametrize("content, said", [("[" * 100_000, "cannot be read"), ("[1]", "should hold an object"), ("{", "cannot be read")])
def test_json_that_is_no_object_is_refused(tmp_path, content, said):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=f"a.json.*{said}"):
        utils.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("content, said", [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<!DOCTYPE html><html>", "is a web page"), (b"\xef\xbb\xbf\r\n <HTML lang=en>", "is a web page"),
    (b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'>", "is a web page"), (b"<!-- saved from url --><html>", "is a web page"),
])
def test_what_was_fetched_in_the_place_of_a_file_is_recognised(tmp_path, content, said):
    (tmp_path / "a").write_bytes(content)
    assert utils.mistaken_for(tmp_path / "a").startswith(said)


@pytest.mark.parametrize("content", [b"\n", b"\x89PNG\r\n", b"PK\x03\x04", b"<?xml version='1.0'?><svg>", b"version 1", bytes(600)])
def test_other_files_are_taken_for_what_they_are(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert utils.mistaken_for(tmp_path / "a") is None


def test_no_program_evaluates_text_or_starts_a_shell():
    root = Path(utils.__file__).parent
    sources = [*root.glob("*.py"), *(path for room in ("data", "videos", "prediction") for path in root.glob(f"{room}/*.py"))]
    calls = [(path.name, node.lineno) for path in sources for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Call) and (getattr(node.func, "id", None) in ("eval", "exec", "compile", "__import__")
                                                or getattr(node.func, "attr", None) in ("system", "popen")
                                                or any(keyword.arg == "shell" for keyword in node.keywords)
                                                or any(keyword.arg == "weights_only" and getattr(keyword.value, "value", None) is not True for keyword in node.keywords))]
    assert len(sources) > 10 and not calls


# Files that are whole or not there

def test_a_full_disk_is_said_with_the_files_name_and_nothing_is_left(tmp_path):
    with pytest.raises(OSError, match="No space left on device: '.*a.bin'"), utils.atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="25 requested and 4 written.*a.bin"), utils.atomic_path(tmp_path / "a.bin"):
        raise OSError("25 requested and 4 written")                        # as NumPy says it
    assert list(tmp_path.iterdir()) == []


# Threads, devices and precision

def test_threads_keep_the_order_and_pass_errors_on():
    assert list(in_threads(lambda x: x * x, range(50), ahead=5)) == [x * x for x in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda x: 1 / x, [1, 0]))


def test_an_error_elsewhere_does_not_stop_what_waits_to_be_written():
    written = []
    with pytest.raises(KeyError), BoundedExecutor(1) as later:
        for number in range(5):
            later(lambda n: (time.sleep(0.02), written.append(n)), number)
        raise KeyError
    assert written == list(range(5))


def test_a_device_that_is_not_there_is_said_to_be_missing():
    assert select_device("cpu").type == "cpu"
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(ValueError, match=f"--device {missing}: PyTorch .* sees no {missing}"):
        select_device(missing)


def test_bfloat16_is_the_default_on_cuda_only_and_float32_turns_tf32_off():
    assert default_precision(torch.device("cuda")) == "bfloat16" and default_precision(torch.device("cpu")) == "float32"
    torch.backends.cudnn.allow_tf32 = True
    with precision_context("float32", torch.device("cpu")):
        assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with precision_context("bfloat16", torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
