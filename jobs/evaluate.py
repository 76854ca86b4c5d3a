"""`ftray evaluate` as a Ray job: ray job submit --working-dir . -- python jobs/evaluate.py MODEL"""

import sys

from ftray.cli.main import main

main("evaluate", *sys.argv[1:])
