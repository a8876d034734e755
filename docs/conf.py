"""The documentation: Markdown pages, and the reference from the docstrings."""

from importlib.metadata import version as installed

project = "lipt-cords"
author = "The lipt-cords founders"
version = release = installed("lipt-cords")
extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]  # fmt: skip
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lipt-cords"
html_show_sphinx = False
html_copy_source = False
myst_heading_anchors = 3
# Single backticks in docstrings are code, as on the pages.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_ivar = True
nitpicky = False
# Links to files of the repository (examples, licence) are no pages.
suppress_warnings = ["myst.xref_missing"]
