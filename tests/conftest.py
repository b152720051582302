"""Settings and fixtures that all tests share."""

import logging
import os

import pytest
from hypothesis import HealthCheck, Phase, settings

# Shared machines stall now and then, which says nothing about the code; CI repeats the same examples every time.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
# make mutate asks only whether a test fails, not on which least example.
settings.register_profile("mutate", settings.get_profile("ci"), phases=set(Phase) - {Phase.shrink, Phase.explain})
settings.load_profile("ci" if os.environ.get("CI") else "local")

# torch traces every export for whoever listens, thousands of records that pytest would keep.
logging.getLogger("torch.__trace").setLevel(logging.WARNING)
logging.getLogger("torch.__trace").propagate = False


@pytest.fixture(scope="module")
def exact_int8() -> int:
    """How many bits the weights of `Int8` may have on this CPU; tests that ask are skipped where it has no kernels."""
    from exact_kernels import WEIGHT_BITS, needs_int8  # not where nobody asks: it imports torch

    if needs_int8.args[0]:
        pytest.skip(needs_int8.kwargs["reason"])
    return WEIGHT_BITS
