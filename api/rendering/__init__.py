"""Results as JSON, MessagePack, NPZ and PNG."""
