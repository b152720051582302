"""Side-by-side measurements: ratios within one run, never seconds alone. `python -m benchmarks --help`."""
