# Runs the program of an image as the kubelet would: read-only root, no shell, few capabilities, seccomp apart.
# $1: the image's files; $2: a directory with a configuration, for /etc/weft. Inside new network and mount namespaces.
set -eu
root=$1

# The runtime makes the places for volumes before the root becomes read-only.
mkdir -p "$root/etc/weft"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind "$2" "$root/etc/weft"
mount -o remount,bind,ro "$root"
if touch "$root/run/xtables.lock" 2>/dev/null; then
    echo "the root is not read-only" >&2
    exit 1
fi

# A pod's network: an address and a default route.
ip link set lo up
ip link add eth0 type veth peer name peer
ip address add 192.168.255.2/24 dev eth0
ip -6 address add fd00:ffff::2/64 dev eth0 nodad 2>/dev/null || true
ip link set eth0 up
ip link set peer up
ip route add default via 192.168.255.1

# weft-init: root with NET_ADMIN and NET_RAW alone. chroot is what this script needs to get in.
init() {
    setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+net_admin,+net_raw,+sys_chroot \
        chroot "$root" /usr/local/bin/weft init "$@"
}
backends=nft
if printf '*nat\nCOMMIT\n' | iptables-legacy-restore 2>/dev/null; then
    backends="nft legacy"
else
    echo "this kernel has no legacy tables: legacy iptables is not checked"
fi
for backend in $backends; do
    echo "weft init --verify --backend $backend"
    init --verify --backend "$backend"
    init --remove
done

# weft-proxy: uid 2102 without any capability. Port 15021 (3AAD) listening is a proxy that has started.
echo "weft proxy"
setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+sys_chroot,+setuid,+setgid \
    chroot --userspec=2102:2102 --groups= "$root" /usr/local/bin/weft proxy &
proxy=$!
tries=0
until grep -q ':3AAD 0*:0000 0A' /proc/net/tcp /proc/net/tcp6; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ] || ! kill -0 "$proxy"; then
        echo "weft proxy does not listen on its health port" >&2
        exit 1
    fi
    sleep 0.05
done
grep -q '^Uid:	2102	2102	2102	2102$' "/proc/$proxy/status"
grep -q '^CapEff:	0000000000000000$' "/proc/$proxy/status"
kill -TERM "$proxy"
wait "$proxy"
