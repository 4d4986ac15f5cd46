"""Run the notebooks and keep their outputs as a code host can show them: small, and of no machine.

``make notebook-outputs`` (or ``python notebooks/take.py 03`` for some). Scripts and widgets are left out,
of a chart its picture stays; paths, hosts, process ids and ports become words.
"""

import getpass
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
#: kinds of output that read well without a script, the best first
KEPT = ("image/svg+xml", "text/html", "text/plain")
SWAPS = (
    (re.compile(re.escape(str(HERE.parent))), "<checkout>"),
    (re.compile(re.escape(str(Path.home()))), "<home>"),
    (re.compile(r"/tmp/[\w.-]+"), "<directory>"),
    (re.compile(rf"\b{re.escape(socket.gethostname())}(-\d+)?(-[0-9a-f]{{4,}})?"), "host"),
    (re.compile(rf"notebook of {re.escape(getpass.getuser())}"), "notebook of you"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:6381"),
    (re.compile(r"<script.*?</script>", re.DOTALL), ""),
)


def plain(text: str) -> str:
    """*text* without what tells of this machine."""
    for pattern, word in SWAPS:
        text = pattern.sub(word, text)
    return text


def kept(output: Any) -> Any:
    """The output as it is kept; None: not at all."""
    kind = output["output_type"]
    if kind == "stream":
        return None if output["name"] == "stderr" else {**output, "text": plain(output["text"])}
    if kind == "error":
        raise SystemExit(f"{output['ename']}: {output['evalue']}")
    data = output["data"]
    names = [name for name in KEPT if name in data]
    if "image/svg+xml" in names:
        names = ["image/svg+xml"]  # beside it is only what draws the same with scripts
    elif any("javascript" in name or "holoviews" in name or "widget" in name for name in data):
        return None
    chosen = {
        name: plain(data[name]) for name in names if name != "text/html" or "<script" not in data[name]
    }
    return {**output, "data": chosen, "metadata": {}} if chosen else None


def take(path: Path) -> None:
    """Run one notebook and write it back."""
    began = time.monotonic()
    book = nbformat.read(path, 4)
    NotebookClient(book, timeout=180, resources={"metadata": {"path": str(HERE)}}).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            found = [made for one in cell.outputs if (made := kept(one)) is not None]
            cell.outputs = [nbformat.from_dict(one) for one in found]
    book.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    nbformat.write(book, path)
    size = path.stat().st_size // 1024
    sys.stdout.write(f"{path.name}: {time.monotonic() - began:.1f} s, {size} KB\n")


if __name__ == "__main__":
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    wanted = sys.argv[1:] or [""]
    for notebook in sorted(HERE.glob("*.ipynb")):
        if any(notebook.name.startswith(name) for name in wanted):
            take(notebook)
