"""`python -m cpep_edge`: the same as the command `cpep-edge`."""

from cpep_edge.cli import main

if __name__ == "__main__":
    main()
