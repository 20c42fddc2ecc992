#!/bin/sh
# Installs what makes boot and hot-plug work: udev rules, systemd units and drop-ins, tmpfiles; and the manual page and
# completions. The program itself is pip's, pipx's or the package's. `make install` calls it.
# usage: install.sh PREFIX [DESTDIR], with PREFIX as /usr or /usr/local
set -eu
prefix=${1:?} destination=${2:-}
case $prefix in
*[!A-Za-z0-9/._+-]*) # neither sed's pattern nor ExecStart= takes it as it is
    echo "install.sh: PREFIX may have letters, digits and /._+- only: $prefix" >&2
    exit 2
    ;;
esac
cd "$(dirname "$0")/.."

put() { # FOLDER FILE...
    folder=$destination$prefix/$1
    shift
    mkdir -p "$folder"
    for file; do
        # install(1) would not change the path of the program, which the units need in full
        sed "s|/usr/bin/thinpoolmgr |$prefix/bin/thinpoolmgr |" "$file" >"$folder/${file##*/}"
        chmod 644 "$folder/${file##*/}"
    done
}

put lib/udev/rules.d udev/*.rules
put lib/systemd/system systemd/*.service systemd/*.timer
for engine in docker containerd; do
    put "lib/systemd/system/$engine.service.d" "systemd/$engine.service.d/thinpoolmgr.conf"
done
put lib/systemd/catalog systemd/thinpoolmgr.catalog
put lib/tmpfiles.d systemd/tmpfiles.d/thinpoolmgr.conf
put share/man/man1 docs/man/thinpoolmgr.1
put share/bash-completion/completions packaging/completion/thinpoolmgr.bash
# bash looks for the name of the command alone
mv "$destination$prefix/share/bash-completion/completions/thinpoolmgr.bash" \
    "$destination$prefix/share/bash-completion/completions/thinpoolmgr"
put share/zsh/site-functions packaging/completion/_thinpoolmgr
put share/fish/vendor_completions.d packaging/completion/thinpoolmgr.fish

if [ -z "$destination" ] && [ -d /run/systemd/system ]; then
    # into the database that journalctl reads
    journalctl --update-catalog || echo "install.sh: journalctl -x does not know the codes yet" >&2
fi
