"""Observers: from what calibration saw to the range that the grid should cover. One file each."""

from quant_sweep.observers.base import Observer
from quant_sweep.observers.entropy import Entropy
from quant_sweep.observers.fake_hist import FakeHist
from quant_sweep.observers.hist import Hist
from quant_sweep.observers.minmax import MinMax
from quant_sweep.observers.moving_average import MovingAverage
from quant_sweep.observers.mse import MSE

__all__ = ["MSE", "Entropy", "FakeHist", "Hist", "MinMax", "MovingAverage", "Observer"]
