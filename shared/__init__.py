"""What gateway and worker agree on. Imports neither side, and never torch."""
