"""The network to train, and the weights that it starts from."""
import inspect
from pathlib import Path

from torch import Tensor, nn

from baselines import MODELS
from saliency_model import SaliencyModel
from training.checkpoint import check_recipe
from weights import LISTED, read_weights, torchvision_weights


def make_model(name: str, weights: str | None, stored: dict | None, network: dict) -> nn.Module:
    """The network to train: a new one, a weight file's, or that of a run to resume.

    Args:
        name: a key of `MODELS`.
        weights: a weight file of the whole network, or None.
        stored: what `read_last` read, if a run is resumed.
        network: arguments that the user gave.

    Raises:
        ValueError: the network has no such argument, or does not fit its weights.
    """
    takes = {key: set(inspect.signature(model).parameters) for key, model in MODELS.items()}
    foreign = [argument for argument in network if argument not in takes[name]]
    if foreign:
        owners = [key for key in takes if foreign[0] in takes[key]]
        raise ValueError(f"--{foreign[0].replace('_', '-')} is an argument of {', '.join(owners)}, not of {name}")
    if stored:
        # Said here, or the shapes of tensors would be compared first.
        check_recipe(stored["recipe"], {name: list(value) if isinstance(value, tuple) else value
                                        for name, value in network.items()})
        return MODELS[name].built_for({**stored["configuration"], **network}, stored["model"], "last.pt")
    model = MODELS[name].from_pretrained(weights, **network) if weights else MODELS[name](**network)
    if model.config["frame_size"] is None:  # frames of a batch need one size
        return make_model(name, weights, stored, {**network, "frame_size": model.nominal_size})
    forgotten = takes[name] - model.config.keys()
    if forgotten:  # its weight files would lack them
        raise ValueError(f"{MODELS[name].__name__} must pass its arguments {', '.join(sorted(forgotten))} to "
                         "super().__init__, for its config")
    return model


def check_abilities(model_class: type[SaliencyModel], **wanted: bool) -> None:
    """Raise a ValueError if a network is asked for something that it cannot do."""
    for name, asked in wanted.items():
        if asked and name not in model_class.abilities:
            able = [key for key, model in MODELS.items() if name in model.abilities]
            raise ValueError(f"--{name.replace('_', '-')} is for {', '.join(able)}: {model_class.__name__} cannot do "
                             "it")


def initialise_weights(model: nn.Module, weights: str, earlier: dict[str, Path] | None = None,
                       keep_flow_stage: bool = False) -> str:
    """Load the pretrained weights that a network's training starts from; returns what they were, for the log.

    Args:
        model: a `SaliencyModel`.
        weights: "auto" (those of the stages before, else the network's own file if it is in saved_models/, else
            torchvision's), "torchvision", "none", or a file.
        earlier: the weight files of the stages before the last one, by their names.
        keep_flow_stage: of `SMCF.load_stages`.

    Raises:
        FileNotFoundError: there are none; the message says what to do.
        ValueError: the file holds something else, or this network starts from nothing pretrained.
    """
    if earlier and weights == "auto":
        missing = [name for name, path in earlier.items() if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"no weights of the stage {missing[0]}: {earlier[missing[0]]} does not exist. "
                                    f"Train it first, with --train-type {missing[0]} and the same --run-dir; or start "
                                    "this stage from random weights with --encoder-weights none, or from a whole "
                                    "network with --weights FILE")
        rgb, flow = (read_weights(path, model.state_dict())[0] for path in earlier.values())
        kept = model.load_stages(flow, rgb, " and ".join(map(str, earlier.values())), keep_flow_stage)
        return f"{', '.join(map(str, earlier.values()))}; {len(kept)} entries of the flow stage"
    if weights == "none" or (weights == "auto" and model.start_file is None):
        model.init_from_scratch()
        return "none, random initialisation"
    if weights == "auto":
        weights = str(model.start_file) if model.start_file.is_file() else "torchvision"
    if weights == "torchvision":
        entries, source = download_start(model)
    else:
        entries, source = read_weights(weights, model.state_dict())[0], weights
    unused = model.load_start(entries, source)
    listed = ", ".join(unused[:LISTED]) + f" and {len(unused) - LISTED} more" * (len(unused) > LISTED)
    return f"{source}, unused: {listed or 'nothing'}"


def download_start(model: nn.Module) -> tuple[dict[str, Tensor], str]:
    """The weights that torchvision has for a network to start from, from its cache or the internet; and their name."""
    reason = "torchvision has none for it"
    if model.start_download:
        from torchvision.models import get_weight  # here, for it takes as long to import as all else

        weights = get_weight(model.start_download)
        try:
            return torchvision_weights(weights), f"torchvision's {weights}"
        except OSError as error:
            reason = str(error)
    raise FileNotFoundError(f"no encoder weights for {type(model).__name__}: {model.start_file} is not there, and "
                            f"{reason}. saved_models/README.md says where they are published: give their path as "
                            "--encoder-weights FILE, or start from random weights with --encoder-weights none")
