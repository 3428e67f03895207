"""Batches on the device."""
