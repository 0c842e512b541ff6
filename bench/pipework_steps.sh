# One attachment the way pipework makes it, program by program:
#   BRIDGE NSPID NETNS ADDRESS/LENGTH GATEWAY MAC [arping]
# NSPID stands for the container's process and makes the names; NETNS is the path of its namespace.
set -e
bridge=$1 nspid=$2 netns=$3 address=$4 gateway=$5 mac=$6 announce=${7-}
here=veth1pl$nspid there=veth1pg$nspid
within="ip netns exec $nspid"

mkdir -p /var/run/netns
rm -f "/var/run/netns/$nspid"
ln -s "$netns" "/var/run/netns/$nspid"

mtu=$(ip link show "$bridge" | awk '{print $5; exit}')
ip link add name "$here" mtu "$mtu" type veth peer name "$there" mtu "$mtu"
ip link set "$here" master "$bridge"
ip link set "$here" up
ip link set "$there" netns "$nspid"
$within ip link set "$there" name eth1
$within ip link set dev eth1 address "$mac"
$within ip addr add "$address" brd + dev eth1
$within ip route delete default >/dev/null 2>&1 || true
$within ip link set eth1 up
$within ip route get "$gateway" >/dev/null 2>&1 || $within ip route add "$gateway/32" dev eth1
$within ip route replace default via "$gateway" dev eth1
if [ "$announce" ]; then
  $within arping -c 1 -A -I eth1 "${address%/*}" >/dev/null 2>&1 || true
fi
rm -f "/var/run/netns/$nspid"
