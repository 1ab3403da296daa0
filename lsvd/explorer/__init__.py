"""The explorer: the latent space in a person's hands, in JupyterLab and as an app.

`Explorer(model)` is the widget. lsvd.explorer.session does all its work without widgets. A lsvd.explorer.recipe.Recipe
alone determines the screen: it draws the picture, writes the code cell, and restores the state.
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
