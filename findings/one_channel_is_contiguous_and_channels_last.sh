#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# Who turns grey images of (N, H, W, 1), as decoders give them, into (N, 1, H, W) by movedim would guess that it does not
# matter: with one channel both orders are the same in memory, is_contiguous() says yes, and contiguous() has nothing to do.
# But a convolution goes by the stride of the channel, which is 1 there, takes the images for channels_last, and gives its
# maps so. A network that calls view on its maps fails then, and works on equal images whose channel has another stride, such
# as a batch that index_select draws: it can be trained, and fails on the slices that it is evaluated on.
# clone(memory_format=torch.contiguous_format) mends the stride.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
cat > "$folder/one.py" <<'EOP'
import torch

moved = torch.rand(5, 8, 8, 1).movedim(3, 1)
convolution = torch.nn.Conv2d(1, 4, 3)
images = {
    "movedim": (moved, False),
    "movedim, contiguous()": (moved.contiguous(), False),
    "a slice": (moved[:3], False),
    "index_select": (moved.index_select(0, torch.arange(3)), True),
    "reshape of (N, H, W, 1)": (moved.movedim(1, 3).reshape(5, 1, 8, 8), True),
    "clone(memory_format=torch.contiguous_format)": (moved.clone(memory_format=torch.contiguous_format), True),
}
print(f"torch {torch.__version__}")
for words, (each, usual) in images.items():
    maps = convolution(each)
    try:
        maps.view(len(maps), -1)
        viewed = True
    except RuntimeError:
        viewed = False
    print(f"{words}: strides {each.stride()}, contiguous {each.is_contiguous()}; maps contiguous "
          f"{maps.is_contiguous()}, view {'works' if viewed else 'fails'}")
    assert each.is_contiguous()
    assert maps.is_contiguous() == viewed == usual
    assert torch.allclose(maps, convolution(moved)[: len(maps)], atol=1e-6)
EOP
"$folder/venv/bin/python" "$folder/one.py"
