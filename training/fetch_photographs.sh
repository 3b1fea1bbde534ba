#!/bin/sh
# Download the packages that ship the training images, and unpack them: fetch_photographs.sh FOLDER
# Needs apt-get with Debian's package lists (apt-get update) and pip. Nothing is installed.
set -eu

DEBIAN="lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds plasma-workspace-wallpapers ukui-wallpapers
opencv-doc tuxpaint-stamps-default"
PYPI="scikit-learn scikit-image matplotlib"

mkdir -p "$1"
folder=$(cd "$1" && pwd)
downloads=$(mktemp -d)
cd "$downloads"
for package in $DEBIAN; do
    apt-get download "$package"
    dpkg-deb -x "$package"_*.deb "$folder/$package"
done
for package in $PYPI; do
    pip download --no-deps --only-binary :all: --dest "$package" "$package"
    mkdir -p "$folder/$package"
    python3 -m zipfile -e "$package"/*.whl "$folder/$package"
done
rm -r "$downloads"
