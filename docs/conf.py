"""How the reference is built; the pages of methods are written by `pages` when the build begins."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages

project = "paperweight"
author = "the paperweight developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "paperweight"
html_static_path = ["static", "../src/paperweight/reports/templates/style.css"]
html_css_files = ["style.css", "board.css"]
html_js_files = ["board.js"]
html_copy_source = False
html_show_sphinx = False
exclude_patterns = ["*.py", "static"]
default_role = "code"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Yields", "returns_style")]
python_use_unqualified_type_names = True
toc_object_entries = False

_LITERAL = re.compile(r"(``.+?``|`[^`]+`)")


def _escape(line: str) -> str:
    """Keep what is a bar or a star in mathematics from being markup; literals stay."""
    parts = _LITERAL.split(line)
    return "".join(part if index % 2 else re.sub(r"([|*])", r"\\\1", part) for index, part in enumerate(parts))


def _plain_mathematics(app, what, name, obj, options, lines):
    """Escape bars and stars outside of examples."""
    example = False
    for index, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example and not line.lstrip().startswith((":", "..", "* ")):
            lines[index] = _escape(line)


def setup(app):
    """Write the generated pages, and read docstrings before they are taken for markup."""
    app.connect("builder-inited", lambda app: pages.write(Path(app.srcdir)))
    app.connect("autodoc-process-docstring", _plain_mathematics, priority=400)
