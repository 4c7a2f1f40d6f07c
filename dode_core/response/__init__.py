"""How a checkpoint answers to being off its trajectory, and every run that follows from it.

Knows solve, tables, fit and learn.
"""
