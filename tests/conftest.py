"""Settings that all tests share."""

import os

from hypothesis import HealthCheck, settings

# Shared machines stall now and then, which says nothing about the code; CI repeats the same examples every time.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
