"""The explorer: the latent space under a person's hands, in JupyterLab and as an app.

`Explorer(model)` is the widget. Everything that it does is done by lsvd.explorer.session, which knows no widgets, and
what is on the screen is determined by a lsvd.explorer.recipe.Recipe alone: from it the picture is drawn, the code cell
written, and the state restored.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsvd.explorer.widget import Explorer

__all__ = ["Explorer"]


def __getattr__(name: str) -> Any:
    if name != "Explorer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lsvd.explorer.widget import Explorer  # needs anywidget, which the rest does not

    return Explorer
