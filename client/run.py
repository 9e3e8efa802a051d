"""Join the federation from one hospital: `python client/run.py --config site.yaml`."""

import os
import sys

# Python puts this file's folder first on the path, where any file named like a module would
# shadow it; wanted is the folder above. Only os and sys, loaded already, may be used here.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [os.path.dirname(HERE), *(p for p in sys.path if os.path.abspath(p) != HERE)]

from client.cli import main  # noqa: E402

if __name__ == "__main__":
    os.umask(0o077)  # what this site writes is for its account alone
    raise SystemExit(main())
