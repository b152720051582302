"""Widths of single tensors: files of them, and tensors that stay in float."""

import json
import locale
import tracemalloc
from pathlib import Path

import pytest
import torch
from small_networks import SlowTwin, images, tiny

from quant_sweep.calibration.one_pass import Calibration, calibrate
from quant_sweep.engines import Auto, Int8, Simulate
from quant_sweep.errors import InputError
from quant_sweep.evaluation.model_size import quantized_megabytes
from quant_sweep.graph import Fusion, capture
from quant_sweep.observers import MSE
from quant_sweep.quantization import assignment
from quant_sweep.quantization.assignment import read_assignment, write_assignment
from quant_sweep.quantization.quantize import quantize
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, Width, assign_specs
from quant_sweep.recovery import Reconstruct

WIDTHS = {"input": 8, "conv1.weight": 3, "linear": "float"}


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(capture(tiny(), images(2), Fusion.conv_bn_relu), [images(32)])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_assignment(tmp_path / "a.yaml", WIDTHS, "two\nlines")
    assert (tmp_path / "a.yaml").read_text().startswith("# two\n# lines\ninput: 8\n")
    (tmp_path / "a.json").write_text(json.dumps(WIDTHS))
    assert read_assignment(tmp_path / "a.yaml") == read_assignment(tmp_path / "a.json") == WIDTHS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[8]", "allowed is a file with a mapping"),
        ("", "allowed is a file with a mapping"),
        ("a: [", "neither YAML nor JSON: "),
        ("!!python/object/apply:os.system ['true']", "neither YAML nor JSON: could not determine a constructor"),
        ("input: 1", r"overrides\.input=1: allowed are the whole numbers 2 to 16, and float"),
        ("input: true", r"overrides\.input=True: "),
        ("input: double", r"overrides\.input='double': "),
    ],
)
def test_files_of_something_else(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_assignment(tmp_path / "x")
    assert "\n" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=f"overrides={path}: there is no such file; allowed is a mapping"):
            read_assignment(path)


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000, "a/" * 3000], ids=["nul", "long name", "long path"])
def test_no_path(path: str) -> None:
    with pytest.raises(InputError, match=r"(?s)^overrides=a.*: there is no such file; allowed is a mapping"):
        read_assignment(Path(path))


@pytest.mark.parametrize("more", [0, 1, 100])
def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    """Not read in part: what is cut off might be half of the network."""
    monkeypatch.setattr(assignment, "_LARGEST", 40)
    (tmp_path / "x").write_text("input: 8\n" + "#" * (20 + more) + "\nlinear: 12")
    assert (tmp_path / "x").stat().st_size == 40 + more
    if more == 0:
        assert read_assignment(tmp_path / "x") == {"input": 8, "linear": 12}
        return
    with pytest.raises(InputError, match="allowed is a file with a mapping"):
        read_assignment(tmp_path / "x")


def test_little_memory_is_spent_on_a_large_file(tmp_path: Path) -> None:
    """A checkpoint, say, given by mistake."""
    with (tmp_path / "x").open("wb") as file:
        file.truncate(2**26)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="allowed is a file with a mapping"):
            read_assignment(tmp_path / "x")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_what_is_written_does_not_depend_on_the_locale(tmp_path: Path) -> None:
    widths: dict[str, Width] = {"größe.weight": 3, "input": "float"}
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")  # ASCII
    try:
        write_assignment(tmp_path / "a.yaml", widths, "für größe")
    finally:
        locale.setlocale(locale.LC_CTYPE, before)
    assert (tmp_path / "a.yaml").read_text(encoding="utf-8").startswith("# für größe\n")
    assert read_assignment(tmp_path / "a.yaml") == widths


@pytest.mark.parametrize("name", ["linear", "conv2.weight", "input", "relu.output"])
@pytest.mark.parametrize("recovery", [[], [Reconstruct(rows=200)]], ids=["none", "reconstruct"])
def test_a_tensor_in_float_has_no_grid(calibration: Calibration, name: str, recovery: list[Reconstruct]) -> None:
    overrides, test = {name: "float"}, images(8, seed=3)
    made = quantize(calibration, bits=4, observer=MSE(), overrides=overrides, engine=Simulate(), recovery=recovery)
    kept = {tensor for tensor in calibration.graph.names if tensor.startswith(name)}
    assert set(made.qparams) == set(calibration.graph.names) - kept
    if not recovery:
        slow = SlowTwin(calibration.graph, made.qparams).run(test)
        torch.testing.assert_close(made.network(test), slow, rtol=1e-3, atol=1e-3)
    on_codes = quantize(calibration, bits=4, observer=MSE(), overrides=overrides, engine=Int8(), recovery=recovery)
    torch.testing.assert_close(on_codes.network(test), made.network(test), rtol=0.1, atol=0.1)


def test_grids_tied_to_one_that_is_not_there() -> None:
    scheme = Scheme(True, True, False, same_grid_around_relu=True)
    calibration = calibrate(capture(tiny(), images(2), Fusion.bn), [images(8)])
    overrides = {"relu": "float"}
    made = quantize(calibration, bits=4, observer=MSE(), scheme=scheme, overrides=overrides, engine=Simulate())
    assert "conv1.output" in made.qparams
    assert "relu.output" not in made.qparams


def test_size_and_engine(calibration: Calibration) -> None:
    graph = calibration.graph
    specs = assign_specs(graph, AFFINE, BitWidths(8, 8, {"linear": "float"}))
    widths = {q.name: specs[q.name].bits for q in graph.weights if q.name in specs}
    more = quantized_megabytes(graph, widths) - quantized_megabytes(graph, widths | {"linear.weight": 8})
    assert more == pytest.approx(24 * 24 / 8e6)
    everything = dict.fromkeys(graph.names, "float")
    specs = assign_specs(graph, AFFINE, BitWidths(8, 8, everything))
    assert specs == {}
    assert Auto().choose(graph, specs, torch.device("cpu")).name == "simulate"
