#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# Who keeps a network and all images in channels_last, to spare the conversion of every batch, would guess that a batch that is
# drawn from them is in channels_last, too, whichever way it is drawn: elementwise operations and convolutions keep the format,
# and images[numbers] does. But images.index_select(0, numbers), which draws the same batch, gives it in the
# default format, as gather, take_along_dim and repeat_interleave do; so every step converts again, in silence. Likewise
# torch.where keeps the format, and masked_fill, for the same values, does not; sort keeps it, and cumsum does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
cat > "$folder/one.py" <<'EOP'
import torch

images = torch.randn(8, 3, 4, 4).to(memory_format=torch.channels_last)
numbers = torch.tensor([3, 1])
spread = numbers.view(2, 1, 1, 1).expand(2, 3, 4, 4)
pairs = {
    "images[numbers]": (images[numbers], True),
    "images.index_select(0, numbers)": (images.index_select(0, numbers), False),
    "images.gather(0, ...)": (images.gather(0, spread), False),
    "images.take_along_dim(..., 0)": (images.take_along_dim(spread, 0), False),
    "images.repeat_interleave(2, 0)": (images.repeat_interleave(2, 0), False),
    "torch.where(images > 0, 0, images)": (torch.where(images > 0, 0.0, images), True),
    "images.masked_fill(images > 0, 0)": (images.masked_fill(images > 0, 0.0), False),
    "images.sort(0).values": (images.sort(0).values, True),
    "images.cumsum(0)": (images.cumsum(0), False),
}
print(f"torch {torch.__version__}")
for words, (batch, keeps) in pairs.items():
    kept = batch.is_contiguous(memory_format=torch.channels_last)
    print(f"{words}: {'channels_last' if kept else 'the default format'}")
    assert kept == keeps
assert torch.equal(pairs["images[numbers]"][0], pairs["images.index_select(0, numbers)"][0])
assert torch.equal(pairs["torch.where(images > 0, 0, images)"][0], pairs["images.masked_fill(images > 0, 0)"][0])
EOP
"$folder/venv/bin/python" "$folder/one.py"
