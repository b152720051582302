"""The grids of one network on one screen."""

import pandas as pd
from whole_page import pictures_of

from quant_sweep.report.activations import activations_note, activations_page

TABLE = pd.DataFrame(
    {
        "name": ["input", "a|b<c>"],
        "readers": ["conv1", "conv2 add"],
        "bits": [4, 4],
        "scale": [0.29244712345, 1e-9],
        "zero_point": [7, 0],
        "lo": [-2.047, 0.0],
        "hi": [2.34, 1.5],
        "sqnr_db": [22.21, float("inf")],
        "clipped_fraction": [0.011, 0.0],
        "lsb": pd.array([1, None], dtype="Int64"),
        "differing": [0.0005, float("nan")],
    }
)


def test_a_page_shows_what_is_known() -> None:
    page = activations_page("4b mse <x>", TABLE)
    assert pictures_of(page) == []
    assert "4b mse &lt;x&gt;" in page
    cells = ["input", "conv1", "4", "0.292447", "7", "-2.047", "2.34", "22.2", "1.1", "1", "0.05"]
    assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    assert "<td>∞</td><td>0</td><td></td><td></td>" in page, "what was not compared is empty"
    uncompared = TABLE.assign(lsb=pd.array([None, None], dtype="Int64"), differing=float("nan"))
    assert "LSB" not in activations_page("t", uncompared)


def test_a_note_is_a_table_of_markdown() -> None:
    head, line, first, second = activations_note(TABLE).splitlines()
    assert {text.count("|") for text in (head, line, first, second)} == {8}
    assert first == "|`input`|conv1|0.292447|7|-2.047|2.34|22.2|"
    assert second.startswith("|`a/b<c>`|conv2 add|1e-09|0|")
