#!/bin/bash
# Makes a machine one that thinpoolmgr can be tried on: LVM, Docker and containerd, and this project from its working tree.
# A step that fails is named, with the machine and the last lines of the log.
set -uo pipefail
log=/var/log/thinpoolmgr-provision.log
source=/srv/thinpoolmgr libraries=/opt/thinpoolmgr
export DEBIAN_FRONTEND=noninteractive

step() { # NAME COMMAND...
    local name=$1 began=$SECONDS
    shift
    echo "== $name" >>"$log"
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        echo "provisioning of $(hostname) failed in the step: $name. The last lines of $log:"
        tail -n 15 "$log" | sed 's/^/    /'
        exit 1
    fi
    echo "$(hostname): $name: $((SECONDS - began)) s"
}

install_packages() {
    local packages=(containerd docker.io lvm2 python3 python3-pip rsync thin-provisioning-tools xfsprogs) missing=() package
    # what a box without pip has instead
    [[ -d $libraries ]] && packages=("${packages[@]/python3-pip/}")
    for package in ${packages[*]}; do
        [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == *" installed" ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    apt-get update --quiet --quiet
    apt-get install --quiet --quiet --yes --no-install-recommends "${missing[@]}"
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

# The engines are off until a story has given them a pool: what they begin with by themselves is not wanted.
stop_engines() {
    systemctl disable --now docker.socket docker.service containerd.service &&
        rm -rf /var/lib/docker/* /var/lib/containerd/*
}

step "Debian packages" install_packages
step "Python libraries" install_libraries
step "thinpoolmgr and its units" install_program
step "engines off" stop_engines
