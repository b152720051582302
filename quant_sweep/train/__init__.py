"""The float baseline: SGD on an image set, resumable, best and last weights kept."""

from quant_sweep.train.config import TrainConfig
from quant_sweep.train.loop import TrainResult, train
from quant_sweep.train.state import EpochResult

__all__ = ["EpochResult", "TrainConfig", "TrainResult", "train"]
