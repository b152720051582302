"""What the config says becomes a point, or one line that says why not."""

import pytest
import torch
from configured import composed
from small_networks import images, tiny

from quant_sweep.engines import Simulate
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, capture
from quant_sweep.observers import MSE, Hist, MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs
from quant_sweep.sweep.point import flat_params, read_point


def test_defaults() -> None:
    point = read_point(composed())
    assert (point.observer, point.weight_observer, point.scheme) == (MSE(), MinMax(), AFFINE)
    assert (point.widths, point.fusion) == (BitWidths(8, 8, {}), Fusion.conv_bn_relu)
    assert not point.sequential
    assert not point.update_batch_norm
    assert str(point) == "8b mse conv_bn_relu auto resnet20"


def test_everything_that_was_typed() -> None:
    point = read_point(
        composed(
            *("observer=hist", "observer.dst_bins=256", "weight_observer=mse", "scheme=symmetric", "fusion=none"),
            *("weight_bits=3", "activation_bits=4", "overrides={input: 8, linear: 6}"),
            *("calibration=sequential", "calibration.update_batch_norm=true"),
        )
    )
    assert (point.observer, point.weight_observer) == (Hist(256), MSE())
    assert point.widths == BitWidths(3, 4, {"input": 8, "linear": 6})
    assert point.sequential
    assert point.update_batch_norm
    assert str(point) == "W3A4 hist none auto symmetric sequential resnet20"


def test_one_image_at_once() -> None:
    point = read_point(composed("batch_size=1", "calibration.batch_size=1"))
    assert (point.settings["batch_size"], point.settings["calibration"]["batch_size"]) == (1, 1)


def test_params_have_the_names_of_the_command_line() -> None:
    point = read_point(composed("observer=fake_hist", "bits=4"))
    params = point.params()
    named = {"model": "resnet20", "data": "digits", "observer": "fake_hist", "weight_observer": "minmax", "bits": 4}
    named |= {"weight_bits": 4, "activation_bits": 4, "fusion": "conv_bn_relu", "scheme": "affine", "seed": 0}
    named |= {"engine": "auto", "calibration": "one_pass", "calibration.images": 1024, "observer.percentile": 99.99}
    assert named.items() <= params.items()
    assert params["device"] in ("cpu", "cuda")
    assert params["model.checkpoint"] == "outputs/train/resnet20-digits/best.safetensors"
    assert point.tags()["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert point.tags()["cpu_vnni"] == str(torch.cpu._is_vnni_supported())
    assert not any(name.startswith(("tracking", "hydra", "force", "outputs_dir")) for name in params)
    assert not any("_target_" in name or "cache_dir" in name for name in params)


def test_auto_becomes_an_engine_that_the_key_and_the_tags_know() -> None:
    graph = capture(tiny(), images(2), Fusion.conv_bn_relu)
    wide, narrow = (read_point(composed(f"bits={bits}", "device=cpu")) for bits in (12, 4))
    settled = wide.settled(graph, assign_specs(graph, wide.scheme, wide.widths))
    assert isinstance(settled.engine, Simulate)
    assert settled.contents()["engine_chosen"] == settled.tags()["engine_chosen"] == "simulate"
    assert "12 bits" in settled.tags()["engine_reason"]
    assert str(settled) == "12b mse conv_bn_relu simulate resnet20"
    assert settled.params() == wide.params()
    assert narrow.settled(graph, assign_specs(graph, narrow.scheme, narrow.widths)).contents() != narrow.contents()
    typed = read_point(composed("engine=simulate"))
    assert typed.settled(graph, {}) is typed


def test_builtin_says_what_it_decided() -> None:
    point = read_point(composed("engine=builtin", "observer=hist"))
    assert point.tags()["reduce_range"] in ("True", "False")
    assert point.tags()["torch_engine"] == torch.backends.quantized.engine
    assert point.params()["device"] == "cpu"


def test_flat_params() -> None:
    settings = {"observer": {"name": "hist", "_target_": "t", "dst_bins": 8, "cache_dir": "c"}, "bits": 4, "map": {}}
    assert flat_params(settings) == {"observer": "hist", "observer.dst_bins": 8, "bits": 4, "map": {}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["overrides={input: 1}"], r"^overrides\.input=1: allowed are the whole numbers 2 to 16"),
        (["overrides={input: x}"], r"^overrides\.input='x': allowed are the whole numbers 2 to 16"),
        (["overrides={input: 8.5}"], r"^overrides\.input=8\.5: "),
        (["overrides={input: true}"], r"^overrides\.input=True: "),
        (["batch_size=0"], r"^batch_size=0: allowed are whole numbers from 1"),
        (["calibration.batch_size=-1"], r"^calibration\.batch_size=-1: "),
        (["calibration.batch_size=x"], r"^calibration\.batch_size='x': "),
        (["observer=hist", "observer.dst_bins=1"], r"^observer\.dst_bins=1: "),
        (["observer=fake_hist", "observer.percentile=nan"], r"^observer\.percentile=nan: "),
        (["weight_observer=fake_hist", "weight_observer.momentum=0"], r"^weight_observer\.momentum=0: "),
        (["observer=moving_average", "observer.averaging_constant=2"], r"^observer\.averaging_constant=2: "),
        (
            ["calibration=sequential", "calibration.update_batch_norm=true"],
            r"^calibration\.update_batch_norm=true: fusion=conv_bn_relu .* use fusion=none",
        ),
        (["scheme.weight_per_channel=off"], r"^scheme\.weight_per_channel='off': allowed are true and false"),
        (
            ["calibration=sequential", "calibration.update_batch_norm=off"],
            r"^calibration\.update_batch_norm='off': allowed are true and false",
        ),
        (["calibration.augment=off"], r"^calibration\.augment='off': allowed are true and false"),
        (["model=custom"], r"^model\.factory=\?\?\?: it must be given"),
        (["engine=builtin", "observer=mse"], r"^observer=mse: .*allowed are minmax, hist, moving_average"),
        (["engine=builtin", "observer=hist", "bits=4"], r"^bits=4: engine=builtin .* only bits=8"),
        (["engine=builtin", "observer=hist", "activation_bits=4"], r"^activation_bits=4: engine=builtin"),
        (["engine=builtin", "observer=hist", "fusion=none"], r"^fusion=none: engine=builtin .*fusion=conv_bn_relu"),
        (["engine=builtin", "observer=hist", "scheme=symmetric"], r"^scheme=symmetric: .*scheme=affine"),
        (["engine=builtin", "observer=hist", "weight_observer=mse"], r"^weight_observer=mse: .*weight_observer=minmax"),
        (["engine=builtin", "observer=hist", "calibration=sequential"], r"^calibration=sequential: .*one_pass"),
        (["engine=builtin", "observer=hist", "overrides={input: 8}"], r"^overrides=\{'input': 8\}: "),
    ],
)
def test_refuses_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read_point(composed(*overrides))
    assert "\n" not in str(refused.value)


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device=cuda: no GPU"):
        read_point(composed("device=cuda"))
