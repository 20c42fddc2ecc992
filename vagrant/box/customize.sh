#!/bin/sh
# Makes a Debian tree one that Vagrant can use: its user and well-known key, a network, ssh. $1 is the tree.
set -eu
tree=${1:?}
key=$(find /usr/share/rubygems-integration /usr/share/vagrant /opt/vagrant -path '*keys/vagrant.pub' 2>/dev/null | head -n 1)
[ "$key" ] || { echo "box: Vagrant's public key is not on this machine: is vagrant installed?" >&2; exit 1; }

chroot "$tree" useradd --create-home --shell /bin/bash vagrant
install -d -m 700 "$tree/home/vagrant/.ssh"
install -m 600 "$key" "$tree/home/vagrant/.ssh/authorized_keys"
chroot "$tree" chown -R vagrant:vagrant /home/vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$tree/etc/sudoers.d/vagrant"
chmod 440 "$tree/etc/sudoers.d/vagrant"
echo 'UseDNS no' >>"$tree/etc/ssh/sshd_config"

cat >"$tree/etc/systemd/network/80-dhcp.network" <<'N'
[Match]
Name=en* eth*
[Network]
DHCP=ipv4
LinkLocalAddressing=no
N
chroot "$tree" systemctl --quiet enable systemd-networkd ssh
# off until they have a pool: to start them at the first boot is half a minute under emulation
chroot "$tree" systemctl --quiet disable docker.socket docker.service containerd.service
chroot "$tree" systemctl --quiet mask systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer getty@tty1.service \
    modprobe@drm.service modprobe@efi_pstore.service
echo '/dev/root / ext4 defaults,noatime 0 1' >"$tree/etc/fstab"
echo box >"$tree/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 box\n' >"$tree/etc/hosts"
: >"$tree/etc/machine-id"
