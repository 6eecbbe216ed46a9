"""Short programs on top of `cpep_edge.live` and `live --record`, to begin one's own from."""
