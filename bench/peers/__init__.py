"""The same network behind other people's servers, for bench/peers.py: one module a server, and what they share."""
