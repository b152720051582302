"""The report of an experiment, from what MLflow keeps alone: tables, pictures and one page.

`points` reads runs, `sections` makes the tables, `answer`, `study` and `kernels` the short ones, `plots` and `page`
show them, `build` writes.
"""

from quant_sweep.report.build import Report, build_report

__all__ = ["Report", "build_report"]
