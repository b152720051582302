"""How few bits can a trained CNN take, with which calibration, and where does it break?"""

from quant_sweep.calibrate import calibrate
from quant_sweep.graph import quantizable
from quant_sweep.quantize import quantize
from quant_sweep.spec import QParams, QuantSpec

__all__ = ["QParams", "QuantSpec", "calibrate", "quantizable", "quantize"]
