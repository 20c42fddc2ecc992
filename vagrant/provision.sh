#!/bin/bash
# provision.sh NAME: makes a machine one that thinpoolmgr can be tried on, with LVM, Docker, containerd and this project
# from its working tree.
# A step that fails is named, with the machine and the last lines of the log.
set -uo pipefail
name=${1:?}
log=/var/log/thinpoolmgr-provision.log
source=/srv/thinpoolmgr libraries=/opt/thinpoolmgr
export DEBIAN_FRONTEND=noninteractive

step() { # WHAT COMMAND...
    local what=$1 began=$SECONDS
    shift
    echo "== $what" >>"$log"
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        echo "provisioning of $name failed in the step: $what. The last lines of $log:"
        tail -n 15 "$log" | sed 's/^/    /'
        exit 1
    fi
    echo "$what: $((SECONDS - began)) s"
}

# Vagrant's own way restarts the network: a minute under emulation.
name_it() {
    echo "$name" >/etc/hostname && hostname "$name" &&
        { grep -q "127.0.1.1.*\b$name\b" /etc/hosts || echo "127.0.1.1 $name" >>/etc/hosts; }
}

install_packages() {
    local packages=(apparmor busybox-static containerd docker.io lvm2 python3 python3-pip thin-provisioning-tools xfsprogs)
    local missing=() package
    # what a box without pip has instead
    [[ -d $libraries ]] && packages=("${packages[@]/python3-pip/}")
    for package in ${packages[*]}; do
        [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *" installed" ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    # a public box looks for updates by itself, soon after it has booted
    local patience=(-o DPkg::Lock::Timeout=300)
    apt-get "${patience[@]}" update --quiet --quiet &&
        apt-get "${patience[@]}" install --quiet --quiet --yes --no-install-recommends "${missing[@]}"
}

install_libraries() {
    [[ -d $libraries ]] || pip3 install --quiet --target "$libraries" "$source"
}

install_program() {
    printf '#!/bin/sh\nPYTHONPATH=%s:%s exec python3 -m thinpoolmgr "$@"\n' "$source" "$libraries" >/usr/local/bin/thinpoolmgr &&
        chmod 755 /usr/local/bin/thinpoolmgr &&
        python3 -m compileall -q "$source/thinpoolmgr" &&
        sh "$source/packaging/install.sh" /usr/local &&
        systemctl daemon-reload && udevadm control --reload &&
        systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/thinpoolmgr.conf &&
        thinpoolmgr --version
}

# As on a node that is set up, and new: the units start at the next boot, no engine has begun with anything by itself.
enable_units() {
    systemctl stop docker.socket docker.service containerd.service &&
        rm -rf /var/lib/docker/* /var/lib/containerd/* &&
        systemctl enable --quiet thinpoolmgr-apply thinpoolmgr-monitor docker
}

step "host name" name_it
step "Debian packages" install_packages
step "Python libraries" install_libraries
step "thinpoolmgr and its units" install_program
step "units for the next boot" enable_units
