"""HTTP itself: negotiation, uploads, problem documents, server-sent events."""
