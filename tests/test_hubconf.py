import json
import subprocess
import sys

import pytest
import torch
from conftest import TESTS

SCRIPT = """
import copy, pickle, sys
{before}
import torch
network = torch.hub.load({repository!r}, "recsalnet", source="local", weights={weights!r})
import loss, model, saliency_model, utils, weights
assert all(module.MINE for module in (loss, model, saliency_model, utils, weights)), "the caller's own modules"
assert not any(getattr(m, "__file__", None) and m.__file__.startswith({repository!r}) for n, m in sys.modules.items() if n in ("loss", "model", "saliency_model", "utils", "weights", "swin_transformer"))
torch.hub.load({repository!r}, "recsalnet", source="local", weights={weights!r})  # again: the first one stays whole
again = pickle.loads(pickle.dumps(copy.deepcopy(network)))
clip = torch.randn(1, 3, 32, *network.config["frame_size"])
with torch.no_grad():
    assert torch.equal(network(clip), again(clip)) and network(clip).shape == (1, 32, 64)
print(type(network).__name__, type(network).__module__)
"""


@pytest.mark.parametrize("before", ["", "import loss, model, saliency_model, utils, weights"])
def test_the_hub_loads_the_network_where_the_caller_has_modules_of_the_same_names(tmp_path, tiny_model, before):
    torch.save(tiny_model.state_dict(), tmp_path / "a.pth")
    (tmp_path / "a.json").write_text(json.dumps({"configuration": tiny_model.config}))
    for name in ("loss", "model", "saliency_model", "utils", "weights"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    script = SCRIPT.format(before=before, repository=str(TESTS.parent), weights=str(tmp_path / "a.pth"))
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.split()[-2:] == ["RecSalNet", "recsalnet_model"]


LITE = """
import pickle, sys
import torch
network = torch.hub.load({repository!r}, "recsal_lite", source="local")
import utils
assert utils.MINE and not any(name == "baselines" or name.startswith("baselines.") for name in sys.modules)
again = pickle.loads(pickle.dumps(network))
clip = network.normalise(torch.zeros(1, 3, 2, *network.config["frame_size"], dtype=torch.uint8))
with torch.no_grad():
    maps, state = network.maps(clip)
    assert torch.equal(network(clip), again(clip)) and torch.equal(maps[:, -1], network(clip))
print(type(network).__name__, *maps.shape)
"""


def test_the_hub_gives_recsal_lite_with_its_weights_in_any_directory(tmp_path):
    (tmp_path / "utils.py").write_text("MINE = True\n")
    ended = subprocess.run([sys.executable, "-c", LITE.format(repository=str(TESTS.parent))], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout.split()[-5:] == ["RecSalLite", "1", "2", "72", "96"]
