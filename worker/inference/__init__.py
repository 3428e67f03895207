"""Batches, engines and the registry of models."""
