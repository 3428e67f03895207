"""The header readers, one for each container: plain Python, since gateway and worker read hostile bytes with them."""
