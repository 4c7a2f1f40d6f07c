"""The embedded demo model: a trained 32x32 emoji network, so that everything can be tried."""
