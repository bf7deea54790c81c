#!/usr/bin/env bash
# torch 2.13.0, on a CPU.
#
# What adds a gradient to a leaf's `grad` is a node of the graph, AccumulateGrad, and one would guess that a weight has the
# same one for as long as it lives, since get_gradient_edge gives it for the weight. But the weight holds it weakly. It
# lives as long as some graph does, so that it depends on when a training loop lets go of its last loss:
#  - `loss = loss.detach()` after each step, meant to save memory, has every weight's node made anew at each step; a loop
#    that keeps the name `loss` until the next one replaces it uses the same nodes throughout;
#  - a hook that was registered on the node, as some libraries of distributed training do, is called once in the first
#    loop, without a word, and at every step in the second. One on the weight itself stays in both.
# Evaluation without gradients between two steps does not matter; `del loss` does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "numpy<3"
cat > "$folder/one.py" <<'EOP'
import torch
from torch.autograd.graph import get_gradient_edge

STEPS = 6


def calls(after):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    of_node, of_weight = [], []
    model.weight.register_post_accumulate_grad_hook(lambda _: of_weight.append(1))
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(torch.ones(8, 4)).square().mean()
        if step == 0:
            get_gradient_edge(model.weight).node.register_hook(lambda *_: of_node.append(1))
        loss.backward()
        optimizer.step()
        if after == "loss = loss.detach()":
            loss = loss.detach()
        elif after == "del loss":
            del loss
        elif after == "evaluation":
            with torch.no_grad():
                model(torch.ones(2, 4))
        elif after == "losses.append(loss.detach())":
            kept = loss.detach()
    return len(of_node), len(of_weight)


print(f"torch {torch.__version__}: calls in {STEPS} steps of a hook on the node, and of one on the weight")
expected = {"nothing": STEPS, "losses.append(loss.detach())": STEPS, "evaluation": STEPS, "loss = loss.detach()": 1, "del loss": 1}
for after, node in expected.items():
    found = calls(after)
    print(f"after each step {after}: {found[0]} and {found[1]}")
    assert found == (node, STEPS)
EOP
"$folder/venv/bin/python" "$folder/one.py"
