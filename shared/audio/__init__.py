"""Audio files: headers, limits, decoding."""
