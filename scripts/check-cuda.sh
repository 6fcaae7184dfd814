#!/bin/sh
# Checks that the CUDA build compiles, on a machine with neither a GPU nor a CUDA toolkit.
#
#     scripts/check-cuda.sh [FEATURES]          default: cudnn, which includes cuda
#
# The compiler comes from PyPI into $CUDA_TOOLKIT (default: target/cuda-toolkit, about 1 GB), once. Compiling candle's kernels
# takes most of half an hour on two cores, so this is for a nightly job or for running by hand. Nothing is linked or run,
# so cuDNN itself is not needed.
# Needs cargo and python3 with pip and venv.
set -eu

cd "$(dirname "$0")/.."
features=${1:-cudnn}
toolkit=${CUDA_TOOLKIT:-$PWD/target/cuda-toolkit}
home=$toolkit/nvidia/cu13

# Every part is pinned: cudarc 0.19 refuses toolkits newer than it knows, and a 13.5 nvvm beside a 13.0 ptxas fails with
# "Unsupported .version". The marker is written last, so a broken download is not taken for a toolkit.
if [ ! -e "$toolkit/complete" ]; then
    rm -rf "$toolkit"
    mkdir -p "$toolkit"
    python3 -m venv "$toolkit/venv"
    "$toolkit/venv/bin/pip" install --quiet --disable-pip-version-check --target "$toolkit" \
        'nvidia-cuda-nvcc==13.0.*' 'nvidia-nvvm==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-runtime==13.0.*' \
        'nvidia-cuda-cccl==13.0.*' 'nvidia-cublas==13.0.*' 'nvidia-cuda-nvrtc==13.0.*' \
        nvidia-curand
    rm -rf "$toolkit/venv"
    # Build scripts look for the names a toolkit installer would give.
    ln -s lib "$home/lib64"
    for library in cudart cublas cublasLt curand nvrtc; do
        for versioned in "$home/lib/lib$library".so.*; do
            ln -sf "$(basename "$versioned")" "$home/lib/lib$library.so"
        done
    done
    touch "$toolkit/complete"
fi

export CUDA_HOME="$home" CUDA_PATH="$home" CUDA_ROOT="$home" CUDA_TOOLKIT_ROOT_DIR="$home"
export PATH="$home/bin:$PATH"
# There is no GPU to ask: 8.0 is the A100, and runs on everything newer.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"

nvcc --version | tail -n 2
cargo check --all-targets --features "$features"
