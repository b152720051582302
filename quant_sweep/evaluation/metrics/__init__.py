"""What is measured of a network: one contract, one short class for each metric.

To add one: a final subclass of `Metric` here, its name below, a yaml in `conf/metric/`.
"""

from quant_sweep.evaluation.metrics.base import Batch, Metric
from quant_sweep.evaluation.metrics.chosen import auto
from quant_sweep.evaluation.metrics.classes import Agreement, MeanIoU, Top1, TopK
from quant_sweep.evaluation.metrics.own import Custom, custom, metric
from quant_sweep.evaluation.metrics.signals import PSNR, LogitSQNR, SquaredError

__all__ = [
    "PSNR",
    "Agreement",
    "Batch",
    "Custom",
    "LogitSQNR",
    "MeanIoU",
    "Metric",
    "SquaredError",
    "Top1",
    "TopK",
    "auto",
    "custom",
    "metric",
]
