"""Data, recipe, training, evaluation. Imports worker.model and shared; nobody imports it but the command line."""
