"""What a kill or a damaged file may do, counted: `python -m torture`. Not part of the package."""
