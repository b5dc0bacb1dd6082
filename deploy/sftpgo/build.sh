#!/usr/bin/env bash
# Build SFTPGo from its Go module, by name and version, and print the path of the program on stdout.
#
#   ${HSL_CACHE:-${XDG_CACHE_HOME:-~/.cache}/heterosync}/sftpgo-<version>/sftpgo
#
# The first time takes about a minute; afterwards nothing is done but printing. The program appears under its name whole
# or not at all, so a build may be killed, or run twice at once. Go checks the module against its checksum database.
set -euo pipefail

readonly MODULE=github.com/drakkan/sftpgo/v2
readonly VERSION=2.7.5
readonly GO_NEEDED=1.25.8
# Local disk and users in bolt or PostgreSQL are all that is used: 30 MB instead of 80, and no C compiler.
readonly TAGS=nos3,nogcs,noazblob,nosqlite,nomysql,noportable

folder="${HSL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/heterosync}/sftpgo-$VERSION"
program="$folder/sftpgo"
if [ -x "$program" ]; then
  echo "$program"
  exit 0
fi

fail() {
  echo "SFTPGo $VERSION cannot be built: $*" >&2
  exit 1
}

is_older() { [ "$1" != "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

command -v go >/dev/null ||
  fail "Go is not installed. Install Go $GO_NEEDED or newer (https://go.dev/dl), or set HSL_SFTPGO to an sftpgo program."
found=$(go env GOVERSION)
found=${found#go}
if is_older "${found%%[!0-9.]*}" "$GO_NEEDED"; then
  fail "this is Go $found and it needs $GO_NEEDED or newer (https://go.dev/dl); or set HSL_SFTPGO to an sftpgo program."
fi

mkdir -p "$folder"
work=$(mktemp -d "${TMPDIR:-/tmp}/sftpgo-build.XXXXXX")
trap 'rm -rf "$work" "$program.$$"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "building SFTPGo $VERSION (once; about a minute)" >&2
facts=$(cd "$work" && GOWORK=off go mod download -json "$MODULE@v$VERSION") || fail "its module could not be had: $facts"
source=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$facts")
[ -d "$source" ] || fail "Go did not say where its module lies: $facts"
cp -r "$source" "$work/source" # Go's own copy is read-only, and `go install` refuses a go.mod with `replace`
chmod -R u+w "$work/source"
(cd "$work/source" &&
  GOWORK=off CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -tags "$TAGS" -o "$program.$$" .) >&2 ||
  fail "see Go's messages above."
cp "$work/source/sftpgo.json" "$folder/" # the settings it knows, by name: our tests compare
mv "$program.$$" "$program"
echo "$program"
