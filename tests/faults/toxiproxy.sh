#!/usr/bin/env bash
# Build toxiproxy, the proxy of the fault tests, and print the path of the program; `deploy/go_program.sh` says how.
set -euo pipefail

readonly NAME=toxiproxy TITLE=toxiproxy
readonly MODULE=github.com/Shopify/toxiproxy/v2
readonly VERSION=2.12.0
readonly GO_NEEDED=1.23.0
readonly PACKAGE=./cmd/server

. "$(dirname "${BASH_SOURCE[0]}")/../../deploy/go_program.sh"
