"""The page of `cpep-edge live --web`: a small server, and in `page/` all that a browser loads from it."""
