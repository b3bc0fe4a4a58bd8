"""What every product was made from: digests of code, configuration, software and files, and records.

Imported by the planner and by every job; standard library only.  Science never imports this module.  See
docs/staleness.md for the rules.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finalchar.errors import InputError
from finalchar.programs import needed_programs

__all__ = [
    "STAGES",
    "FileDigests",
    "Stage",
    "closure",
    "digest",
    "file_reason",
    "is_outside",
    "load",
    "located",
    "product_digest",
    "reasons",
    "save",
    "sha256",
    "software",
    "tally",
    "wanted",
    "with_product_digest",
]

LIBRARY = Path(__file__).resolve().parent
PACKAGE = LIBRARY.name
REGISTRIES = ("stars.selectors", "psf.determiners", "measure.plugins")
"""Packages whose modules are found by name at run time: they count as a whole."""
OUTSIDE = (
    "commands",
    "config",
    "frozen",
    "layout",
    "plan",
    "provenance",
    "records",
    "sheets",
    "strict_yaml",
    "tabulated",
    "tract_regions",
    "work",
)
"""Modules and packages no product depends on, beside ``config_...``: settings are compared by value, the rest
is record keeping."""


@dataclass(frozen=True)
class Stage:
    """One stage of the chain: where its code starts and which packages its numbers depend on."""

    modules: tuple[str, ...]
    packages: tuple[str, ...] = ()


NUMERICAL = (
    *("numpy", "scipy", "astropy", "fitsio", "piff", "galsim", "starlink-pyast", "sep"),
    *("lsstdesc.coord", "treegp", "pyerfa"),  # of Piff, GalSim and astropy, which leave numbers to them
)
STAGES: Mapping[str, Stage] = {
    "association": Stage(("stars.association",), ("numpy", "scipy")),
    "tract": Stage(("stars.tract",), ("numpy",)),
    "list": Stage(("stars.visit_list",), ()),
    "detector": Stage(("characterize", "formats.products"), NUMERICAL),
    "visit": Stage(("consolidate",), ()),
    "survey": Stage(("consolidate",), ()),
}


def sha256(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def digest(value: object) -> str:
    """Return 32 hexadecimal digits that stand for a JSON-like value; the order of keys does not matter."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())[:32]


# -- code --------------------------------------------------------------------------------------------
_ENTRY_POINT = re.compile(r"[a-z_0-9]+:[a-z_0-9]+\Z")
_DOCUMENTED = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IGNORED_FIELDS = frozenset({"type_comment", "kind", "ctx"})


def _meaning(node: object) -> object:
    """Return a syntax tree as nested lists without positions, docstrings and empty fields."""
    if isinstance(node, list):
        return [_meaning(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    parts: list[object] = [type(node).__name__]
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, _DOCUMENTED):
            value = [statement for statement in value if not _is_docstring(statement)]
        if value is not None and value != [] and name not in _IGNORED_FIELDS:
            parts.append([name, _meaning(value)])
    return parts


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _module_path(module: str) -> Path | None:
    """Return the source file of a module of the library, named without the package."""
    folder = LIBRARY.joinpath(*module.split(".")) if module else LIBRARY
    for path in (folder.with_suffix(".py") if module else folder / "__init__.py", folder / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """Return the modules of the library that a module imports, anywhere in its text.

    A text ``module:function`` counts as an import of the sibling `module`: so tables of functions that are
    imported when they are needed are written.
    """
    here = [PACKAGE, *module.split(".")] if module else [PACKAGE]
    names: set[str] = set()
    siblings = here if is_package else here[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _ENTRY_POINT.match(node.value):
            names.add(".".join([*siblings, node.value.split(":")[0]]))
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + is_package] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            names.add(start)
            names.update(f"{start}.{alias.name}" for alias in node.names)
    inside = {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")}
    return {name for name in inside if _module_path(name)}


def is_outside(module: str) -> bool:
    """Whether no product depends on a module of the library."""
    room = module.split(".")[0]
    return room in OUTSIDE or room.startswith("config_")


def _with_parents(modules: Iterable[str]) -> set[str]:
    """Add the packages that are executed on the way to the modules."""
    found: set[str] = set()
    for module in modules:
        parts = module.split(".")
        found.update(".".join(parts[: count + 1]) for count in range(len(parts)))
    return found


def _registered(module: str) -> set[str]:
    """Return all modules of a registry package, nothing for other modules."""
    if module not in REGISTRIES:
        return set()
    folder = LIBRARY.joinpath(*module.split("."))
    paths = folder.rglob("*.py")
    names = (".".join(path.relative_to(LIBRARY).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__") for name in names}


def _is_code_cache(value: Any) -> bool:
    """Whether a value is {module and digest of its bytes: [digest of its meaning, [modules it imports]]}."""
    return isinstance(value, dict) and all(
        isinstance(item, list) and [type(part) for part in item] == [str, list] for item in value.values()
    )


class CodeReader:
    """Digests of library modules; parsed trees are remembered by the bytes they were parsed from."""

    def __init__(self, cache: str | None = None) -> None:
        self._cache = cache
        known: Any = load(cache) if cache else None
        self._known: dict[str, list[Any]] = dict(known) if _is_code_cache(known) else {}
        self._fresh = False

    def module(self, module: str) -> tuple[str, list[str]]:
        """Return the digest of a module's meaning and the library modules it imports."""
        path = _module_path(module)
        if path is None:
            raise InputError(f"the library has no module {PACKAGE}.{module}: install it again")
        data = path.read_bytes()
        key = f"{module} {sha256(data)}"
        if key not in self._known:
            tree = ast.parse(data)
            self._known[key] = [
                digest(_meaning(tree)),
                sorted(_imports(tree, module, path.name == "__init__.py")),
            ]
            self._fresh = True
        meaning, imports = self._known[key]
        # a name may have become a module, or have ceased to be one, since the text was parsed
        return meaning, [name for name in imports if _module_path(name)]

    def closure(self, start: Sequence[str]) -> dict[str, str]:
        """Return {module: digest} of everything that is imported, directly or not, from `start` on."""
        found: dict[str, str] = {}
        open_modules = set(start)
        while open_modules:
            module = open_modules.pop()
            if module in found or is_outside(module):
                continue
            found[module], imports = self.module(module)
            open_modules |= _with_parents([module, *imports]) | _registered(module)
        return found

    def save(self) -> None:
        """Keep what was parsed for the next process."""
        if self._cache and self._fresh:
            save(self._cache, self._known)
            self._fresh = False


def closure(stage: str, reader: CodeReader | None = None) -> dict[str, str]:
    """Return {module: digest} of the code of a stage."""
    start = [module for module in STAGES[stage].modules if _module_path(module)]
    return (reader or CodeReader()).closure(start)


# -- software, configuration ---------------------------------------------------------------------------
@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def software(stage: str, settings: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return the versions of a stage's packages, of programs its settings ask for, and of Python."""
    versions = {package: _version(package) for package in STAGES[stage].packages}
    versions |= {program.name: program.version() for program in needed_programs(settings or {})}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions} if versions else {}


def ingredients(stage: str, settings: Mapping[str, object], reader: CodeReader) -> dict[str, Any]:
    """Return everything a stage depends on in full: {code: {...}, config: {...}, software: {...}}."""
    return {
        "code": closure(stage, reader),
        "config": json.loads(json.dumps(settings)),
        "software": software(stage, settings),
    }


def wanted(full: Mapping[str, Any], *, compare_software: bool) -> dict[str, str]:
    """Return the digests that are compared; versions only when they shall make products stale."""
    parts = ("code", "config", "software") if compare_software else ("code", "config")
    return {part: digest(full[part]) for part in parts if full[part] != {} or part != "software"}


# -- files ---------------------------------------------------------------------------------------------
Entry = list[Any]
"""What a record knows of a file: [path as the sheet gives it, size, mtime_ns, sha256], or `absent`."""


def absent(path: str) -> Entry:
    """Return the entry of a file that is not there."""
    return [path, None, None, None]


UNREADABLE = "unreadable"
"""Stands for the sha256 of a file that is there and cannot be read: its unit stays due."""


def located(folder: str, path: str) -> str:
    """Where a file is: paths of the sheets start at a folder unless they are absolute."""
    return path if path.startswith("/") else f"{folder}/{path}"


def entry(folder: str, name: str, data_digest: str) -> Entry:
    """Return the entry of the file `folder`/`name` whose bytes have the given sha256."""
    status = os.stat(os.path.join(folder, name))
    return [name, status.st_size, status.st_mtime_ns, data_digest]


@dataclass
class FileDigests:
    """sha256 of files, remembered by (path, size, mtime_ns).

    Attributes
    ----------
    cache : str or None
        File that keeps the digests between processes (one JSON line each; a line that a kill or a crash
        spoilt is skipped).
    limit : float
        Bytes after which nothing more is hashed: `of` then returns None and the jobs look themselves.
    trust_stat : bool
        False: size and time stamp prove nothing, every file is read.
    """

    cache: str | None = None
    limit: float = float("inf")
    trust_stat: bool = True
    hashed: int = 0
    _bytes: int = 0
    _known: dict[str, str] | None = None
    _fresh: dict[str, str] = field(default_factory=dict)

    def _remembered(self) -> dict[str, str]:
        if self._known is None:
            self._known = {}
            for line in _lines(self.cache):
                try:
                    key, value = json.loads(line)
                    self._known[key] = value
                except (ValueError, TypeError):
                    continue
        return self._known

    def of(self, path: str, status: os.stat_result | None = None) -> str | None:
        """Return the sha256 of a file, or None beyond the limit."""
        status = status or os.stat(path)
        key = f"{os.path.abspath(path)}|{status.st_size}|{status.st_mtime_ns}"
        known = self._remembered()
        if key not in known or not (self.trust_stat or key in self._fresh):
            if self._bytes + status.st_size > self.limit:
                return None
            known[key] = self._fresh[key] = hash_file(path)
            self.hashed += 1
            self._bytes += status.st_size
        return known[key]

    def save(self) -> None:
        """Append what was hashed to the cache."""
        if self.cache and self._fresh:
            os.makedirs(os.path.dirname(self.cache), exist_ok=True)
            with open(self.cache, "a") as file:
                file.writelines(json.dumps([key, value]) + "\n" for key, value in self._fresh.items())
            tally("hashed", str(len(self._fresh)))
            self._fresh = {}


def tally(*words: str) -> None:
    """Write one line for the tests that count jobs and hashed files."""
    if path := os.environ.get("FINALCHAR_TALLY"):
        with open(path, "a") as file:
            file.write(" ".join(words) + "\n")


def _lines(path: str | None) -> list[str]:
    if path is None or not os.path.exists(path):
        return []
    with open(path, errors="replace") as file:
        return file.readlines()


def hash_file(path: str) -> str:
    """Return the sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_reason(folder: str, path: str, known: Entry, digests: FileDigests) -> str | None:
    """Return why the file `folder`/`path` is not the one of a record's entry, None when it is.

    Same path in the sheet, size and mtime: the same file.  Same size but other time stamp or path: its
    bytes decide.  No inode, no root folder: archives move (workflow specification 2).
    """
    file = located(folder, path)
    try:
        status = os.stat(file)
    except OSError:
        return None if known[1] is None else "is missing"
    if known[1] is None:
        return "has appeared"
    if known[3] == UNREADABLE:
        return "could not be read"
    if status.st_size != known[1]:
        return "has another size"
    if digests.trust_stat and status.st_mtime_ns == known[2] and path == known[0]:
        return None
    found = digests.of(file, status)
    if found is None:
        return "has another time stamp and was not hashed (staleness.hash_limit_gb)"
    return None if found == known[3] else "has other content"


# -- records -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Inputs:
    """Inputs of a unit: files below one folder by role, digests of upstream products by name."""

    folder: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Paths of files that are not there."""
        return [path for path in self.files.values() if not os.path.exists(located(self.folder, path))]


def reasons(
    record: Mapping[str, Any] | None,
    want: Mapping[str, str],
    inputs: Inputs,
    product_folder: str,
    digests: FileDigests,
) -> list[str]:
    """Return the reasons why a unit is due; an empty list when its record holds."""
    if not record:
        return ["there is no sound record"]
    made_with = record["wanted"]
    found = [f"{part} changed" for part, value in want.items() if made_with.get(part) != value]
    known = record["inputs"]
    if len(known) != len(inputs.files) + len(inputs.upstream):
        found.append("the set of inputs changed")
    for name, value in inputs.upstream.items():
        if known.get(name) != value:
            found.append(f"{name} changed")
    for role, path in inputs.files.items():
        if role not in known or isinstance(known[role], str):
            found.append(f"{role} is new")
        elif why := file_reason(inputs.folder, path, known[role], digests):
            found.append(f"{role} {path} {why}")
    for item in record["outputs"].values():
        if why := file_reason(product_folder, item[0], item, digests):
            found.append(f"product {item[0]} {why}")
    return found


def product_digest(record: Mapping[str, Any]) -> str:
    """Return the digest of what a unit gives to the next one: its status and the bytes of its products.

    It is kept in the record (`with_product_digest`): planning asks for it once per detector.
    """
    return str(record["product"])


def with_product_digest(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record that holds the digest of its status and products."""
    outputs = {name: item[3] for name, item in record["outputs"].items()}
    return {**record, "product": digest([record.get("status"), outputs])}


def load(path: str) -> Any:
    """Return the content of a JSON file; None when it is absent or cut.

    Whether it has the shape that is expected is asked in `finalchar.records`.
    """
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def save(path: str, data: object) -> None:
    """Write bytes, or a value as JSON: whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{os.getpid()}.tmp"
    content = data if isinstance(data, bytes) else json.dumps(data, separators=(",", ":")).encode()
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
