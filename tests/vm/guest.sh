#!/bin/sh
# The first process of the guest, on the root that machine.py made: REPOSITORY MODULES COMMAND…
set -eu
repository=$1 modules=$2
shift 2
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TMPDIR=/run/tmp

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 run /run
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /run/results /run/tmp "/lib/modules/$(uname -r)"
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t 9p -o trans=virtio,version=9p2000.L results /run/results
mount --bind "$modules" "/lib/modules/$(uname -r)"
for name in fd fd/0:stdin fd/1:stdout fd/2:stderr; do ln -sfn "/proc/self/${name%:*}" "/dev/${name#*:}"; done
exec >"/run/results/$DUCTWORK_VM.log" 2>&1 </dev/null

echo vm >/proc/sys/kernel/hostname
ip link set dev lo up
ulimit -n 65536
# The kernel loads the others when they are asked for.
modprobe -a br_netfilter openvswitch tun

cd "$repository"
status=0
"$@" || status=$?
echo "$status" >"/run/results/$DUCTWORK_VM.status"
busybox poweroff -f
