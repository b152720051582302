"""The table has one row per tensor and channel, and its numbers are those of the grids."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from small_networks import images, tiny

from quant_sweep.arithmetic.affine import clipped_fraction, sqnr_db_of_values
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.evaluation.model_size import float_megabytes, quantized_megabytes
from quant_sweep.evaluation.qparams_table import COLUMNS, qparams_table
from quant_sweep.graph import Fusion, Network, QuantGraph, capture
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers import MSE, MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs


@pytest.fixture(scope="module")
def content() -> tuple[QuantGraph, dict[str, QParams], dict[str, Summary]]:
    graph = capture(tiny(), images(8), Fusion.conv_bn_relu)
    calibration = calibrate(graph, [images(8), images(8, seed=1)])
    specs = assign_specs(graph, AFFINE, BitWidths(4, 5, {"input": 8}))
    return graph, choose_qparams(calibration, specs, MSE(), MinMax()), dict(calibration.summaries)


def test_a_row_for_each_tensor_and_channel(content) -> None:
    graph, qparams, summaries = content
    table = qparams_table(graph, qparams, summaries)
    assert list(table.columns) == COLUMNS
    assert len(table) == len(graph.activations) + 6 + 6 + 4
    assert dict(table.groupby("name")["kind"].first()) == {
        **{q.name: "activation" for q in graph.activations},
        **{q.name: "weight" for q in graph.weights},
    }
    assert table.loc[table["kind"] == "activation", "channel"].isna().all()
    assert table.loc[table["name"] == "linear.weight", "channel"].tolist() == [0, 1, 2, 3]
    assert dict(table.groupby("name")["bits"].first()) == {name: grid.spec.bits for name, grid in qparams.items()}


def test_numbers_are_those_of_the_grids(content) -> None:
    graph, qparams, summaries = content
    table = qparams_table(graph, qparams, summaries)
    for name, grid in qparams.items():
        rows = table[table["name"] == name]
        for column, value in (("scale", grid.scale), ("zero_point", grid.zero_point), ("lo", grid.lo), ("hi", grid.hi)):
            np.testing.assert_array_equal(rows[column].to_numpy(), value.reshape(-1).numpy())
    for q in graph.weights:
        weight, grid = graph.graph.constants[q.name], qparams[q.name]
        rows = table[table["name"] == q.name]
        np.testing.assert_allclose(rows["sqnr_db"].to_numpy(float), sqnr_db_of_values(weight, grid).numpy())
        np.testing.assert_array_equal(rows["clipped_fraction"].to_numpy(float), clipped_fraction(weight, grid).numpy())


def test_errors_of_activations_are_those_of_the_values(content) -> None:
    """From the histogram, near to what the values themselves give."""
    graph, qparams, summaries = content
    row = qparams_table(graph, qparams, summaries).set_index("name").loc["input"]
    values = torch.cat([images(8), images(8, seed=1)])
    assert row["sqnr_db"] == pytest.approx(float(sqnr_db_of_values(values, qparams["input"])), abs=0.2)
    assert row["clipped_fraction"] == pytest.approx(float(clipped_fraction(values, qparams["input"])), abs=1e-3)


def test_unknown_errors_are_missing_not_zero(content) -> None:
    graph, qparams, _ = content
    table = qparams_table(graph, qparams, {}).set_index("kind")
    assert table.loc["activation", ["clipped_fraction", "sqnr_db"]].isna().all(axis=None)
    assert table.loc["weight", ["clipped_fraction", "sqnr_db"]].notna().all(axis=None)


def test_errors_are_those_of_the_weights_before_recovery(content) -> None:
    """Saturation and noise of a recovered weight, held against the weight of the float network."""
    graph, qparams, summaries = content
    generator = torch.Generator().manual_seed(3)
    constants = {
        name: value + 0.3 * value.std() * torch.randn(value.shape, generator=generator)
        if name in {q.name for q in graph.weights}
        else value
        for name, value in graph.graph.constants.items()
    }
    recovered = replace(graph, graph=replace(graph.graph, constants=constants))
    table = qparams_table(recovered, qparams, summaries, original=graph)
    for q in graph.weights:
        rows, grid = table[table["name"] == q.name], qparams[q.name]
        x, new = (network.graph.constants[q.name].double().flatten(1).numpy() for network in (graph, recovered))
        scale = grid.scale.double().numpy()[:, None]
        used = scale * np.clip(np.round(new / scale), grid.spec.qmin, grid.spec.qmax)
        noise = ((x - used) ** 2).sum(1)
        np.testing.assert_allclose(rows["sqnr_db"].to_numpy(float), 10 * np.log10((x**2).sum(1) / noise), rtol=1e-4)
        np.testing.assert_array_equal(
            rows["clipped_fraction"].to_numpy(float), clipped_fraction(graph.graph.constants[q.name], grid).numpy()
        )


def test_columns_of_numbers_are_numbers_even_where_some_are_missing(content) -> None:
    graph, qparams, summaries = content
    for seen in (summaries, {"input": summaries["input"]}, {}):
        table = qparams_table(graph, qparams, seen)
        numbers = ["scale", "lo", "hi", "clipped_fraction", "sqnr_db"]
        assert {table[column].dtype.kind for column in numbers} == {"f"}
        assert {table[column].dtype.kind for column in ("channel", "bits", "zero_point")} == {"i"}


def test_csv_keeps_every_digit(content, tmp_path) -> None:
    table = qparams_table(*content)
    table.to_csv(tmp_path / "q.csv", index=False)
    again = pd.read_csv(tmp_path / "q.csv")
    assert again["scale"].to_numpy(np.float32).tolist() == table["scale"].to_numpy(np.float32).tolist()


def test_sizes(content) -> None:
    graph, _, _ = content
    weights = 6 * 3 * 9 + 6 * 6 * 9 + 4 * 6
    biases = 6 + 6 + 4  # the folded convolutions got theirs from BatchNorm
    widths = {"conv1.weight": 8, "conv2.weight": 4, "linear.weight": 2}
    packed = 6 * 3 * 9 * 8 + 6 * 6 * 9 * 4 + 4 * 6 * 2
    assert quantized_megabytes(graph, widths) == pytest.approx((packed + 32 * biases) / 8e6)
    assert float_megabytes(Network(graph.graph)) == pytest.approx(4 * (weights + biases) / 1e6)
