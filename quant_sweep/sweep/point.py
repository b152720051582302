"""One point of the sweep as the config describes it: validated, described for the record, and named by its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.engines import Auto, Engine, Flow
from quant_sweep.engines.auto import Choice
from quant_sweep.errors import InputError
from quant_sweep.evaluation.metrics import Custom, Metric
from quant_sweep.graph import Fusion, QuantGraph
from quant_sweep.observers import MinMax, Observer
from quant_sweep.quantization.assignment import KINDS, checked_assignment, read_assignment
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, Width
from quant_sweep.recovery import Recovery, check_enough
from quant_sweep.report.run_name import run_name
from quant_sweep.runtime.kinds import is_whole
from quant_sweep.sweep.build import plain, resolve_device
from quant_sweep.sweep.check import check_averages, check_calibration, check_settings
from quant_sweep.sweep.choices import build, shipped
from quant_sweep.sweep.environment import as_written, from_environment

# Config values that say where and how, not what: no params, and no part of the content key.
_RIM = ("tracking", "outputs_dir", "cache_dir", "force", "batch_size", "device")
# What a digest of weights, images or indices says better than the config.
_DIGESTED = ("model", "data", "bits")


@dataclass(frozen=True)
class Point:
    """What one run does.

    Attributes:
        settings: the whole config, resolved to plain values.
        shown: the same as it may be recorded; what an environment variable decides is as it was typed.
        sequential: calibrate as the original study did, upstream already quantized.
        recoveries: by name, in the order in which they are done.
        metric: what is measured, once the data is known.
        choice: the engine that `engine=auto` became, once it is settled.
    """

    settings: Mapping[str, Any]
    shown: Mapping[str, Any]
    observer: Observer
    weight_observer: Observer
    scheme: Scheme
    widths: BitWidths
    fusion: Fusion
    engine: Engine | Flow | Auto
    device: torch.device
    recoveries: Mapping[str, Recovery] = field(default_factory=dict)
    metric: Metric | None = None
    choice: Choice | None = None

    def measuring(self, labels: Tensor | None) -> Point:
        """The point with its metric; `metric=auto` becomes the one for such labels, (n, ...) or none.

        Raises:
            InputError: the metric cannot be built.
        """
        node = self.settings["metric"]
        if node["name"] == "auto":
            chosen = build("metric", node, labels=labels)
            node = {**shipped("metric")[chosen], "output": node["output"]}
        settings, shown = ({**part, "metric": node} for part in (self.settings, self.shown))
        return replace(self, settings=settings, shown=shown, metric=build("metric", node))

    def settled(self, graph: QuantGraph, specs: Mapping[str, QuantSpec]) -> Point:
        """The point with the engine that `engine=auto` stands for here; any other as it is."""
        if not isinstance(self.engine, Auto):
            return self
        choice = self.engine.choose(graph, specs, self.device)
        return replace(self, engine=choice.engine, choice=choice)

    @property
    def sequential(self) -> bool:
        return bool(self.settings["calibration"]["name"] == "sequential")

    @property
    def update_batch_norm(self) -> bool:
        return bool(self.settings["calibration"].get("update_batch_norm", False))

    def __str__(self) -> str:
        return run_name(self.params(), self.choice.name if self.choice else self.settings["engine"]["name"])

    def params(self) -> dict[str, object]:
        """Every config axis by its name on the command line; `device` as it was resolved."""
        axes = flat_params({key: value for key, value in self.shown.items() if key not in (*_RIM, "recovery")})
        return {**axes, **_recovery_params(self.shown["recovery"]), "device": self.device.type}

    def tags(self) -> dict[str, str]:
        """What the machine decided and nobody typed."""
        facts: dict[str, object] = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
        facts["cpu_vnni"] = torch.cpu._is_vnni_supported()
        if self.choice is not None:
            facts |= {"engine_chosen": self.choice.name, "engine_reason": self.choice.reason}
        if isinstance(self.engine, Flow):
            facts |= self.engine.facts()
        if self.metric is not None:
            facts |= metric_tags(self.metric)
        return {name: str(value) for name, value in facts.items()}

    def contents(self) -> dict[str, object]:
        """What of the config decides the numbers, JSON-able; weights and images are left to their digests."""
        settings = {key: value for key, value in self.settings.items() if key not in _RIM + _DIGESTED}
        chosen = {} if self.choice is None else {"engine_chosen": self.choice.name}
        own = {"metric_function": self.metric.digest} if isinstance(self.metric, Custom) else {}
        return {**settings, **chosen, **own, "device": self.device.type}


def metric_tags(metric: Metric) -> dict[str, str]:
    """What a reader of the run must know of its metric."""
    direction = "higher" if metric.higher_is_better else "lower"
    return {
        "metric_name": metric.name,
        "metric_unit": metric.unit,
        "metric_direction": direction,
        "metric_kind": metric.kind,
    }


def flat_params(settings: Mapping[str, Any]) -> dict[str, object]:
    """Nested settings as flat params; a group is called by its `name`: {observer: {name: hist, dst_bins: 8}} gives
    observer=hist and observer.dst_bins=8."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and "name" in value:
            flat[key] = value["name"]
            hidden = ("name", "_target_", "cache_dir")
            flat |= {f"{key}.{inner}": inner_value for inner, inner_value in value.items() if inner not in hidden}
        else:
            flat[key] = value
    return flat


def recovery_param(recoveries: Mapping[str, Any]) -> str:
    """What the axis `recovery` is called in a run: `none`, `reconstruct`, `reconstruct+distill`."""
    return "+".join(recoveries) or "none"


def _recovery_params(settings: Mapping[str, Any]) -> dict[str, object]:
    named = {
        f"recovery.{name}.{key}": value
        for name, values in settings.items()
        for key, value in values.items()
        if key != "_target_"
    }
    return {"recovery": recovery_param(settings), **named}


def read_point(cfg: DictConfig) -> Point:
    """Build what the config names, and refuse what cannot be done, before any work.

    Raises:
        InputError: a value cannot be used, has no effect, or two of them exclude each other.
    """
    written = from_environment(cfg)
    settings = plain(cfg)
    check_settings(settings)
    settings["overrides"] = _assignment(settings["overrides"])
    written.pop("overrides", None)  # what the file says is recorded, not its place
    engine = build("engine", settings["engine"])
    point = Point(
        settings=settings,
        shown=as_written(settings, written),
        observer=build("observer", settings["observer"]),
        weight_observer=build("weight_observer", settings["weight_observer"]),
        scheme=build("scheme", settings["scheme"]),
        widths=BitWidths(settings["weight_bits"], settings["activation_bits"], settings["overrides"]),
        fusion=Fusion(settings["fusion"]),
        engine=engine,
        device=resolve_device(settings["device"], engine.devices),
        recoveries={name: build(f"recovery.{name}", node) for name, node in settings["recovery"].items()},
    )
    check_calibration(point.sequential, point.update_batch_norm, point.scheme.same_grid_around_relu, point.fusion)
    if point.recoveries and isinstance(settings["calibration"]["images"], int):
        check_enough(settings["calibration"]["images"])
    if isinstance(engine, Flow):
        _check_flow(engine, point)
    calibration = settings["calibration"]
    one_batch = is_whole(calibration["images"], 2, calibration["batch_size"])
    one = f"calibration.images={calibration['images']} are one batch of calibration.batch_size"
    check_averages("observer", point.observer, one_batch, one)
    check_averages("weight_observer", point.weight_observer, True, "since a weight is seen once")
    return point


def _assignment(overrides: Any) -> dict[str, Width]:
    """The widths of single tensors, as they are typed or as a file has them."""
    if isinstance(overrides, Mapping):
        return checked_assignment(overrides)
    if not isinstance(overrides, str) or not overrides.strip():
        raise InputError(f"overrides={overrides}: {KINDS}")
    return read_assignment(Path(overrides).expanduser())


def _check_flow(flow: Flow, point: Point) -> None:
    """Refuse settings that somebody else's flow would not follow: its run must not claim what it did not do."""
    settings, widths = point.settings, point.widths
    ignored: dict[str, tuple[object, bool]] = {
        "bits": (widths.weights, widths.weights != widths.activations or widths.weights == flow.bits),
        "weight_bits": (widths.weights, widths.weights == flow.bits),
        "activation_bits": (widths.activations, widths.activations == flow.bits),
        "overrides": (dict(widths.overrides), not widths.overrides),
        "fusion": (point.fusion.value, point.fusion is Fusion.conv_bn_relu),
        "scheme": (settings["scheme"]["name"], point.scheme == AFFINE),
        "weight_observer": (settings["weight_observer"]["name"], point.weight_observer == MinMax()),
        "calibration": (settings["calibration"]["name"], not point.sequential),
        **_changed_parameters(settings["observer"], point.observer),
        "recovery": (recovery_param(point.recoveries), not point.recoveries),
    }
    for key, (value, follows) in ignored.items():
        if not follows:
            raise InputError(
                f"{key}={value}: engine={settings['engine']['name']} has its own flow; it takes only bits={flow.bits} "
                "fusion=conv_bn_relu scheme=affine weight_observer=minmax calibration=one_pass recovery=none, and "
                "observers unchanged"
            )
    flow.check(settings["observer"]["name"])


def _changed_parameters(node: Mapping[str, Any], observer: Observer) -> dict[str, tuple[object, bool]]:
    """The parameters of an observer by their keys: the value, and whether it is the default."""
    default = vars(type(observer)())
    return {f"observer.{key}": (node[key], value == default[key]) for key, value in vars(observer).items()}
