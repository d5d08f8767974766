#!/usr/bin/env bash
# Run what only a GPU can tell, unattended: the parts of gpu.py, the tests marked gpu, a sanitizer.
#
#   benchmarks/gpu_day.sh [measure|test|all] [OUT] [ADBENCH]
#
# "measure" and "test" take at most ten minutes each; "all", the default, is both. OUT (default:
# gpu-day) gets the output of each step, summary.txt and results/. ADBENCH is a folder of ADBench's
# .npz files. A step that fails, or needs longer than its limit, does not end the run; the exit
# status is 1 if there was one. Steps that cannot run here are skipped, and the summary says why.
set -uo pipefail
stage=${1:-all} out=${2:-gpu-day} adbench=${3:-}
case $stage in measure | test | all) ;; *)
    echo "The stage is measure, test or all, not '$stage'." >&2
    exit 2
    ;;
esac
mkdir -p "$out/results"
out=$(realpath "$out") adbench=${adbench:+$(realpath "$adbench")}
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
python=$(command -v python || command -v python3)
: > "$out/summary.txt"
has_failed=0 why_not=""

# What keeps steps from running that need these modules and a GPU; nothing if nothing does.
obstacle() {
    local name lacking=""
    for name in "$@"; do
        grep -qx "lacks $name" "$out/environment.txt" && lacking+=" $name"
    done
    if grep -q "^fault: " "$out/environment.txt"; then
        sed -n "s/^fault: //p" "$out/environment.txt"
    elif [ -n "$lacking" ]; then
        echo "Python lacks$lacking"
    fi
}

# step NAME SECONDS COMMAND...: run a command with a time limit, unless $why_not says why not to.
step() {
    local name=$1 limit=$2 began=$SECONDS status=0 outcome=ok
    shift 2
    if [ -n "$why_not" ]; then
        outcome="skipped: $why_not"
    else
        timeout --kill-after=5 "$limit" "$@" > "$out/$name.log" 2>&1 || status=$?
        case $status in
            0) ;;
            124 | 137) outcome="timed out after $limit s" ;;
            *) outcome="failed with exit status $status, see $name.log" ;;
        esac
        [ "$status" = 0 ] || has_failed=1
    fi
    printf '%-16s %4d s  %s\n' "$name" $((SECONDS - began)) "$outcome" | tee -a "$out/summary.txt"
}

"$python" - > "$out/environment.txt" << 'PYTHON' || echo "fault: Python or torch does not start" >> "$out/environment.txt"
import os
import shutil
import sysconfig
from importlib.metadata import entry_points
from importlib.util import find_spec

names = (
    "hypothesis narwhals numba numpy onnxruntime onnxscript pandas pluggy psutil pyod pytest ray"
    " rich safetensors scipy sklearn suod torch tqdm triton xdist"
)
lacking = [name for name in names.split() if find_spec(name) is None]
if not entry_points(group="pyod_ae_plugin"):
    lacking.append("pyod-ae-plugin")  # its networks and score heads are found by its metadata
compilers = [os.environ.get("CC", "cc"), "gcc", "clang"]
if not any(map(shutil.which, compilers)):
    lacking.append("a C compiler, without which Triton compiles nothing")
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    lacking.append("Python.h, without which Triton compiles nothing")
for name in lacking:
    print(f"lacks {name}")
if "torch" in lacking:
    print("fault: Python lacks torch")
else:
    import torch

    print("torch", torch.__version__)
    if torch.cuda.is_available():
        print("device", torch.cuda.get_device_name())
    else:
        print("fault: torch sees no CUDA device")
PYTHON
cat "$out/environment.txt"

needed=(narwhals numba numpy pluggy pyod pyod-ae-plugin rich safetensors scipy sklearn tqdm)
measure() { # NAME SECONDS [ARGUMENT ...]
    local name=$1 limit=$2
    shift 2
    step "$name" "$limit" "$python" benchmarks/gpu.py "$name" --results "$out/results" "$@"
}
if [ "$stage" != test ]; then
    why_not=$(obstacle "${needed[@]}")
    measure small 60
    measure resident 150
    measure host 75
    measure fit 130
    measure pyod 45
    measure row 25
    measure accuracy 75 ${adbench:+--adbench "$adbench"}
    cp "$out"/results/gpu.* benchmarks/results/ 2> /dev/null
fi

if [ "$stage" != measure ]; then
    tests=("$python" -m pytest -q -p no:cacheprovider --continue-on-collection-errors)
    mapfile -t marked < <(grep -l "mark\.gpu" tests/test_*.py | grep -v -e test_gpu -e test_triton)
    needed+=(hypothesis pandas pytest)
    why_not=$(obstacle "${needed[@]}")
    # alone, since they fill the memory of the card or count what is in it
    step tests-alone 180 "${tests[@]}" --durations 10 tests/test_gpu.py
    why_not=$(obstacle "${needed[@]}" xdist)
    step tests-gpu 90 "${tests[@]}" -n 8 -m gpu "${marked[@]}"
    why_not=$(obstacle "${needed[@]}" xdist triton)
    step tests-triton 90 "${tests[@]}" -n 12 tests/test_triton.py
    why_not=$(obstacle "${needed[@]}")
    [ -n "$why_not" ] || command -v compute-sanitizer > /dev/null || why_not="compute-sanitizer is not on PATH"
    for tool in memcheck racecheck; do
        step "$tool" 45 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            "$python" benchmarks/gpu.py small --results "$out/results"
    done
    why_not=$(obstacle "${needed[@]}" xdist)
    step suite 130 "${tests[@]}" -n 14 -m "not slow and not gpu" --device cuda \
        --ignore tests/test_gpu.py --ignore tests/test_triton.py
fi
exit "$has_failed"
