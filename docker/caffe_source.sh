# Functions of docker/build_caffe.sh that fetch Caffe's source from one of several places, and accept
# it by its checksum alone. That script sets `work`, `log` and `python`, and has say and die.
# shellcheck shell=bash disable=SC2154

# upstream's commit of 2018-08-21; Debian's tarball, made of it, holds the same files
VERSION=1.0.0+git20180821.99bd997
COMMIT=99bd99795dcdf0b1d3086a8d67ab1782a8a08383
TARBALL=caffe_$VERSION.orig.tar.gz
TREE_SHA256=40e059ef5413038c0efa9460777fb94fabca35676804d6409491a49e909849a5  # tree_hash of these files

# caffe_places: the places in the order in which they are tried: kind, then address
caffe_places() {
  local suite
  for suite in $(mirror_suites /etc/os-release); do
    echo "mirror $suite"
  done
  cat <<END_OF_PLACES
tarball https://archive.debian.org/debian/pool/main/c/caffe/$TARBALL
tarball https://snapshot.debian.org/archive/debian/20220101T000000Z/pool/main/c/caffe/$TARBALL
git https://github.com/BVLC/caffe.git
tarball https://github.com/BVLC/caffe/archive/$COMMIT.tar.gz
END_OF_PLACES
}

# mirror_suites OS_RELEASE: the releases with a source package caffe of this version, which a mirror
# may still have, and the machine's own
mirror_suites() {
  local ID="" VERSION_CODENAME=""
  # shellcheck source=/dev/null
  . "$1"
  case $ID in
    ubuntu) echo "jammy focal $VERSION_CODENAME" ;;
    *) echo "bullseye $VERSION_CODENAME" ;;
  esac | tr ' ' '\n' | awk 'NF && !seen[$0]++'
}

# tree_hash DIR: one hash over all files below DIR, names and contents, and links; not over .git
tree_hash() {
  (cd "$1" && {
     find . -type f -not -path './.git/*' -print0 | LC_ALL=C sort -z | xargs -0r sha256sum
     find . -type l -not -path './.git/*' -printf '%p -> %l\n' | LC_ALL=C sort
   }) | sha256sum | cut -d ' ' -f 1
}

# --- One place each: try_KIND ADDRESS TREE makes the folder TREE, or sets `reason` and returns 1

try_tarball() {
  reason=$(download "$1" "$work/download" 2>&1) || { reason=${reason##*$'\n'}; return 1; }
  unpack "$work/download" "$2"
}

try_git() {
  command -v git >/dev/null || { reason="git is not installed"; return 1; }
  if ! clone "$1" "$2" >"$work/git.log" 2>&1; then
    cat "$work/git.log" >>"$log"
    reason=$(grep -m 1 -E '^(fatal|error): ' "$work/git.log")
    return 1
  fi
  rm -rf "$2/.git"
}

# clone URL TREE: one commit, as it is
clone() {
  local git=(git -C "$2" -c core.autocrlf=false -c http.lowSpeedLimit=1000 -c http.lowSpeedTime=60)
  mkdir -p "$2"
  git init "$2" &&
    GIT_TERMINAL_PROMPT=0 "${git[@]}" fetch --depth 1 "$1" "$COMMIT" &&
    "${git[@]}" checkout FETCH_HEAD
}

try_mirror() {
  local apt_dir=$work/apt etc found
  command -v apt-get >/dev/null || { reason="this machine has no apt-get"; return 1; }
  rm -rf "$apt_dir"
  etc=$(apt-config shell etc Dir::Etc/d | sed "s|^etc='\(.*\)/'$|\1|")
  source_entries "$etc" "$apt_dir/parts" "$1"
  [ -n "$(ls "$apt_dir/parts")" ] || { reason="$etc names no such mirror"; return 1; }
  mkdir -p "$apt_dir/lists/partial" "$apt_dir/cache/archives/partial"
  local options=(-q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt_dir/parts"
                 -o Dir::State::lists="$apt_dir/lists" -o Dir::Cache="$apt_dir/cache"
                 -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1)
  { apt-get "${options[@]}" update &&
      (cd "$apt_dir" && apt-get "${options[@]}" source --download-only caffe)
  } >"$apt_dir/log" 2>&1 || {
    cat "$apt_dir/log" >>"$log"
    reason=$(sed -n 's/^E: //p' "$apt_dir/log" | head -n 1)
    return 1
  }
  found=$(find "$apt_dir" -maxdepth 1 -name 'caffe_*.orig.tar.*' | head -n 1)
  [ -n "$found" ] || { reason="the source package has no caffe_*.orig.tar.*"; return 1; }
  mv "$found" "$work/download"
  rm -rf "$apt_dir"
  unpack "$work/download" "$2"
}

# source_entries ETC_APT OUT_DIR SUITE: writes apt sources for the source packages of SUITE, derived
# from the machine's own entries for its release: mirror, keys and options stay the same.
source_entries() {
  local etc=$1 out=$2 suite=$3 codename component=main file
  codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  codename=${codename:-stable}
  ! grep -q '^ID=ubuntu$' /etc/os-release || component=universe
  mkdir -p "$out"
  for file in "$etc"/sources.list.d/*.sources; do  # stanzas of "Field: value" lines
    [ -f "$file" ] || continue
    awk -v codename="$codename" -v suite="$suite" -v component=$component '
      function value(field,   i, rest) {
        for (i = 1; i <= n; i++) if (tolower(line[i]) ~ "^" field ":") {
          rest = line[i]; sub(/^[^:]*:/, "", rest); return " " rest " "
        }
        return ""
      }
      function flush(   i, keep) {
        if (value("types") ~ /[ \t]deb[ \t]/ && value("components") ~ ("[ \t]" component "[ \t]") &&
            value("suites") ~ ("[ \t](" codename "|stable|oldstable|testing|unstable|sid)[ \t]") &&
            tolower(value("enabled")) !~ /[ \t]no[ \t]/) {
          print "Types: deb-src\nSuites: " suite "\nComponents: " component
          for (i = 1; i <= n; i++) {
            if (line[i] !~ /^[ \t]/)
              keep = tolower(line[i]) !~ /^(types|suites|components|architectures|enabled):/
            if (keep) print line[i]
          }
          print ""
        }
        n = 0
      }
      /^#/ {next}
      /^[ \t]*$/ {flush(); next}
      {line[++n] = $0}
      END {flush()}' "$file"
  done >"$out/source.sources"
  for file in "$etc/sources.list" "$etc"/sources.list.d/*.list; do  # deb [options] URI SUITE ...
    [ -f "$file" ] || continue
    sed -E 's/#.*//' "$file" | awk -v codename="$codename" -v suite="$suite" -v component=$component '
      $1 == "deb" {
        options = ""; rest = $0; sub(/^[ \t]*deb[ \t]+/, "", rest)
        if (match(rest, /^\[[^]]*\][ \t]*/)) {
          options = substr(rest, 1, RLENGTH); rest = substr(rest, RLENGTH + 1)
          gsub(/arch=[^] \t]*/, "", options)
        }
        fields = split(rest, part, /[ \t]+/); wanted = 0
        for (i = 3; i <= fields; i++) wanted = wanted || part[i] == component
        if (wanted && part[2] ~ ("^(" codename "|stable|oldstable|testing|unstable|sid)$"))
          print "deb-src " options part[1] " " suite " " component
      }'
  done >"$out/source.list"
  [ -s "$out/source.sources" ] || rm "$out/source.sources"
  [ -s "$out/source.list" ] || rm "$out/source.list"
}

# download URL FILE: http, https or file; prints the error in one line if it fails
download() {
  "$python" - "$1" "$2" <<'END_OF_PYTHON'
import http.client
import sys
import urllib.request

LIMIT = 1 << 28  # bytes: more is not what was asked for
url, path = sys.argv[1:]
try:
    with urllib.request.urlopen(url, timeout=60) as answer, open(path, "wb") as out:
        while block := answer.read(1 << 16):
            out.write(block)
            if out.tell() > LIMIT:
                sys.exit(f"{url} is longer than {LIMIT} bytes")
except (OSError, ValueError, http.client.HTTPException) as error:
    sys.exit(str(getattr(error, "reason", error)))
END_OF_PYTHON
}

# unpack TARBALL TREE: its content, without the top folder if there is only one
unpack() {
  local inner
  mkdir -p "$2"
  if ! tar -xf "$1" -C "$2" --no-same-owner 2>>"$log"; then
    reason="it is not a complete tarball"
    return 1
  fi
  inner=$(find "$2" -mindepth 1 -maxdepth 1 | head -n 2)
  if [ -n "$inner" ] && [ "$(wc -l <<<"$inner")" = 1 ] && [ -d "$inner" ]; then
    mv "$inner" "$2.inner" && rmdir "$2" && mv "$2.inner" "$2"
  fi
}

# --- All of them

# fetch_source TREE: makes the folder TREE, of exactly the files that TREE_SHA256 says, from the copy
# that an earlier build kept or from the first place that has it; keeps a copy
fetch_source() {
  local tree=$1 kept kind address place reason="" tried=()
  for kept in "$work/$TARBALL" "$HOME"/.local/caffe*.build/"$TARBALL"; do
    [ -f "$kept" ] || continue
    rm -rf "$tree"
    if unpack "$kept" "$tree" && right_content "$tree"; then
      say "Caffe's source: the copy kept in $(dirname "$kept")"
      [ "$kept" = "$work/$TARBALL" ] || cp "$kept" "$work/$TARBALL"
      return
    fi
    say "Caffe's source: not from $kept: $reason"
    tried+=("$kept: $reason")
  done
  while read -r kind address <&3; do  # not stdin, which apt-get and git read
    reason="" place=$address
    [ "$kind" != mirror ] || place="this machine's mirror ($address)"
    say "Caffe's source: fetching it from $place"
    rm -rf "$tree" "$work/download"
    if "try_$kind" "$address" "$tree" && right_content "$tree"; then
      if [ -f "$work/download" ]; then
        mv "$work/download" "$work/$TARBALL"
      else
        tar -czf "$work/$TARBALL.new" -C "$tree" . && mv "$work/$TARBALL.new" "$work/$TARBALL"
      fi
      return
    fi
    say "  not from there: ${reason:=no reason given}"
    tried+=("$place: $reason")
  done 3< <(caffe_places)
  rm -rf "$tree" "$work/download"
  die "Caffe's source (upstream's commit ${COMMIT:0:7}) came from none of ${#tried[@]} places" \
    "($(printf '%s; ' "${tried[@]}" | sed 's/; $//')): get $TARBALL on another machine and name it with --source"
}

# right_content TREE: it holds exactly the expected files; else sets `reason`
right_content() {
  [ "$(tree_hash "$1")" != "$TREE_SHA256" ] || return 0
  reason="its content is not that of upstream's commit ${COMMIT:0:7}"
  return 1
}

# take_source SOURCE TREE: the tarball or folder that --source names; a folder may be another version
take_source() {
  local reason=""
  rm -rf "$2"
  if [ -d "$1" ]; then
    mkdir -p "$2"
    (cd "$1" && find . -mindepth 1 -maxdepth 1 -not -name .git -exec cp -R {} "$2" \;)
    if right_content "$2"; then
      say "copied $1: the files of upstream's commit ${COMMIT:0:7}"
    else
      say "copied $1: not the files of upstream's commit ${COMMIT:0:7}, used as they are"
    fi
  elif ! unpack "$1" "$2" || ! right_content "$2"; then
    die "$1 is not Caffe's source: $reason"
  fi
  [ -f "$2/src/caffe/proto/caffe.proto" ] ||
    die "$1 holds no Caffe source (no src/caffe/proto/caffe.proto)"
}
