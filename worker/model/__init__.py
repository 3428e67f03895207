"""The network, its front end and the directory format that carries both."""
