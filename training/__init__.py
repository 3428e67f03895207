"""Data sets, recipes, training, evaluation and export. Imports `worker.model`, `worker.pipeline.windows` and `shared`;
only the command line imports this package."""
