#!/bin/sh
# The agent of one site: joins the alliance at its first start, then serves. Joining again with the same code is harmless
# until the agent has spoken for the first time, so a start that is killed in between is simply repeated.
set -eu

if [ ! -e "$HSL_NODE_WORKDIR/node.json" ]; then
  if [ -z "${HSL_NODE_COORDINATOR_URL:-}" ] || [ -z "${HSL_ENROLMENT_CODE:-}" ]; then
    echo "This site has not joined an alliance: write HSL_COORDINATOR_URL and HSL_ENROLMENT_CODE, as the alliance gave" \
      "them to you, into deploy/.env and start again." >&2
    exit 78
  fi
  hsl node enrol --coordinator "$HSL_NODE_COORDINATOR_URL" --code "$HSL_ENROLMENT_CODE"
fi
unset HSL_ENROLMENT_CODE
exec hsl node serve
