#!/bin/busybox sh
# The first process of a guest. Arguments after `--` on the kernel's command line arrive here.
/bin/busybox --install -s /bin
# The real `ip` and `tc` before those of busybox, which know no namespaces.
export PATH=/sbin:/bin HOME=/tmp CI=true RUST_BACKTRACE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
for place in /dev/shm /tmp /run; do mount -t tmpfs tmpfs $place; done
# What a kernel has built in, or does not have, is no failure here: what is missing shows where it is needed.
for module in virtio_pci virtio_net vmxnet3 veth tun bridge sch_tbf tls; do modprobe -q $module; done
ip link set lo up
stty -F /dev/ttyS1 raw
/guest "$@" >/dev/ttyS1
echo "guest ended with $?"
poweroff -f
