"""Audio files: the table of formats, header readers, limits, decoders."""
