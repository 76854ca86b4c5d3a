"""`python -m ftray.job`: the `ftray` command within a submitted job."""

from ftray.cli.main import main
from ftray.cluster.environment import unpack

if __name__ == "__main__":
    unpack()
    main()
