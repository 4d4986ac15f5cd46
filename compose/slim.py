"""Make an environment small, in the image's build: `slim.py ENVIRONMENT` removes what a server does not need;
`ENVIRONMENT/bin/python -I slim.py` imports what it does, so that byte code of that, and of nothing else, lies beside it.
"""

import importlib
import pkgutil
import shutil
import sys
from pathlib import Path

#: of Panel's bundled scripts, those that belong to widgets and templates no page of ours has
UNUSED_BUNDLES = (
    "abstractvtkplot", "aceplot", "bootstrap4", "bootstrap5", "codeeditor", "deckglplot", "echarts", "jsoneditor",
    "material-components-web@7.0.0", "muuri@0.9.5", "perspective", "plotlyplot", "quillinput", "react@17",
    "react-dom@17", "react-grid-layout@1.3.4", "reacttemplate", "reveal.js@4.5.0", "slidestemplate", "terminal",
    "vegaplot", "web-animations-js@2.3.2",
)  # fmt: skip
#: what is matched below site-packages
UNWANTED = (
    "**/tests", "**/*.map", "**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.pxi",
    "panel/examples", "panel/node_modules", "panel/package-lock.json", "panel/dist/dts", "panel/dist/panel.json",
    "panel/dist/panel.js", "panel/dist/bundled/babel-standalone@*",
    "panel/dist/bundled/@microsoft/fast-components@*/dist/fast-components.js",
    "panel/dist/bundled/font-awesome/js", "panel/dist/bundled/font-awesome/svgs", "panel/dist/bundled/font-awesome/sprites",
    "panel/dist/bundled/font-awesome/less", "panel/dist/bundled/font-awesome/scss",
    "panel/dist/bundled/font-awesome/metadata", "panel/dist/bundled/font-awesome/otfs",
    # what is not minified, and what compiles scripts: nobody here asks for it
    "bokeh/server/static/js/types", "bokeh/server/static/js/lib", "bokeh/server/static/lib", "bokeh/server/static/js/compiler.js",
    "bokeh/server/static/js/bokeh.js", "bokeh/server/static/js/bokeh-*[a-z].js.LICENSE", "bokeh/server/static/js/bokeh-mathjax.js",
    "bokeh/server/static/js/bokeh-widgets.js", "bokeh/server/static/js/bokeh-tables.js", "bokeh/server/static/js/bokeh-gl.js",
    "bokeh/server/static/js/bokeh-api.js",
    "numpy/_core/include", "numpy/_core/lib", "apprise/i18n", "pillow.libs/libavif-*", "PIL/_avif.*",
)  # fmt: skip


def slim(environment: Path) -> int:
    """Remove it; returns the bytes that went."""
    before = size(environment)
    for packages in environment.glob("lib/python3*/site-packages"):
        for pattern in UNWANTED:
            for path in sorted(packages.glob(pattern), reverse=True):
                remove(path)
        for bundle in UNUSED_BUNDLES:
            remove(packages / "panel" / "dist" / "bundled" / bundle)
    return before - size(environment)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size(folder: Path) -> int:
    """Bytes of all files below *folder*."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())


def compile_what_is_imported() -> int:
    """Import every module of ours, which writes byte code; returns how many."""
    done = 0
    for package in ("app", "workers"):
        root = importlib.import_module(package)
        for found in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not found.name.endswith("__main__") and ".dashboard" not in found.name:
                importlib.import_module(found.name)
                done += 1
    return done


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.stdout.write(f"imported {compile_what_is_imported()} modules\n")
        sys.exit()
    sys.stdout.write(f"removed {slim(Path(sys.argv[1])) / 1e6:.0f} MB\n")
