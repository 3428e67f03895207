"""The gateway: HTTP in, HTTP out. Light: no torch, no native decoder, no training package."""
