"""Winning back, without labels, what quantization lost. One file each."""

from quant_sweep.recovery.adaround import AdaRound
from quant_sweep.recovery.base import Inputs, Learner, LearningTask, OnGrids, Recovery
from quant_sweep.recovery.batch_norm import BatchNormStatistics
from quant_sweep.recovery.bias import Bias
from quant_sweep.recovery.distill import Distill
from quant_sweep.recovery.equalize import Equalize
from quant_sweep.recovery.reconstruct import Reconstruct
from quant_sweep.recovery.recover import Recovered, Step, check_enough, is_kept_out, recover, recover_once, split_off
from quant_sweep.recovery.weight_range import WeightRange

__all__ = [
    "AdaRound",
    "BatchNormStatistics",
    "Bias",
    "Distill",
    "Equalize",
    "Inputs",
    "Learner",
    "LearningTask",
    "OnGrids",
    "Reconstruct",
    "Recovered",
    "Recovery",
    "Step",
    "WeightRange",
    "check_enough",
    "is_kept_out",
    "recover",
    "recover_once",
    "split_off",
]
