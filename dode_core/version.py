"""The version, in one place; pyproject.toml reads it from here."""

__version__ = "0.1.0"
PROGRAM = f"dode {__version__}"
