#!/bin/sh
# Make an ONNXRUNTIME_ROOT without a compiler: the library out of the Python package onnxruntime, the headers, which that
# package lacks, out of Debian's libonnxruntime-dev. Usage: onnxruntime_root.sh FOLDER, with onnxruntime installed in python3.
set -eu
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$root/include" "$root/lib" "$work/lists/partial"
root=$(cd "$root" && pwd)
capi=$(python3 -c 'import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec("onnxruntime").origin).parent / "capi")')
for library in "$capi"/libonnxruntime.so.*; do
  soname=libonnxruntime.so.1
  cp "$library" "$root/lib/$soname"  # not linked: the package may be updated
  ln -sf "$soname" "$root/lib/libonnxruntime.so"
done
# Debian has the package from release 13 on; an older system asks the same mirror for that release.
mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[.*\] \)\?\([^ ]*\).*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources \
  2> /dev/null | grep -v security | head -n 1)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror trixie main" > "$work/debian.list"
options="-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts=$work -o Dir::State::lists=$work/lists -o APT::Sandbox::User=root"
cd "$work"
apt-get $options -qq update
apt-get $options -qq download libonnxruntime-dev
dpkg -x libonnxruntime-dev_*.deb headers
cp headers/usr/include/onnxruntime/*.h "$root/include"
