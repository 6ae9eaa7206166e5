"""What happens: use cases that load, ask the model, and save. No HTTP, no SQL."""
