"""Text and runs of strangers: nothing of them lives in a report, and nothing of them stops it."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from runs_table import frame, run

from quant_sweep.report import build_report
from quant_sweep.report.document import Chain, Document, Heading, Items, Paragraph, Table
from quant_sweep.report.escape import csv_safe, file_name, printable
from quant_sweep.report.html import html
from quant_sweep.report.markdown import markdown
from quant_sweep.report.terminal import print_document

INJECTIONS = [
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td></tr></table><script>", "<!-- x", "<?php x"),
    *(
        "<svg/onload=alert(1)>",
        "<iframe src='http://x'>",
        "javascript:alert(1)",
        "&lt;script&gt;",
        '"><script>x</script>',
    ),
    *("[a](http://evil)", "![a](http://evil/x.png)", "[a][b]", "[a]: http://evil", "`code` [x](y)", "**a** <b>"),
    *("a\n\n# heading", "a\r\n| x | y |", "a | b", "--- a", "a\tb", "\x0b\x0c"),
    *("\x1b[31mred", "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x9b31m", "a\u202eb", "\u2066x", "\u200bx", "\x00x", "\x7f"),
    *("=cmd|' /C calc'!A0", "+1+1", "-2+3+cmd", "@SUM(A1)", "\t=1+1", "\r=1+1", "[bold red]x[/]", "\udcff"),
    *("$\\foo{$", "a$b$c$", "$"),
]
STORED = [text for text in INJECTIONS if text != "\udcff"]  # no database has half a character
MARKUP = re.compile(r"<[A-Za-z/!?]")
LINK = re.compile(r"\]\(http|!\[a\]\(|\]\[b\]|\]: http")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")


def document(text: str) -> Document:
    table = Table(("name", text), ((text, "1"), ("x", text)), words=(text,))
    return Document(text, (Heading(text), Paragraph(f"See {text}."), Items((text,)), table, Chain(((text, text),))))


@pytest.mark.parametrize("text", INJECTIONS, ids=ascii)
def test_nothing_of_a_text_lives(text: str) -> None:
    shown = markdown(document(text))
    outside = re.sub(r"`[^`\n]*`", "", shown)
    assert not MARKUP.search(outside)
    assert not LINK.search(outside)
    assert not CONTROL.search(shown)
    page = html(document(text))
    own = html(document("x"))
    assert re.findall(r"<(\w+)", page.replace("<code>", "").replace("<strong>", "")) == re.findall(r"<(\w+)", own)
    assert not CONTROL.search(page)
    screen = io.StringIO()
    print_document(document(text), Console(file=screen, force_terminal=True, width=200, color_system=None))
    assert not CONTROL.search(re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue()))


@pytest.mark.parametrize("text", STORED, ids=ascii)
def test_a_cell_is_never_a_formula(text: str) -> None:
    written = csv_safe(pd.DataFrame({text: [text, "-1.5"], "n": [-1, 2]})).to_csv(index=False)
    header, first, second = csv.reader(io.StringIO(written))
    for cell in (header[0], first[0]):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert (second, first[1]) == (["-1.5", "2"], "-1"), "numbers stay numbers"


@pytest.mark.parametrize("text", [*INJECTIONS, "../../x", "/etc/passwd", "..", ".", "", "a/b", "a" * 300, "CON:"])
def test_a_file_name_stays_where_it_is_put(text: str, tmp_path: Path) -> None:
    name = file_name(text)
    assert re.fullmatch(r"[\w.-]{1,120}", name, re.ASCII)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert name not in (".", "..")


def test_different_texts_have_different_file_names() -> None:
    assert len({file_name(text) for text in ("a/b", "a_b", "a b", "../a_b", "a\\b")}) == 5
    assert file_name("quant_sweep") == "quant_sweep"


def test_printable_keeps_what_can_be_read() -> None:
    assert printable("é → 数 \x1b[1m\n") == "é → 数 \\x1b[1m "


STRANGE = [
    run(accuracy=250.0),
    run(accuracy=-1.0),
    run(accuracy=50.0, images=0),
    run(accuracy=50.0, images=2.5),
    run(accuracy=50.0, images=-3),
    run(accuracy=50.0, float_accuracy=101.0),
    run(accuracy=50.0, bits="eight"),
    run(accuracy=50.0, bits=-4),
    run(accuracy=50.0, weight_bits="", bits=""),
    {name: value for name, value in run(accuracy=50.0).items() if name != "params.bits"},
    run(accuracy=1e308),
]


def test_runs_of_others_are_shown_as_unusable(tmp_path: Path) -> None:
    good = run(accuracy=90.0, bits=8)
    report = build_report(frame(good, *STRANGE), tmp_path)
    assert "## Unusable runs" in report.text
    for record in STRANGE:
        assert str(record["run_id"]) in report.text
    assert "accuracy=250: no percentage" in report.text
    assert "no bit widths: bits=eight" in report.text
    assert "90.00" in report.text
    assert len(pd.read_csv(tmp_path / "points.csv")) == 1


def test_a_store_of_others_alone(tmp_path: Path) -> None:
    text = build_report(frame(*STRANGE), tmp_path).text
    assert text.startswith("# Quantization report\n\nNo points yet")
    assert "## Unusable runs" in text


def test_strange_settings_and_tags(tmp_path: Path) -> None:
    strange = [run(accuracy=50.0, observer=text, model=text, error=text, bits=4) for text in STORED]
    strange = [{**row, "tags.float_weights": str(row["params.model"])} for row in strange]
    strange.append({**run(accuracy=50.0), "metrics.simulate_agreement": 5.0, "start_time": float("nan")})
    strange.append(run("nonsense", accuracy=3.0))
    text = build_report(frame(*strange[-12:]), tmp_path).text
    assert not MARKUP.search(re.sub(r"`[^`\n]*`", "", text))
    assert not CONTROL.search(text)
