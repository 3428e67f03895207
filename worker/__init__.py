"""The GPU side: takes jobs from the queue, decodes, batches, runs the network, stores what it saw."""
