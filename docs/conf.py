"""The site: `make docs`. Pages written by hand stand here; `pages.py` makes those of notebooks and of the reference."""

import sys
import tomllib
from pathlib import Path

from docutils.utils.math.latex2mathml import tex2mathml

sys.path.insert(0, str(Path(__file__).parent))
import pages

ABOUT = tomllib.loads((pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project, copyright, language = ABOUT["name"], "the authors of unirg, Apache-2.0", "en"
extensions = ["myst_nb"]
exclude_patterns = ["_build", "executed"]
templates_path, html_static_path, html_css_files = ["_templates"], ["_static"], ["unirg.css"]
# numbers and outputs are as the notebooks keep them: nothing is run by the build
nb_execution_mode, nb_output_stderr, nb_number_source_lines = "off", "remove", False
myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist", "deflist"]
myst_dmath_allow_labels, myst_dmath_allow_space, myst_dmath_allow_digits = False, False, False
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a notebook may begin a part with ### where the eye wants it small
python_maximum_signature_line_length = 80
add_module_names = False
html_theme, html_title = "furo", "unirg"
html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"  # browsers read it without a script
html_theme_options = {"footer_icons": [], "top_of_page_buttons": []}


def visit_math(self, node):
    self.body.append(tex2mathml(node.astext(), as_block=not node.tagname == "math"))
    raise pages.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math, None))
    app.connect("builder-inited", lambda app: pages.write_pages(Path(app.srcdir)))
