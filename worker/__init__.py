"""The inference worker: claims jobs from the queue, decodes, batches, runs the network, stores the results."""
