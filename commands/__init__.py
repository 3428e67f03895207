"""Commands that need the application."""
