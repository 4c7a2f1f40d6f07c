"""Checkpoints outside of any host."""
