"""Teachers and the closed-form fit, stage by stage. Knows tables and solve."""
