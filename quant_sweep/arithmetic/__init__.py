"""Integer grids and the arithmetic on them: pure functions, no networks."""
