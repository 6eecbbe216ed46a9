"""What a bundle costs on the device at hand: latency, memory, and how each figure was got."""
