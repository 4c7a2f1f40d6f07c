"""Sigmas to stages, the solvers, and the one loop that runs them. Knows only errors."""
