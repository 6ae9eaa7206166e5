"""The process on the machine."""
