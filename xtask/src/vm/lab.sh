# Makes the guest a machine that labs can run on. Everything that is written goes to memory.
# The kernel takes the file systems away on its way out: a program that is started now could not be read any more, and the
# end of this one would be a panic.
power_off() {
	echo o >/proc/sysrq-trigger
	while :; do :; done
}
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p /lib/modules
mount --bind "$modules" /lib/modules
# The kernel asks for modules that are not there yet by this name.
ln -sf "$busybox" /sbin/modprobe
echo /sbin/modprobe >/proc/sys/kernel/modprobe
ip link set lo up
for driver in virtio_net igb e1000e veth tun; do
	modprobe "$driver" || echo "margay-vm: no module $driver"
done
