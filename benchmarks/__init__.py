"""What makes the figures in the documentation. ``python dev.py bench [NAME]``."""
