#!/usr/bin/env bash
# end only the daemons that up.sh started, by their pid files
STATE=$(readlink -m "$1")
for f in "$STATE"/slurmd-e1.pid "$STATE"/slurmd-e2.pid "$STATE"/slurmctld.pid "$STATE"/munge/munged.pid; do
  [ -s "$f" ] && kill "$(cat "$f")" 2>/dev/null
done; true
