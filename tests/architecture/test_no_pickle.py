"""Nothing that comes from elsewhere is ever run: no pickle, in any of its disguises."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOPS = ("common", "server", "client", "deploy")

MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = re.compile(
    r"\btorch\.(load|save)\b|\bload_checkpoint\b.*opacus|\bread_pickle\b|\bhub\.load\b"
)
KEYWORDS = {"allow_pickle": True, "weights_only": False}


def product_files() -> list[Path]:
    return [path for top in TOPS for path in sorted((ROOT / top).rglob("*.py"))]


def faults_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        match node:
            case ast.Import(names=names) if {n.name.split(".")[0] for n in names} & MODULES:
                yield f"{where}: import of {[n.name for n in names]}"
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                yield f"{where}: import from {module}"
            case ast.Attribute() if CALLS.search(ast.unparse(node)):
                yield f"{where}: {ast.unparse(node)}"
            case ast.keyword(arg=str(name), value=ast.Constant(value=value)):
                if name in KEYWORDS and value is KEYWORDS[name]:
                    yield f"{where}: {name}={value}"


def test_the_product_never_unpickles() -> None:
    found = [fault for path in product_files() for fault in faults_of(path)]

    assert not found


def test_numpy_files_are_opened_with_pickles_ruled_out() -> None:
    """NumPy rules them out by default, but a reader should not have to know."""
    loose = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in product_files()
        for line in path.read_text().splitlines()
        if re.search(r"\bnp\.load\(", line) and "mmap_mode" not in line
        if "allow_pickle=False" not in line
    ]

    assert not loose


def test_this_very_test_would_see_them(tmp_path: Path) -> None:
    source = (
        "import pickle\nfrom dill import loads\nimport torch\nx = torch.load('f')\n"
        "np.load('f', allow_pickle=True)\n"
    )
    planted = tmp_path / "planted.py"
    planted.write_text(source)

    found = {int(fault.split(":")[1]) for fault in faults_of(planted)}

    assert found == {1, 2, 4, 5}
