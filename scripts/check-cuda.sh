#!/bin/sh
# Checks that the CUDA build compiles, on a machine with neither a GPU nor a CUDA toolkit.
#
#     scripts/check-cuda.sh [FEATURES]          default: cudnn, which includes cuda
#
# All CUDA kernels are candle's, none is ours: so a stand-in takes the place of nvcc and leaves them empty, and Rust's compiler
# checks what calls them. That takes minutes; the kernels themselves would take most of half an hour. Nothing is linked or run.
# With flash-attn, a build script fetches CUTLASS from GitHub.
# Needs cargo. The folder target/cuda-check is its own, so that empty kernels never get into a build.
set -eu

cd "$(dirname "$0")/.."
features=${1:-cudnn}
export CARGO_TARGET_DIR="$PWD/target/cuda-check"
home=$CARGO_TARGET_DIR/toolkit
mkdir -p "$home/bin" "$home/include" "$home/lib64"

# What build scripts ask of nvcc: its version, and files in the place of what it would have compiled.
cat > "$home/bin/nvcc" <<'NVCC'
#!/bin/sh
folder=. output=
for argument; do
    case $argument in
    --version)
        # cudarc reads the fourth line.
        printf '%s\n' 'nvcc: NVIDIA (R) Cuda compiler driver' 'A stand-in' '' 'Cuda compilation tools, release 13.0, V13.0.88'
        exit
        ;;
    --output-directory=*) folder=${argument#*=} ;;
    esac
    case ${before:-} in
    -o | --output-file) output=$argument ;;
    --output-directory) folder=$argument ;;
    esac
    before=$argument
done
if [ -n "$output" ]; then : > "$output"; exit; fi
for argument; do
    case $argument in
    *.cu) : > "$folder/$(basename "$argument" .cu).ptx" ;;
    esac
done
NVCC
chmod +x "$home/bin/nvcc"

export CUDA_HOME="$home" CUDA_PATH="$home" CUDA_ROOT="$home" CUDA_TOOLKIT_ROOT_DIR="$home"
export PATH="$home/bin:$PATH"
# There is no GPU to ask: 8.0 is the A100, and runs on everything newer.
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"

cargo check --all-targets --features "$features"
