"""Jobs and results as JSON, MessagePack and NPZ, and arrays as PNG."""
