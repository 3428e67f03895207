"""HTTP itself: content negotiation, uploads, problem documents, server-sent events, limits of the protocol."""
