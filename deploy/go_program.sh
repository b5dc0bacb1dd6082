# Builds a program from its Go module, by name and version, and prints its path on stdout. Sourced by the scripts that
# say which program; they set the variables of the first lines below.
#
#   ${HSL_CACHE:-${XDG_CACHE_HOME:-~/.cache}/heterosync}/<name>-<version>/<name>
#
# The first time takes up to a minute; afterwards nothing is done but printing. The program appears under its name whole
# or not at all, so a build may be killed, or run twice at once. Go checks the module against its checksum database.
: "${NAME:?}" "${TITLE:?}" "${MODULE:?}" "${VERSION:?}" "${GO_NEEDED:?}" # what to build, and from which Go on
: "${PACKAGE:=.}" "${TAGS:=}" "${KEEP:=}" # the module's folder with the program; build tags; a file to keep beside it
: "${INSTEAD:=}"                          # what somebody without Go may do

folder="${HSL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/heterosync}/$NAME-$VERSION"
program="$folder/$NAME"
if [ -x "$program" ]; then
  echo "$program"
  exit 0
fi

fail() {
  echo "$TITLE $VERSION cannot be built: $*" >&2
  exit 1
}

is_older() { [ "$1" != "$2" ] && [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

command -v go >/dev/null || fail "Go is not installed. Install Go $GO_NEEDED or newer (https://go.dev/dl)$INSTEAD."
found=$(go env GOVERSION)
found=${found#go}
if is_older "${found%%[!0-9.]*}" "$GO_NEEDED"; then
  fail "this is Go $found and it needs $GO_NEEDED or newer (https://go.dev/dl)$INSTEAD."
fi

mkdir -p "$folder"
work=$(mktemp -d "${TMPDIR:-/tmp}/$NAME-build.XXXXXX")
trap 'rm -rf "$work" "$program.$$"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

echo "building $TITLE $VERSION (once; up to a minute)" >&2
facts=$(cd "$work" && GOWORK=off go mod download -json "$MODULE@v$VERSION") || fail "its module could not be had: $facts"
source=$(sed -n 's/^[[:space:]]*"Dir": "\(.*\)",\{0,1\}$/\1/p' <<<"$facts")
[ -d "$source" ] || fail "Go did not say where its module lies: $facts"
cp -r "$source" "$work/source" # Go's own copy is read-only, and `go install` refuses a go.mod with `replace`
chmod -R u+w "$work/source"
(cd "$work/source" &&
  GOWORK=off CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -tags "$TAGS" -o "$program.$$" "$PACKAGE") >&2 ||
  fail "see Go's messages above."
if [ -n "$KEEP" ]; then cp "$work/source/$KEEP" "$folder/"; fi
mv "$program.$$" "$program"
echo "$program"
