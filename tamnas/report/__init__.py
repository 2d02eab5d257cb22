"""Tables, figures and the page, made from plans and results alone.

`collect` reads; `checks`, `table`, `tables` and `published` put numbers into tables; `metrics` holds the
few that DVC compares; `style`, `figures` and `drawing` draw; `page` writes the HTML and the
README; `build` puts all of it together. Only `style`, `figures` and `drawing` import matplotlib.
"""
