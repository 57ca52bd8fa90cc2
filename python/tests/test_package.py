"""What is shipped fits together: type stubs and module, versions, names."""

from __future__ import annotations

import ast
import inspect
import pathlib
import re
import subprocess
import sys
from typing import Dict, List

import hfreduce
from hfreduce import _native

HERE = pathlib.Path(__file__).resolve().parent
STUBS = ast.parse((HERE.parent / "hfreduce" / "_native.pyi").read_text())


def parameters(function: ast.FunctionDef) -> List[str]:
    a = function.args
    names = [x.arg for x in a.posonlyargs + a.args] + ([f"*{a.vararg.arg}"] if a.vararg else ["*"] if a.kwonlyargs else [])
    required = len(a.posonlyargs + a.args) - len(a.defaults)
    names = [n if i < required or n.startswith("*") else f"{n}=" for i, n in enumerate(names)]
    return names + [f"{x.arg}=" if d is not None else x.arg for x, d in zip(a.kwonlyargs, a.kw_defaults)]


def real_parameters(function: object) -> List[str]:
    names, seen = [], False
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and not seen:
            names.append("*")
            seen = True
        if p.kind is p.VAR_POSITIONAL:
            names.append(f"*{p.name}")
            seen = True
            continue
        names.append(f"{p.name}=" if p.default is not p.empty else p.name)
    return names


def test_stubs_describe_the_module() -> None:
    classes: Dict[str, ast.ClassDef] = {c.name: c for c in STUBS.body if isinstance(c, ast.ClassDef)}
    # Other files of the package may add classes of their own, which begin with an underscore or are not documented here.
    assert set(classes) >= {n for n in hfreduce.__all__ if inspect.isclass(getattr(hfreduce, n))}
    compared = 0
    for name, described in classes.items():
        real = getattr(_native, name)
        functions = {f.name: f for f in described.body if isinstance(f, ast.FunctionDef)}
        public = {n for n in dir(real) if not n.startswith("_") and n not in (dir(real.__base__) if issubclass(real, Exception) else [])}
        told = {n for n in functions if not n.startswith("_")}
        told |= {a.target.id for a in described.body if isinstance(a, ast.AnnAssign) and isinstance(a.target, ast.Name)}
        assert public == told, (name, public ^ told)
        for method, function in functions.items():
            decorators = {d.id for d in function.decorator_list if isinstance(d, ast.Name)}
            if "property" in decorators or "overload" in decorators or method.startswith("__"):
                continue
            assert real_parameters(getattr(real, method)) == parameters(function), (name, method)
            compared += 1
    assert compared > 35


def test_versions_are_in_step() -> None:
    package = re.search(r'^version = "(.+)"', (HERE.parent / "Cargo.toml").read_text(), re.M)
    library = re.search(r'^version = "(.+)"', (HERE.parents[1] / "Cargo.toml").read_text(), re.M)
    assert package and library and package[1] == library[1] == hfreduce.__version__


def test_everything_that_is_exported_is_there() -> None:
    assert all(hasattr(hfreduce, name) for name in hfreduce.__all__)
    assert len(set(hfreduce.__all__)) == len(hfreduce.__all__) > 8


def test_import_brings_in_no_array_library() -> None:
    code = "import hfreduce, sys; sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
