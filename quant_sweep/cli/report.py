"""`quant-sweep-report`: rebuild the table and the plots from MLflow alone."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from quant_sweep.cli.hydra_app import one_line_errors, run_hydra
from quant_sweep.cli.schema import Report
from quant_sweep.report import build_report
from quant_sweep.report.escape import file_name
from quant_sweep.report.terminal import print_document
from quant_sweep.sweep.store import check_store
from quant_sweep.tracking import read_runs


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep-report"):
        run_hydra("report_config", show_report, Report)


def show_report(cfg: DictConfig) -> None:
    """Write the report of an experiment below `outputs_dir` and print its table."""
    check_store(cfg.tracking)
    folder = Path(cfg.outputs_dir) / "report" / file_name(cfg.tracking.experiment)
    report = build_report(read_runs(cfg.tracking.uri, cfg.tracking.experiment), folder)
    print_document(report.document, Console())
    print(f"Report: {folder / 'report.md'}")
