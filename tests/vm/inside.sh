#!/bin/sh
# Runs in the guest: RESULTS REPOSITORY PYTHON PYTEST-ARGUMENTS…
results=$1 repository=$2 python=$3
shift 3
exec >"$results/log" 2>&1 </dev/null
set -e
mkdir /run/host /run/layer /run/root
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000,access=any host /run/host
mount -t tmpfs -o size=75% layer /run/layer
mkdir /run/layer/upper /run/layer/work /run/results
mount --bind "$results" /run/results
mount -t overlay -o lowerdir=/run/host,upperdir=/run/layer/upper,workdir=/run/layer/work root /run/root
for folder in proc sys dev run; do mount --rbind "/$folder" "/run/root/$folder"; done
mount -t tmpfs tmp /run/root/tmp
modules=$(readlink -f /lib/modules/"$(uname -r)")
mkdir -p /run/root/lib/modules
ln -sfn "$modules" "/run/root/lib/modules/$(uname -r)"
set +e
export DUCTWORK_VM=1 CI=true PYTHONDONTWRITEBYTECODE=1 HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
cd /run/root
mount --move . /
exec chroot . sh -c '
cd "$1"
shift
for module in veth bridge br_netfilter vxlan 8021q macvlan ipvlan openvswitch ifb sch_tbf sch_ingress cls_u32 act_mirred dummy \
  sch_netem nf_tables nft_compat ip_tables ip6_tables overlay; do
  modprobe "$module" || echo "no module $module"
done
"$@"
echo $? >/run/results/status
' sh "$repository" "$python" -m pytest -p no:cacheprovider "$@"
