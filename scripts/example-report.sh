#!/bin/sh
# Makes the example report: every method on every photo and painting at 256 pixels, measured by a network none of them optimised.
#
#     scripts/example-report.sh PHOTOS PAINTINGS REPORT [NETS]
#
# PHOTOS and PAINTINGS are folders. NETS is a folder of nets for one style each (`impasto train fast`), named like their paintings:
# NETS/starry_night.safetensors paints starry_night.jpg. From the environment:
#   IMPASTO    the program                                        [target/release/impasto]
#   METHODS    with commas between them                           [adain,gatys and the nets]
#   OPTIMISED  the network that gatys optimises for: name or file [vgg19]
#   JUDGE      another one, which measures                        [vgg16]
#   STEPS      of gatys at every size                             [40]
#   HED, LPIPS, CLIP   weights of more metrics                    [none]
#   MORE       further flags of `impasto compare`                 [none]
# Stopped, it goes on where it was. Time it on a machine that does nothing else: the report's seconds are its own.
set -eu

if [ $# -lt 3 ]; then
    sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
photos=$1 paintings=$2 report=$3 nets=${4:-}
impasto=${IMPASTO:-$(dirname "$0")/../target/release/impasto}
steps=${STEPS:-40}
methods=${METHODS:-adain,gatys}
if [ -z "${METHODS:-}" ] && [ -n "$nets" ]; then
    for net in "$nets"/*.safetensors; do
        name=$(basename "$net" .safetensors)
        # A net whose painting is not among them has nothing to paint here.
        for painting in "$paintings/$name".*; do
            if [ -e "$painting" ]; then methods=$methods,fast:$net; fi
        done
    done
fi

set -- compare --content "$photos" --style "$paintings" --methods "$methods" --size 256 \
    --backbone "${JUDGE:-vgg16}" --title "Style transfer compared" -o "$report"
case ,$methods, in
*,gatys,*)
    set -- "$@" --set "gatys.backbone=${OPTIMISED:-vgg19}" \
        --set "gatys.iterations=$steps" --set "gatys.coarse-iterations=$steps"
    ;;
esac
if [ -n "${HED:-}" ]; then set -- "$@" --hed "$HED"; fi
if [ -n "${LPIPS:-}" ]; then set -- "$@" --lpips "$LPIPS"; fi
if [ -n "${CLIP:-}" ]; then set -- "$@" --clip "$CLIP"; fi
# Several flags in one variable: they are meant to be split.
# shellcheck disable=SC2086
exec "$impasto" "$@" ${MORE:-}
