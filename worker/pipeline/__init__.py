"""One job from its claim to its stored result."""
