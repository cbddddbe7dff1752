#!/usr/bin/env bash
# Where the official checkpoints come from and what they become. Nothing is unpacked or run unchecked.
#   MOCO_URL, MOCO_SHA256   override the source of the backbone and the hash it must have
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p ckpts

cat <<'TABLE'
file                                  what it is                                        where its authors publish it
ckpts/moco_v2_800ep_pretrain.pth.tar  MoCo-v2 ResNet-50, the detector's backbone (MIT)  github.com/facebookresearch/moco
ckpts/moduv_final.pth                 MOD-UV, final detector        (request form)      github.com/YihongSun/MOD-UV
ckpts/moduv_m2m.pth                   MOD-UV, Moving2Mobile         (request form)      github.com/YihongSun/MOD-UV
ckpts/moduv_l2s_l.pth, _l2s_s.pth     MOD-UV, Large2Small           (request form)      github.com/YihongSun/MOD-UV
Weights behind the form were trained on Waymo Open: non-commercial, never shipped with this library.
TABLE

target=ckpts/moco_v2_800ep_pretrain.pth.tar
url="${MOCO_URL:-https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar}"
record=ckpts/SHA256SUMS
if [[ ! -f "$target" ]]; then
    echo "Fetching $target …"
    curl --fail --location --progress-bar --output "$target.part" "$url" || {
        rm -f "$target.part"
        echo "moduv: error: $url could not be fetched; download it by hand and save it as $target." >&2
        exit 2
    }
    mv "$target.part" "$target"
fi
found="$(sha256sum "$target" | cut -d' ' -f1)"
wanted="${MOCO_SHA256:-$(grep -s " $target\$" "$record" | cut -d' ' -f1 || true)}"
if [[ -z "$wanted" ]]; then
    echo "$found $target" >>"$record"
    echo "Recorded the hash of $target in $record; later runs check it."
elif [[ "$found" != "$wanted" ]]; then
    echo "moduv: error: $target has the hash $found instead of $wanted; delete it and fetch it again." >&2
    exit 2
fi
