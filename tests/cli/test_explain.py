"""quant-sweep-explain, typed as a person would."""

from pathlib import Path

import pytest
from terminal import Outcome, Workspace, quick

LAYERS = "conv1, layer1.0.conv1, layer1.0.conv2"


@pytest.fixture
def typed(workspace: Workspace, checkpoint: Path):
    return lambda *more: workspace.type("quant-sweep-explain", *quick(checkpoint), "images=16", *more)


def one_line(outcome: Outcome) -> str:
    assert outcome.code == 2, outcome.err
    others = ("Error executing job with overrides", "20")  # Hydra's line; MLflow's, which begin with the date
    (line,) = [line for line in outcome.err.splitlines() if line and not line.startswith(others)]
    assert line.startswith("quant-sweep-explain: ")
    return line.removeprefix("quant-sweep-explain: ")


@pytest.mark.parametrize(
    ("layer", "more"),
    [
        ("conv1", []),
        ("layer2.0.conv1", ["fusion=none", "scheme=symmetric", "weight_bits=3", "calibration=sequential"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_explains_any_layer(typed, workspace: Workspace, layer: str, more: list[str]) -> None:
    outcome = typed(f"layer={layer}", *more)
    assert outcome.code == 0, outcome.err
    for heading in ("The dataflow", "What the accumulator needs", "Numbers computed by hand", "The weights"):
        assert heading in outcome.out
    folder = workspace.folder / "outputs" / "explain"
    assert {path.name for path in folder.iterdir()} == {f"{layer}.md", f"{layer}.html"}
    assert outcome.out.splitlines()[-2:] == [
        f"Explanation: outputs/explain/{layer}.md",
        f"Explanation: outputs/explain/{layer}.html",
    ]
    assert (folder / f"{layer}.md").read_text().startswith(f"# {layer}, step by step\n")
    html = (folder / f"{layer}.html").read_text()
    assert "http://" not in html
    assert "https://" not in html
    assert not list(workspace.folder.glob("mlruns*")), "nothing is recorded"


def test_wrong_layer_lists_the_layers(typed) -> None:
    line = one_line(typed("layer=conv9"))
    assert line.startswith(f"layer=conv9: no convolution or linear layer is called like this; there are {LAYERS}")
    assert line.endswith("linear")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "layer=???: it must be given"),
        (["layer=conv1", "bits=1"], "bits=1: allowed are the whole numbers 2 to 16"),
        (["layer=conv1", "images=0"], "images=0: allowed are whole numbers from 1 to calibration.images=64"),
        (["layer=conv1", "images=65"], "images=65: allowed are whole numbers from 1 to calibration.images=64"),
        (["layer=conv1", "images=x"], "images=x: "),
        (["layer=conv1", "engine=builtin", "observer=hist"], "engine=builtin: it has its own flow"),
        (["layer=conv1", "observer=nonsense"], "observer=nonsense: there is none; allowed are entropy"),
        (["layer=conv1", "lyer=2"], "lyer=2: no such key; allowed are activation_bits, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(typed, workspace: Workspace, arguments: list[str], line: str) -> None:
    assert one_line(typed(*arguments)).startswith(line)
    assert not (workspace.folder / "outputs" / "explain").exists()
