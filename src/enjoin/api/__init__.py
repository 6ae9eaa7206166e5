"""HTTP and WebSocket in, HTTP and WebSocket out."""
