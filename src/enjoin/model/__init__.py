"""What is true: frozen values and pure functions; no I/O, no clock, no logging."""
