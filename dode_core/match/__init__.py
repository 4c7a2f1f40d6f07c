"""Which table serves a run, and how. Knows tables and solve."""
