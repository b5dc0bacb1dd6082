#!/usr/bin/env bash
# An alliance in containers, from deploy/compose.yaml as it is: hub and three sites, two rounds, the runbook's procedures.
#
# Needs root, Debian's docker.io and debootstrap, and Go (for SFTPGo and Docker Compose; both are built once and kept outside
# the tree). Everything it starts it ends; its engine's data is in a temporary folder. About 8 GB of disk while it runs.
#
# Exit status 0: passed, or this machine's kernel lets nobody make containers (said plainly). 1: failed. Without an engine it
# says what to install; that is a failure with CI=true only.
set -euo pipefail
cd "$(dirname "$0")/../.."
make --no-print-directory .venv/.installed
exec env PYTHONPATH=. .venv/bin/python -m tests.compose.run "$@"
