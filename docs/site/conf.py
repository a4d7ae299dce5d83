"""How Sphinx builds the site; build.py stages the pages and calls it."""

import captune

project = "captune"
copyright = "captune maintainers"
release = captune.__version__
extensions = ["myst_parser"]
# a link may lead to any heading, under the name that GitHub gives it
myst_heading_anchors = 4
highlight_language = "none"
smartquotes = False  # it would make one dash of the two of --flag
# the site opens from a folder or a USB stick: no fonts, scripts or images from another host
html_theme = "furo"
html_title = "captune"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_use_index = False
