"""Full-precision CPEP training: corpora, simulation, the model, its three stages and their evaluation."""
