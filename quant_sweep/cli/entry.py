"""Where the commands begin, before torch is imported: a Ctrl-C during those seconds is one line, too."""

from __future__ import annotations

import importlib

from quant_sweep.cli.signals import ended_by_signals


def sweep() -> None:
    """`quant-sweep`."""
    _run("quant-sweep", "sweep")


def train() -> None:
    """`quant-sweep-train`."""
    _run("quant-sweep-train", "train")


def report() -> None:
    """`quant-sweep-report`."""
    _run("quant-sweep-report", "report")


def explain() -> None:
    """`quant-sweep-explain`."""
    _run("quant-sweep-explain", "explain")


def sensitivity() -> None:
    """`quant-sweep-sensitivity`."""
    _run("quant-sweep-sensitivity", "sensitivity")


def ui() -> None:
    """`quant-sweep-ui`."""
    _run("quant-sweep-ui", "ui")


def allocate() -> None:
    """`quant-sweep-allocate`."""
    _run("quant-sweep-allocate", "allocate")


def _run(command: str, module: str) -> None:
    with ended_by_signals(command):
        importlib.import_module(f"quant_sweep.cli.{module}").main()
