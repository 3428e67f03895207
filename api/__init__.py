"""The gateway: the HTTP API and the page. It imports no torch, no native decoder and nothing of training."""
