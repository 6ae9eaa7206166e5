"""Where what is true is kept: the contract, and the databases behind it."""
