"""From config nodes to the data set, the model and the store that they name.

Data set and model are built once per process and serve every point of a multirun that names them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue
from torch import Tensor, nn

from quant_sweep.data import DataSet
from quant_sweep.errors import InputError
from quant_sweep.graph import Captured, Fusion, Graph, Network, QuantGraph, capture_float, with_quantizers
from quant_sweep.models import load_weights, read_checkpoint, takes_packed
from quant_sweep.sweep.choices import build
from quant_sweep.sweep.store import check_store
from quant_sweep.tracking import Tracker

_COMPARED = 4  # training images on which a model is compared with its graph


def plain(node: DictConfig) -> dict[str, Any]:
    """The node with its interpolations resolved.

    Raises:
        InputError: a value that must be given is not.
    """
    try:
        container = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise InputError(f"{error.full_key}=???: it must be given") from error
    assert isinstance(container, dict)
    return {str(key): _enum_value(value) for key, value in container.items()}


def _enum_value(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def open_tracker(cfg: DictConfig) -> Tracker:
    """The store that `tracking` names.

    Raises:
        InputError: it cannot be used; within seconds.
    """
    tracking = cfg.tracking
    check_store(tracking, write=True)
    return Tracker.open(tracking.uri, tracking.experiment, Path(tracking.artifacts), Path(tracking.lock_dir))


def load_data(node: Mapping[str, Any]) -> DataSet:
    """The data set that the resolved node of `data=` names."""
    data = _data_set(json.dumps(node, sort_keys=True))
    if isinstance(data, InputError):
        raise data
    return data


@functools.lru_cache(maxsize=1)
def _data_set(node: str) -> DataSet | InputError:
    """What is wrong is kept like what is right: no job of a sweep decodes the same folder to find it again."""
    settings = json.loads(node)
    try:
        data = build("data", settings, name=settings["name"])
    except InputError as error:
        return error
    assert isinstance(data, DataSet)
    return data


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A trained float model.

    Attributes:
        module: in evaluation mode; not to be changed.
        captured: what it computes, as records.
        digest: hash of its weights and of what it computes.
    """

    module: nn.Module
    captured: Captured
    digest: str

    @functools.lru_cache(maxsize=len(Fusion))  # noqa: B019  (lives as long as the one model of the process)
    def graph(self, fusion: Fusion) -> QuantGraph:
        """The model with the quantizers of `fusion`."""
        return with_quantizers(self.captured, fusion)


def load_model(node: Mapping[str, Any], data: DataSet) -> LoadedModel:
    """The trained model that the resolved node of `model=` names, for the classes and channels of `data`.

    Raises:
        InputError: there is no checkpoint, or it does not fit; or the model cannot be captured.
    """
    model = _trained(json.dumps(node, sort_keys=True), data)
    if isinstance(model, InputError):
        raise model
    return model


@functools.lru_cache(maxsize=1)
def _trained(node: str, data: DataSet) -> LoadedModel | InputError:
    """As `_data_set`."""
    try:
        return _load_model(node, data)
    except InputError as error:
        return error


def _load_model(node: str, data: DataSet) -> LoadedModel:
    settings = json.loads(node)
    checkpoint = settings["checkpoint"]
    if checkpoint is None and not brings_own_weights(settings):
        raise InputError(
            "model.checkpoint=null: nothing is said about the weights; give a file"
            + (", or model.weights=DEFAULT for torchvision's" if "weights" in settings else "")
        )
    state = read_checkpoint(Path(checkpoint), settings.get("checkpoint_key")) if checkpoint is not None else {}
    classes = len(data.classes) or classes_of(settings, state)
    module = new_model(settings, classes, data.channels).eval()
    if state:
        load_weights(module, state, str(checkpoint), classes)
    if data.train.parts:
        module = takes_packed(module, data.train.parts)
    _check_finite(settings["name"], module)
    check_takes_images(settings["name"], module, data)
    captured = capture_float(module, data.normalize(data.train.images[:_COMPARED]))
    float32 = all(tensor.dtype == torch.float32 for tensor in module.parameters())
    return LoadedModel(module if float32 else Network(captured.graph), captured, graph_digest(captured.graph))


def classes_of(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> int:
    """How many classes a network has where the data does not say: of its weights, the rows of the last matrix."""
    matrices = [tensor for tensor in state.values() if tensor.dim() == 2]
    if matrices:
        return len(matrices[-1])
    return 1000 if settings.get("weights") is not None else 0  # torchvision's own are those of ImageNet


# How torch tells that images and layers do not fit; anything else that a forward pass raises is a fault of its code.
_MISFITS = (
    *("Kernel size can't be greater", "smaller than the kernel size", "smaller than kernel size"),
    *("channels, but got", "shapes cannot be multiplied", "Output size is too small", "Given input size"),
    *(
        "should be smaller than",
        "less than the corresponding input dimension",
        "Expected more than 1 value per channel",
    ),
)


def check_takes_images(model: str, module: nn.Module, data: DataSet) -> None:
    """Run a model on one image of the size and channels that it will see.

    Raises:
        InputError: a layer does not fit them.
    """
    image = data.normalize(data.train.images[:1])
    try:
        with torch.no_grad():
            module(image.to(next((tensor.dtype for tensor in module.parameters()), image.dtype)))
    except RuntimeError as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if not any(words in str(error) for words in _MISFITS):
            raise
        shape = " x ".join(map(str, image.shape[1:]))
        raise InputError(
            f"model={model}: cannot take images of {shape} ({text}); choose another data.size, or data= of its kind"
        ) from error


def graph_digest(graph: Graph) -> str:
    """Hash of what a network computes, its constants included."""
    digest = hashlib.sha256(graph.described().encode())
    for name, value in sorted(graph.constants.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def brings_own_weights(settings: Mapping[str, Any]) -> bool:
    """Whether the model comes trained: torchvision's own weights, or a user's callable, who knows what it returns."""
    return settings.get("weights") is not None or "factory" in settings


def new_model(settings: Mapping[str, Any], num_classes: int, in_channels: int) -> nn.Module:
    """The architecture, with whatever weights its factory gives it."""
    node = {key: value for key, value in settings.items() if key not in ("checkpoint", "checkpoint_key")}
    module = build("model", node, num_classes=num_classes, in_channels=in_channels)
    assert isinstance(module, nn.Module)
    return module


def _check_finite(model: str, module: nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"model={model}: {name} holds NaN or infinity; only finite weights can be quantized")


def resolve_device(name: str, possible: Sequence[str] = ("cpu", "cuda")) -> torch.device:
    """The device that `device=` names; auto takes a GPU where there is one and `possible` has it.

    Raises:
        InputError: cuda is asked for and not there.
    """
    usable = "cuda" in possible and torch.cuda.is_available()
    if name == "cuda" and not usable:
        raise InputError("device=cuda: no GPU can be used here; allowed are cpu and auto")
    return torch.device("cuda" if name != "cpu" and usable else "cpu")
