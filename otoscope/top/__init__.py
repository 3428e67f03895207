"""`otoscope top`: the live screen."""
