"""Names and constants that gateway and worker must agree on."""

CONTRACT_VERSION = 1
