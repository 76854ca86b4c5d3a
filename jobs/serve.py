"""`ftray serve` as a Ray job: ray job submit --working-dir . -- python jobs/serve.py MODEL"""

import sys

from ftray.cli.main import main

main("serve", *sys.argv[1:])
