"""Sigmas and lambdas by the final error. Knows fit."""
