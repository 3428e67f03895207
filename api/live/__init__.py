"""Live classification: sound that arrives over a WebSocket, as windows that are jobs of the queue."""
