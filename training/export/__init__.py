"""ONNX and 8-bit export."""
