"""Digests of content: every byte, through links; and of code, by what it imports."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.test_architecture import imports
from theory.common import identity
from theory.common.identity import ROOT, code_digest, content_digest, option_files, sources

NAMES = ("a.txt", "sub/b.bin", "sub/deep/c")


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "folder"
    for name in NAMES:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    return place


# --- content


def test_every_change_to_a_folder_is_another_content(folder):
    seen = [content_digest(folder)]

    def changed():
        seen.append(content_digest(folder))
        return len(set(seen)) == len(seen)

    for name in NAMES:
        (folder / name).write_text(name.upper())  # the same length
        assert changed()
    (folder / "sub" / "b.bin").rename(folder / "b.bin")
    assert changed()
    (folder / "new").touch()
    assert changed()
    (folder / "link").symlink_to(folder / "nowhere")
    assert changed()
    (folder / "nowhere").write_text("somewhere")
    assert changed()


def test_what_does_not_change_a_folders_content(folder, tmp_path):
    """Its place, times, hidden entries, empty folders, links instead of copies."""
    first = content_digest(folder)
    os.utime(folder / "a.txt", (1, 1))
    (folder / ".git").mkdir()
    (folder / ".git" / "x").write_text("x")
    (folder / "empty").mkdir()
    assert content_digest(folder) == first
    other = tmp_path / "elsewhere"
    other.symlink_to(folder)
    assert content_digest(other) == content_digest(str(other)) == first
    (folder / "a.txt").rename(tmp_path / "kept")
    (folder / "a.txt").symlink_to(tmp_path / "kept")
    assert content_digest(folder) == first


def test_a_link_back_ends(folder):
    (folder / "sub" / "back").symlink_to(folder)
    first = content_digest(folder)
    (folder / "a.txt").write_text("other")
    assert content_digest(folder) != first


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        content_digest(tmp_path / "nowhere")


def test_files_that_stay_are_read_once_and_changed_ones_again(tmp_path, monkeypatch):
    """A file is trusted by its times once these are old enough to show another change."""
    file, reads = tmp_path / "weights", []
    file.write_bytes(b"one")
    sha256 = identity.sha256
    monkeypatch.setattr(identity, "sha256", lambda path: reads.append(path) or sha256(path))
    first = content_digest(file)
    file.write_bytes(b"two")  # as fast as it can be
    second = content_digest(file)
    assert second != first
    monkeypatch.setattr(identity, "SETTLED", 0)
    assert [content_digest(file) for _ in range(3)] == [second] * 3
    assert len(reads) == 3
    times = file.stat()
    file.write_bytes(b"six")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # mtime alone can be made up
    assert content_digest(file) not in (first, second)


@dataclass(frozen=True)
class Options:
    model: str
    place: Path
    kind: Literal["kept", "other"] = "kept"
    size: int = 3


def test_files_that_options_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("kept").write_text("a choice of this name is no file")
    found = option_files(Options("folder", Path("~/folder/a.txt")))
    assert found == {
        "folder": content_digest(folder), "~/folder/a.txt": content_digest(folder / "a.txt"),
    }  # fmt: skip
    assert option_files(Options("", Path("nowhere"))) == {}


# --- code


def test_imports_are_followed_to_their_end():
    """By another walk (tests/test_architecture.py): whatever a source imports is a source."""
    found = sources("toys.training.trainer")
    assert "theory/tilts/conditional.py" in found
    for name, file in found.items():
        assert file == ROOT / name
        for module in imports(file.read_text(), depth=9):
            if module.split(".")[0] not in identity.PACKAGES:
                continue
            whole, inner = (
                [f"{stem}.py", f"{stem}/__init__.py"]
                for stem in (module.replace(".", "/"), module.rpartition(".")[0].replace(".", "/"))
            )
            assert set(found) & {*whole, *inner}, (name, module)


def test_files_of_ones_own(tmp_path):
    """Relative and absolute imports, packages' own files, cycles; libraries are none."""
    package = tmp_path / "plumbline_own"
    (package / "inner").mkdir(parents=True)
    texts = {
        "mine.py": "import numpy, json\nfrom plumbline_own import a\n",
        "plumbline_own/__init__.py": "",
        "plumbline_own/a.py": "from . import b\nfrom .inner.c import x\n",
        "plumbline_own/b.py": "import plumbline_own.a\nimport theory.common.checks\n",
        "plumbline_own/inner/__init__.py": "from ..d import y\n",
        "plumbline_own/inner/c.py": "x = 1\n",
        "plumbline_own/d.py": "y = 1\n",
        "plumbline_own/unused.py": "z = 1\n",
        "json.pyx": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = sources(tmp_path / "mine.py")
    own = {str(tmp_path / n) for n in texts if n not in ("plumbline_own/unused.py", "json.pyx")}
    assert {n for n in found if not identity.is_plumblines(n)} == own
    ours = {"__init__", "common/__init__", "common/face", "common/checks"}
    assert {n for n in found if identity.is_plumblines(n)} == {f"theory/{n}.py" for n in ours}
    before = code_digest(tmp_path / "mine.py")
    (package / "d.py").write_text("y = 2\n")
    assert code_digest(tmp_path / "mine.py") != before


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("from theory import Tilt", "tilts/tilt", "recursion/online"),
        ("from theory.methods import Method", "methods/contract/method", "methods/matching/nft"),
        ("import theory", "recursion/online", "methods/matching/nft"),
    ],
)
def test_faces_are_looked_through(tmp_path, text, inside, outside):
    """What a name that a face gives late leads to, and not what its other names do."""
    (tmp_path / "mine.py").write_text(f"{text}\n")
    found = sources(tmp_path / "mine.py")
    assert f"theory/{inside}.py" in found
    assert f"theory/{outside}.py" not in found


def test_what_only_type_checkers_read_is_no_source(tmp_path):
    (tmp_path / "mine.py").write_text("if TYPE_CHECKING:\n    import theory.common.checks\n")
    assert len(sources(tmp_path / "mine.py")) == 1


def test_files_on_pythons_path(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "plumbline_helper.py").write_text("x = 1\n")
    (tmp_path / "mine.py").write_text("import plumbline_helper\n")
    assert len(sources(tmp_path / "mine.py")) == 1
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "lib")])
    assert len(sources(tmp_path / "mine.py")) == 2


@pytest.mark.parametrize("root", ["theory.nothing", "nowhere/mine.py"])
def test_roots_that_are_not_there(root):
    with pytest.raises(FileNotFoundError, match=r"no such (module|file)|No such file"):
        sources(root)


def test_a_file_that_is_no_python(tmp_path):
    (tmp_path / "mine.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=r"mine\.py: no Python"):
        sources(tmp_path / "mine.py")
