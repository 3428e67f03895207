"""The training loop: set-up, augmentation, loss, optimizer, schedule, weight averaging, checkpoints."""
