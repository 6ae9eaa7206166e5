"""What ARM clients see: JSON to model and back, without I/O."""
