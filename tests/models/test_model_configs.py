"""Every model in conf/model builds from its own yaml."""

from pathlib import Path

import pytest
import torch
from hydra.utils import get_method
from omegaconf import OmegaConf
from small_networks import same_weights

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem != "custom"], ids=lambda path: path.stem)
def test_yaml_builds_a_model_that_its_seed_determines(path: Path) -> None:
    config = OmegaConf.create({"outputs_dir": "o", "data": {"name": "d"}, "model": OmegaConf.load(path)})
    values = OmegaConf.to_container(config.model, resolve=True)
    assert isinstance(values, dict)
    name, checkpoint, factory = values.pop("name"), values.pop("checkpoint"), get_method(values.pop("_target_"))
    assert values.pop("checkpoint_key") is None
    assert checkpoint in (f"o/train/{name}-d/best.safetensors", None)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(factory(num_classes=10, in_channels=3, **values))
    assert same_weights(*models)


def test_custom_yaml_has_the_arguments_of_its_factory() -> None:
    config = OmegaConf.load(next(p for p in CONFIGS if p.stem == "custom"))
    assert set(config) == {"_target_", "name", "factory", "kwargs", "checkpoint", "checkpoint_key"}
    assert OmegaConf.missing_keys(config) == {"factory"}
