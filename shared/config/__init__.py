"""Settings, and the URL of Redis."""
