"""`ftray predict` as a Ray job: ray job submit --working-dir . -- python jobs/predict.py MODEL"""

import sys

from ftray.cli.main import main

main("predict", *sys.argv[1:])
