"""`python -m sim` is `medsa-sim`."""

from sim.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
