"""`ftray train` as a Ray job: ray job submit --working-dir . -- python jobs/train.py SPEC"""

import sys

from ftray.cli.main import main

main("train", *sys.argv[1:])
