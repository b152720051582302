"""What calibration keeps of a tensor, and what a grid would do to it."""
