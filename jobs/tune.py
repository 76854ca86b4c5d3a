"""`ftray tune` as a Ray job: ray job submit --working-dir . -- python jobs/tune.py SPEC"""

import sys

from ftray.cli.main import main

main("tune", *sys.argv[1:])
