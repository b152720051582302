"""Engines: the same grids, several ways to compute with them. One file each."""

from quant_sweep.engines.auto import Auto
from quant_sweep.engines.base import Engine, Flow
from quant_sweep.engines.builtin import Builtin
from quant_sweep.engines.int8 import Int8
from quant_sweep.engines.integer import Integer
from quant_sweep.engines.simulate import Simulate

__all__ = ["Auto", "Builtin", "Engine", "Flow", "Int8", "Integer", "Simulate"]
