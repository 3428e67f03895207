"""Code that gateway and worker share. It imports neither of them, and never torch."""
