"""What agent and server say: the only vocabulary the two halves share."""
