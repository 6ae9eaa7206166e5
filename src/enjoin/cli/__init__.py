"""The `enjoin` command: composition roots of server and agent, and one module per noun of the client."""
