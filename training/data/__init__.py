"""Data sets: ESC-50, folders in its layout, and custom data sets."""
