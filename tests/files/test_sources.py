from drift.files.sources import imported_beside


def test_imports_are_followed_as_far_as_they_lie_beside(tmp_path):
    (tmp_path / "pkg").mkdir()
    files = {
        "mine.py": "import os, helper\nfrom pkg.deep import thing\n",
        "helper.py": "def f():\n    from pkg import deep\n    import mine\n",
        "pkg/__init__.py": "",
        "pkg/deep.py": "from . import other\nthing = 1\n",
        "pkg/other.py": "this is no Python",
        "unused.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    found = [
        f.relative_to(tmp_path.resolve()).as_posix() for f in imported_beside(tmp_path / "mine.py")
    ]
    assert found == ["helper.py", "pkg/__init__.py", "pkg/deep.py", "pkg/other.py"]
    assert [f.name for f in imported_beside(tmp_path / "pkg/deep.py")] == [
        "__init__.py",
        "other.py",
    ]
