#!/usr/bin/env bash
# slurm/local/up.sh STATE_DIR : bring up munged + slurmctld + 2 slurmd on loopback, no systemd. Needs root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); STATE=$(readlink -m "$1"); HOST=$(hostname -s)
mkdir -p "$STATE"/{ctld,spool-e1,spool-e2,munge}
chmod 755 "$STATE" "$STATE/munge"
sed -e "s#@STATE@#$STATE#g" -e "s#@HOST@#$HOST#g" "$here/slurm.conf.in" > "$STATE/slurm.conf"
sed -e "s#@STATE@#$STATE#g" "$here/gres.conf.in" > "$STATE/gres.conf"
for i in 0 1; do [ -c "$STATE/fakegpu$i" ] || mknod "$STATE/fakegpu$i" c 1 3; done   # stand-ins for /dev/nvidia0,1
echo "CgroupPlugin=cgroup/v1" > "$STATE/cgroup.conf"
grep -qw e1 /etc/hosts || echo "127.0.0.1 e1 e2" >> /etc/hosts
export SLURM_CONF=$STATE/slurm.conf
[ -s "$STATE/munge/munge.key" ] || { dd if=/dev/urandom of="$STATE/munge/munge.key" bs=1024 count=1 status=none; chmod 400 "$STATE/munge/munge.key"; }
munged --force --key-file="$STATE/munge/munge.key" --socket="$STATE/munge/munge.socket" \
  --pid-file="$STATE/munge/munged.pid" --log-file="$STATE/munge/munged.log" --seed-file="$STATE/munge/munged.seed" --num-threads=2
slurmctld -i
for n in e1 e2; do slurmd -N $n || { tail -20 "$STATE/slurmd-$n.log"; exit 1; }; done
for i in $(seq 1 100); do
  [ "$(sinfo -h -N -p main -o '%N %t' 2>/dev/null | grep -c ' idle$')" = 2 ] && { echo "up after $i polls"; sinfo; exit 0; }
  sleep 0.2
done
sinfo; tail -20 "$STATE"/*.log; exit 1
