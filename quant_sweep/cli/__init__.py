"""The commands. They say how threads wait before torch is imported, which is when OpenMP reads it."""

from quant_sweep.cli.waiting import wait_passively

wait_passively()
