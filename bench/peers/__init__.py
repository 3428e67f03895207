"""The same network behind other inference servers, for bench/peers.py: one module for each server, and common code."""
