"""Evaluation: metrics, calibration, cross-validation, reports and model cards."""
