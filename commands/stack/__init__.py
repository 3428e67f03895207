"""`otoscope up`: every process on one machine."""
