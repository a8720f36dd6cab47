# Makes a lab host that runs this script into one that dpkg can install on,
# with the machine's programs and a copy of dpkg's account of them, and nothing
# of the lab's in sight.
set -e
umount /run/skep-lab/bin /var/lib/skep
rmdir /var/lib/skep
for dir in /usr /var/cache /var/log; do
	over=/run/over$dir
	mkdir -p "$over/upper" "$over/work"
	mount -t overlay overlay -o "lowerdir=$dir,upperdir=$over/upper,workdir=$over/work" "$dir"
done
mkdir -p /var/lib/dpkg /var/lib/systemd /run/systemd/system
mount --bind /run/skep-lab/host/dpkg /var/lib/dpkg
install -m 0755 /run/skep-lab/host/systemctl /usr/local/bin/systemctl
rm -f /usr/sbin/policy-rc.d # a container's machine may forbid to start services
mount -o remount,bind,ro /
