"""`quant-sweep-report`: rebuild the table and the plots from MLflow alone."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from quant_sweep.cli import schema
from quant_sweep.cli.hydra_app import one_line_errors, run_hydra, take_flag
from quant_sweep.report import Report, build_report
from quant_sweep.report.escape import file_name
from quant_sweep.report.terminal import print_document
from quant_sweep.sweep.store import check_store
from quant_sweep.tracking import Tracker


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep-report"):
        full = take_flag("--full")
        run_hydra("report_config", lambda cfg: show_report(cfg, full), schema.Report)


def show_report(cfg: DictConfig, full: bool = False) -> None:
    """Write the report of an experiment below `outputs_dir`, print it, and where everything is.

    Args:
        full: print all of it and not one screen.
    """
    check_store(cfg.tracking)
    tracker = open_to_read(cfg.tracking)
    report = build_report(tracker.runs(), report_folder(cfg), Path(cfg.outputs_dir))
    tell(report, address_of(tracker, report), full)


def open_to_read(tracking: DictConfig) -> Tracker:
    """The experiment, which is there.

    Raises:
        InputError: no such store or experiment; nothing is created.
    """
    return Tracker.open_existing(tracking.uri, tracking.experiment, Path(tracking.lock_dir))


def report_folder(cfg: DictConfig) -> Path:
    """Where the report of the experiment lies."""
    return Path(cfg.outputs_dir) / "report" / file_name(cfg.tracking.experiment)


def address_of(tracker: Tracker, report: Report) -> str:
    """Where a browser finds the runs, sorted by the metric of the report."""
    return tracker.address(metric=report.metric.name, higher_is_better=report.metric.higher_is_better)


def tell(report: Report, address: str, full: bool) -> None:
    """Print a report, and where everything is."""
    print_document(report.document if full else report.brief, Console())
    print(f"Report: {report.folder / 'report.html'}")
    print(f"MLflow: {address}")
