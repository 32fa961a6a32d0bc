#!/usr/bin/env bash
# Tries what the pages say of Docker, on an engine of its own that touches nothing of this machine: its network is a namespace,
# and all that it makes lies in one folder. The base images are stand-ins made of Debian's packages, so no registry is needed.
#
#   scripts/docker-try.sh target/debug/tollgate [--install] [--source] [--only WORD]
#
# --install installs what is missing (Debian, as root); --source builds the image from source too, which takes ten minutes.
# Where no engine can be started it says NOT CHECKED and why, and ends well: what needs no engine is checked by
# docker-context.sh and deploy-check.sh. It is done by docker_try.py; here an engine comes and goes.
set -euo pipefail
binary=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
install=''
arguments=()
while [[ $# -gt 0 ]]; do
  case $1 in
    --install) install=yes ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

not_checked() {
  printf 'NOT CHECKED: Docker: %s\n' "$1"
  exit 0
}

[[ $(id -u) -eq 0 ]] || not_checked 'an engine of its own needs root'
missing=()
[[ -x /usr/sbin/dockerd || -x /usr/bin/dockerd ]] || missing+=(docker.io)
command -v iptables >/dev/null || missing+=(iptables)
command -v ip >/dev/null || missing+=(iproute2)
command -v nsenter >/dev/null || missing+=(util-linux)
if [[ ${#missing[@]} -gt 0 && -n $install ]]; then
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || true
fi
for what in dockerd iptables ip nsenter apt-get dpkg; do
  command -v "$what" >/dev/null || [[ -x /usr/sbin/$what ]] || not_checked "there is no $what"
done
export PATH=$PATH:/usr/sbin

# Not below /tmp where that is in memory: layers are large.
home=$(mktemp -d "${DOCKER_TRY_FOLDER:-/var/tmp}/tollgate-docker-XXXXXX")
net=tollgate-${home##*-}
engine=''
trial=''
docker=/usr/bin/docker
[[ -x $docker ]] || docker=$(command -v docker)
export DOCKER=$docker
# Called when it ends, however that comes about.
# shellcheck disable=SC2317
clean_up() {
  trap '' INT TERM HUP
  set +e
  if [[ -n $trial ]]; then
    kill "$trial" 2>/dev/null
    wait "$trial" 2>/dev/null
  fi
  if [[ -n $engine ]]; then
    timeout 60 "$docker" ps -aq 2>/dev/null | xargs -r timeout 60 "$docker" rm -f >/dev/null 2>&1
    kill "$engine" 2>/dev/null
    for _ in $(seq 100); do kill -0 "$engine" 2>/dev/null || break; sleep 0.2; done
    kill -9 "$engine" 2>/dev/null
    wait "$engine" 2>/dev/null
    # Whatever it started and did not end: all of that is in our namespace, and nothing else is.
    ip netns pids "$net" 2>/dev/null | xargs -r kill -9
  fi
  awk -v home="$home/" 'index($2, home) == 1 { print $2 }' /proc/mounts | sort -r | while read -r at; do umount -l "$at"; done
  ip netns delete "$net" 2>/dev/null
  rm -rf "$home"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir -p "$home"/{home/.docker/cli-plugins,lists/partial,cache/archives/partial,debs,tmp}
# The user of a Postgres has to come through.
chmod 711 "$home" "$home/tmp"
own_home=$HOME
export HOME=$home/home TMPDIR=$home/tmp DOCKER_HOST=unix://$home/sock DOCKER_BUILDKIT=1 BUILDX_NO_DEFAULT_ATTESTATIONS=1

# Compose 2 and buildx, where this Debian has them or the next one does.
mirror=$(sed -n 's/^URIs: \(.*debian\)$/\1/p; s/^deb \([^ ]*debian\) .*/\1/p' /etc/apt/sources.list /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1) || true
packages() {
  local options=()
  if [[ -n ${1:-} ]]; then
    echo "deb $mirror $1 main" >"$home/next.list"
    options=(-o "Dir::Etc::sourcelist=$home/next.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$home/lists"
      -o "Dir::Cache=$home/cache" -o APT::Sandbox::User=root)
    rm -rf "$home/lists" && mkdir -p "$home/lists/partial"
    apt-get "${options[@]}" update -qq || return 1
  fi
  shift
  (cd "$home/debs" && apt-get "${options[@]}" -o APT::Sandbox::User=root download -qq "$@" >/dev/null)
}
plugins=$home/home/.docker/cli-plugins
for plugin in compose buildx; do
  for folder in /usr/libexec/docker/cli-plugins /usr/lib/docker/cli-plugins /usr/local/lib/docker/cli-plugins; do
    [[ -x $folder/docker-$plugin ]] && ln -sf "$folder/docker-$plugin" "$plugins/docker-$plugin"
  done
done
if [[ ! -e $plugins/docker-compose || ! -e $plugins/docker-buildx ]]; then
  packages trixie docker-compose docker-buildx || not_checked 'Compose 2 cannot be had'
  for deb in "$home"/debs/docker-*.deb; do dpkg -x "$deb" "$home/plugins"; done
  ln -sf "$home"/plugins/usr/libexec/docker/cli-plugins/docker-* "$plugins/"
  rm "$home"/debs/*
fi

ip netns add "$net" || not_checked 'no network of its own can be made'
inside=(nsenter "--net=/run/netns/$net")
"${inside[@]}" ip link set lo up
# Its own words for what it makes, so that two of these never meet.
"${inside[@]}" dockerd --data-root "$home/data" --exec-root "$home/exec" --pidfile "$home/pid" --host "$DOCKER_HOST" \
  --userland-proxy=true >"$home/engine.log" 2>&1 &
engine=$!
for _ in $(seq 150); do
  "$docker" version >/dev/null 2>&1 && break
  kill -0 "$engine" 2>/dev/null || { tail -n 5 "$home/engine.log" && not_checked 'the engine does not start'; }
  sleep 0.2
done
"$docker" version >/dev/null 2>&1 || { tail -n 5 "$home/engine.log" && not_checked 'the engine does not answer'; }

# What the base image has, out of Debian's packages: the C library, certificates, time zones, and two users.
root=$home/root
packages '' base-files netbase tzdata libc6 libgcc-s1 libstdc++6 busybox-static || not_checked 'the packages of the base image cannot be had'
for deb in "$home"/debs/*.deb; do dpkg -x "$deb" "$root"; done
mv "$root/bin/busybox" "$home/busybox" && rm -rf "$root/usr/share/"{doc,man,lintian}
mkdir -p "$root/tmp" "$root/etc/ssl/certs" && chmod 1777 "$root/tmp"
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true
printf 'root:x:0:0::/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n' >"$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$root/etc/group"
tar -C "$root" -c . | "$docker" import --change 'USER 65532' --change 'WORKDIR /home/nonroot' \
  --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - gcr.io/distroless/cc-debian12:nonroot >/dev/null
mkdir -p "$home/bb/bin" && cp "$home/busybox" "$home/bb/bin/busybox" && ln -s busybox "$home/bb/bin/sh"
for applet in cp ls cat id sleep rm; do ln -s busybox "$home/bb/bin/$applet"; done
tar -C "$home/bb" -c . | "$docker" import --change 'ENV PATH=/bin' - busybox >/dev/null
# Caddy keeps the body of a request that waits from 2.11.2 on; Debian 12 and 13 have 2.6.
rm "$home"/debs/*
if packages forky caddy && dpkg -x "$home"/debs/caddy_*.deb "$root"; then
  mkdir -p "$root/etc/caddy" "$root/data"
  tar -C "$root" -c . | "$docker" import --change 'ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config PATH=/usr/bin' \
    --change 'CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]' - caddy:2 >/dev/null
else
  echo 'NOT CHECKED: Docker: Caddy: its package cannot be had'
fi

# The compiler's image: this machine's toolchain and what cargo has fetched, on a small Debian.
if [[ " ${arguments[*]-} " == *' --source '* ]]; then
  command -v debootstrap >/dev/null || apt-get install -y -qq --no-install-recommends debootstrap >/dev/null
  builder=$home/builder
  debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$builder" "$mirror" >/dev/null
  HOME=$own_home cargo fetch --locked
  mkdir -p "$builder/usr/local/cargo/bin"
  cp -aL "$(HOME=$own_home rustc --print sysroot)" "$builder/usr/local/toolchain"
  cp -a "${CARGO_HOME:-$own_home/.cargo}/registry" "$builder/usr/local/cargo/"
  ln -s ../../toolchain/bin/cargo ../../toolchain/bin/rustc "$builder/usr/local/cargo/bin/"
  printf '[net]\noffline = true\n' >"$builder/usr/local/cargo/config.toml"
  tar -C "$builder" -c . | "$docker" import --change 'ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    - rust:1.95-bookworm >/dev/null
  rm -rf "$builder"
fi

# In the background, since bash hears no signal while it waits for what is in front.
"${inside[@]}" python3 scripts/docker_try.py "$binary" ${arguments[@]+"${arguments[@]}"} &
trial=$!
code=0
wait "$trial" || code=$?
trial=''
exit "$code"
