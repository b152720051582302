"""The report of an experiment, from what MLflow keeps alone: tables, pictures and one page; and that of one ranking.

`points` reads runs, `measured` says what a value is worth, `sections` makes the tables, `answer`, `study` and `kernels`
the short ones, `plots` and `page` show them, `build` writes; `sensitivity` ranks the layers of one network.
"""

from quant_sweep.report.build import Report, build_report
from quant_sweep.report.sensitivity import SensitivityTable, build_sensitivity_report

__all__ = ["Report", "SensitivityTable", "build_report", "build_sensitivity_report"]
