"""The code that the README shows runs as it stands."""

import re
from pathlib import Path

import pytest

from paperweight.cli import main

README = Path(__file__).resolve().parents[1] / "README.md"


def test_a_method_alone_runs_and_learns():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    alone = next(block for block in blocks if "LaplacianSmoothingSGD" in block)
    names: dict[str, object] = {}
    exec("import torch; torch.manual_seed(0)\n" + alone, names)
    loss = eval("torch.nn.functional.cross_entropy(model(x), y).item()", names)
    assert loss < 1.0986  # that of a constant guess among three classes


def test_plant_train_and_audit_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    section = README.read_text(encoding="utf-8").partition("## Audit what")[2].partition("\n## ")[0]
    plant, audit = re.findall(r"^\$ paperweight (.*)$", section, re.MULTILINE)
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    assert "20_000" in code[1]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(f"{plant.replace('my_images/', 'digits')} --records 20".split())
    exec("import torch; torch.manual_seed(0)\n" + code[1].replace("20_000", "3"), {})
    with pytest.raises(SystemExit, match="0"):
        main(f"{audit.replace('my_images/', 'digits')} --readout replace --steps 5".split())
    assert "NO ALARM" in capsys.readouterr().out


def test_erase_and_audit_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    section = README.read_text(encoding="utf-8").partition("## Audit what was erased")[2].partition("\n## ")[0]
    (audit,) = re.findall(r"^\$ paperweight (.*)$", section, re.MULTILINE)
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    short = code[1]
    for long, few in (("8_000", "64"), ("1_000", "200"), ("1_400", "2"), ("steps=60", "steps=1")):
        assert long in short
        short = short.replace(long, few)
    exec("import torch; torch.manual_seed(0)\n" + short, {})
    with pytest.raises(SystemExit, match=r"^[01]$"):
        main(f"{audit} --count 10 --steps 2 --judge-steps 5".split())
    assert "Right images by word" in capsys.readouterr().out
