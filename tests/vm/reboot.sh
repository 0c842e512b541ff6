#!/bin/sh
# A machine that keeps what it has on a disk, and runs systemd: reboot_test.py boots it twice.
#   boot   the first process: prepares, and becomes systemd with Docker's units and ours
#   look   a service of its: what there is now, told line by line; then the power goes
set -eu
repository=$(cd "$(dirname "$0")/../.." && pwd)
results=/run/results
units=/usr/lib/systemd/system

boot() {
  modprobe -a virtio_blk ext4
  mkdir /run/disk
  mount /dev/vda /run/disk
  for folder in /var/lib/ductwork /var/lib/docker /var/lib/containerd /etc/ductwork /etc/docker; do
    mkdir -p "/run/disk$folder" "$folder"
    mount --bind "/run/disk$folder" "$folder"
  done
  # systemd's usual units would take minutes here; what is left is Docker, the agent, and what they are ordered by.
  mkdir /run/units
  for name in docker.service docker.socket containerd.service network.target network-online.target; do
    cp "$units/$name" /run/units
  done
  cp "$repository/packaging/ductwork.service" /run/units
  for name in sysinit basic sockets multi-user shutdown umount slices; do
    printf '[Unit]\nDefaultDependencies=no\n' >"/run/units/$name.target"
  done
  cat >/run/units/look.service <<END
[Unit]
Wants=docker.service ductwork.service
After=docker.service ductwork.service
[Service]
Type=oneshot
ExecStart=$repository/tests/vm/reboot.sh look
StandardOutput=append:$results/$DUCTWORK_VM.log
StandardError=inherit
Environment=DUCTWORK_VM=$DUCTWORK_VM
END
  for place in /usr/lib/tmpfiles.d /usr/lib/systemd/system-generators /etc/systemd/system $units; do
    mount -t tmpfs none "$place"
  done
  cp /run/units/* $units
  for name in docker ductwork look; do
    mkdir -p /etc/systemd/system/multi-user.target.wants
    ln -s "$units/$name.service" /etc/systemd/system/multi-user.target.wants
  done
  mkdir -p /etc/systemd/system/ductwork.service.d
  printf '[Service]\nStandardError=append:%s\n' "$results/$DUCTWORK_VM.agent" >/etc/systemd/system/ductwork.service.d/log.conf
  # As installed: neither it nor Python in a home, which the unit hides.
  python=$(readlink -f "$repository/.venv/bin/python")
  mkdir -p /opt/ductwork /opt/python
  mount --bind "$repository" /opt/ductwork
  mount --bind "$(dirname "$(dirname "$python")")" /opt/python
  cat >/usr/local/bin/ductwork <<END
#!/bin/sh
PYTHONPATH=/opt/ductwork/src:$(echo "$repository"/.venv/lib/python3*/site-packages | sed "s|^$repository|/opt/ductwork|")
LD_LIBRARY_PATH=/opt/python/lib  # else another libpython is found
export PYTHONPATH LD_LIBRARY_PATH
exec /opt/python/bin/$(basename "$python") -m ductwork "\$@"
END
  chmod 755 /usr/local/bin/ductwork
  [ -e /etc/ductwork/site.yaml ] || cp "$results/site.yaml" /etc/ductwork
  [ -e /etc/docker/daemon.json ] || echo '{"bridge": "br0", "fixed-cidr": "10.1.1.128/25"}' >/etc/docker/daemon.json
  # As on a machine: systemd takes this one for a container where the files come from one, and leaves mounts private then.
  rm -f /.dockerenv /run/.containerenv
  exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
}

within() { # SECONDS COMMAND…: until it succeeds, or all is over
  left=$1
  shift
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || { echo "never: $*"; sync; busybox poweroff -f; }
    sleep 1
  done
}

look() {
  cd /
  within 60 docker version
  if ! docker inspect web >/dev/null 2>&1; then
    first=yes
    tar -C / -c bin/busybox | docker import - busybox >/dev/null
    docker run --detach --name web --net none --restart always busybox /bin/busybox sleep 36000 >/dev/null
    docker run --detach --name bridged --restart always busybox /bin/busybox sleep 36000 >/dev/null
  fi
  within 60 ping -c 1 -W 1 10.1.1.2
  pid=$(docker inspect --format '{{.State.Pid}}' web)
  echo "web: $(nsenter -t "$pid" -n ip -br link show dev eth1 | awk '{print $3}') $(nsenter -t "$pid" -n ip -br address show dev eth1 | awk '{print $3}')"
  [ "${first-}" = yes ] || look_closer
  echo "up for: $(cut -d. -f1 /proc/uptime) s"
  sync
  echo 0 >"$results/$DUCTWORK_VM.status"
  busybox poweroff -f
}

look_closer() {
  pid=$(docker inspect --format '{{.State.Pid}}' bridged)
  echo "bridged by Docker: $(nsenter -t "$pid" -n ping -c 1 -W 5 10.1.1.2 >/dev/null && echo reaches web)"
  before=$(systemctl show --value --property ActiveEnterTimestampMonotonic ductwork)
  after=$(systemctl show --value --property ExecMainStartTimestampMonotonic docker)
  echo "before Docker: $([ "$before" -lt "$after" ] && echo yes)"
  echo "started again: $(systemctl show --value --property NRestarts ductwork docker | xargs)"
  grep -E "^(NoNewPrivs|Seccomp|CapEff):" "/proc/$(systemctl show --value --property MainPID ductwork)/status"
  # A name that is new is a mount that is new, which must get into the unit's own tree.
  ip netns add late
  within 60 ping -c 1 -W 1 10.1.1.3
  ip address del 10.1.1.1/24 dev br0
  within 60 ping -c 1 -W 1 10.1.1.2
  nft flush ruleset
  within 60 nft list table inet ductwork
  systemctl restart ductwork
  echo "agent: $(systemctl is-active ductwork)"
  echo "journal: $(find /run/ductwork -name lock | wc -l)"
}

"$1"
