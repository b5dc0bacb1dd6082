#!/usr/bin/env bash
# Make the secrets of a hub that are not there yet, one file each, in a folder for each service that needs them.
#
# A file that exists is never touched. The folder is closed to everybody else on this machine; inside it the files can be
# read, for in their containers the services are ordinary users of their own.
set -euo pipefail
umask 022
readonly folder="${1:-$(dirname "$0")/secrets}"

make_secret() { openssl rand -hex 24; }

# keep FILE VALUE: written whole or not at all
keep() {
  [ -e "$1" ] && return
  mkdir -p "$(dirname "$1")"
  printf '%s' "$2" >"$1.part"
  chmod 0444 "$1.part"
  mv "$1.part" "$1"
  echo "made $1"
}

mkdir -p "$folder"
chmod 0700 "$folder"
keep "$folder/coordinator/hsl_coordinator_admin_token" "$(make_secret)"
keep "$folder/hub/hsl_hub_admin_token" "$(make_secret)"
keep "$folder/coordinator/hsl_coordinator_hub_admin_token" "$(cat "$folder/hub/hsl_hub_admin_token")"
keep "$folder/postgres/postgres_password" "$(make_secret)"
keep "$folder/coordinator/hsl_coordinator_database_url" \
  "postgresql+psycopg://hsl:$(cat "$folder/postgres/postgres_password")@postgres/hsl"
