#!/bin/busybox sh
# The guest's first program: the host's root, read-only, with memory above it; then the script that the kernel's command line names.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
	insmod "$module" || echo "margay-vm: $module cannot be loaded"
done
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 host /host &&
	mount -t tmpfs memory /memory && mkdir /memory/upper /memory/work &&
	mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root /root || {
	echo "margay-vm: the host's root file system cannot be mounted"
	poweroff -f
}
script=$(sed -n 's/.*margay.script=\([^ ]*\).*/\1/p' /proc/cmdline)
for mounted in proc sys dev; do
	mount --move "/$mounted" "/root/$mounted"
done
exec switch_root /root /bin/sh "$script"
