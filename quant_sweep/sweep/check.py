"""What can be refused of a config before anything is built or read: kinds, ranges, and settings without effect.

Each function takes the resolved settings and raises `InputError`, naming the key as it is typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion
from quant_sweep.observers import Observer
from quant_sweep.runtime.kinds import SEEDS, is_seed, is_whole
from quant_sweep.sweep.choices import check_choice, check_parts

# The groups of the config that have choices of their own.
GROUPS = ("model", "data", "observer", "weight_observer", "scheme", "engine", "calibration", "metric")
_SINGLE = (
    *("bits", "weight_bits", "activation_bits", "overrides", "fusion", "seed", "device", "batch_size", "force"),
    *("recovery", "tracking", "outputs_dir", "cache_dir"),
)
_MOST_IMAGES = 2**31 - 1


def check_settings(settings: Mapping[str, Any]) -> None:
    """Every key of a run by itself.

    Raises:
        InputError: one is missing, of the wrong kind, out of its range, or not of its group.
    """
    for key in (*GROUPS, *_SINGLE):
        if key not in settings:
            raise InputError(f"{key}: it must be given; no ~ may take it away")
    for group in GROUPS:
        check_choice(group, settings[group])
    check_parts("recovery", settings["recovery"])
    check_places(settings)
    if not is_seed(settings["seed"]):
        raise InputError(f"seed={settings['seed']!r}: allowed are {SEEDS}")
    if not isinstance(settings["force"], bool):
        raise InputError(f"force={settings['force']!r}: allowed are true and false")
    calibration = settings["calibration"]
    for key in ("augment", "balanced", "update_batch_norm"):
        if not isinstance(calibration.get(key, False), bool):
            raise InputError(f"calibration.{key}={calibration[key]!r}: allowed are true and false")
    sizes = {"batch_size": settings["batch_size"], "calibration.batch_size": calibration["batch_size"]}
    for key, size in sizes.items():
        if not is_whole(size, 1, _MOST_IMAGES):
            raise InputError(f"{key}={size!r}: allowed are whole numbers from 1")
    if isinstance(calibration["images"], list | Mapping | bool):  # a number out of range is for the data to say
        raise InputError(
            f"calibration.images={calibration['images']}: cannot draw that many; allowed: a whole number from 2 to the "
            "number of training images"
        )


def check_places(settings: Mapping[str, Any]) -> None:
    """Files and folders are text, and not empty.

    Raises:
        InputError: one is not.
    """
    checkpoint = settings["model"].get("checkpoint")
    key = settings["model"].get("checkpoint_key")
    if key is not None and (not isinstance(key, str) or checkpoint is None):
        raise InputError(f"model.checkpoint_key={key!r}: allowed is the name of a set in model.checkpoint, or null")
    places = {key: settings[key] for key in ("outputs_dir", "cache_dir")}
    places |= {"data.cache_dir": settings["data"].get("cache_dir", ".")}
    places |= {} if checkpoint is None else {"model.checkpoint": checkpoint}
    for key, value in places.items():
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise InputError(f"{key}={value!r}: allowed is the path of a {'file' if 'check' in key else 'folder'}")


def check_calibration(sequential: bool, update_batch_norm: bool, same_grid_around_relu: bool, fusion: Fusion) -> None:
    """Refuse a way of calibration that the fusion or the scheme leaves nothing to do for.

    Raises:
        InputError: see above.
    """
    if update_batch_norm and not sequential:
        raise InputError(
            "calibration.update_batch_norm=true: one float pass has none to do; use calibration=sequential"
        )
    if update_batch_norm and fusion is not Fusion.none:
        raise InputError(
            f"calibration.update_batch_norm=true: fusion={fusion.value} folds BatchNorm away; use fusion=none"
        )
    if sequential and same_grid_around_relu:
        raise InputError(
            "scheme.same_grid_around_relu=true: calibration=sequential lays the grid before a ReLU before it knows "
            "the one after it; use calibration=one_pass"
        )


def check_averages(key: str, observer: Observer, one_batch: bool, why: str) -> None:
    """Refuse the weight of a batch in an average where there is one batch only.

    Args:
        key: `observer` or `weight_observer`.
        one_batch: whether it will see no more.
        why: that is so.

    Raises:
        InputError: a parameter that acts between batches is not the default.
    """
    if not one_batch:
        return
    default = type(observer)()
    for name in observer.between_batches:
        value = getattr(observer, name)
        if value != getattr(default, name):
            raise InputError(f"{key}.{name}={value}: it has no effect, {why}; leave it out")
