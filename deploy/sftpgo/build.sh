#!/usr/bin/env bash
# Build SFTPGo and print the path of the program; `go_program.sh` says how.
set -euo pipefail

readonly NAME=sftpgo TITLE=SFTPGo
readonly MODULE=github.com/drakkan/sftpgo/v2
readonly VERSION=2.7.5
readonly GO_NEEDED=1.25.8
# Local disk and users in bolt or PostgreSQL are all that is used: 30 MB instead of 80, and no C compiler.
readonly TAGS=nos3,nogcs,noazblob,nosqlite,nomysql,noportable
readonly KEEP=sftpgo.json # the settings it knows, by name: our tests compare
readonly INSTEAD=", or set HSL_SFTPGO to an sftpgo program"

. "$(dirname "${BASH_SOURCE[0]}")/../go_program.sh"
