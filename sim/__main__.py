"""`python -m sim` is `medsa-sim`."""

from sim.run import main

if __name__ == "__main__":
    raise SystemExit(main())
