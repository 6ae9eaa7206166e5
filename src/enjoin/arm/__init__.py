"""What ARM clients see. Pure: JSON to model and back; no I/O."""
