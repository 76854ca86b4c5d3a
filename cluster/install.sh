#!/usr/bin/env bash
# What `ray up` runs on each node: ftray with all it trains with, in an environment that is first on PATH.
set -euo pipefail

environment=$HOME/ftray-env
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --constraint constraints.txt '.[train]'

# The launcher's shells read it before they run `ray`.
line="export PATH=\"$environment/bin:\$PATH\""
grep -qxF "$line" ~/.bashrc || echo "$line" >>~/.bashrc
