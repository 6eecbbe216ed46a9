"""The page of `cpep-edge live --web`: a small server, and in `page/` the files that a browser loads from it."""
