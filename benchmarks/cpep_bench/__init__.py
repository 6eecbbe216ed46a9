"""Measure the cost of a bundle on this device: latency, memory, energy, and how each figure was measured."""
