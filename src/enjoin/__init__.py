"""Azure Run Command as software that anyone can host."""

__version__ = "0.1.0"
