"""A report as one HTML page: it holds its pictures, styles and script, and loads nothing. Text of others is text."""

import base64
import functools
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segkd.runner.console import clock, number, percent, printable
from segkd.runner.run_folder.replacing import replacing
from segkd.runner.scoring.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

TEMPLATES = Path(__file__).parent / "templates"


def write_page(file: Path, template: str, **values: object) -> None:
    """Writes the page that a template of runner/scoring/templates/ makes of the values, in one atomic step."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    text = (
        _environment()
        .get_template(template)
        .render(
            # a browser runs this script and no other, whatever else may have found its way into the page
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            **values,
        )
    )
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        auto_reload=False,  # an update of segkd must not reach into a run
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "clock": clock}
    environment.globals |= {
        "drawing": {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    }
    return environment


def _shown(value: object) -> object:
    """What stands on the page for a value: of plain text, what does not print is written out."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
