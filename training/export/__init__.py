"""Export to ONNX, and calibration for 8-bit inference."""
