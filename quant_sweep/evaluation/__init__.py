"""What is measured of a quantized network."""
