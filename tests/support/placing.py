"""Edits' settings in short: where codes are taken and how they are integrated, as lsvd.avi.edit.edit_prompt has it."""

from lsvd.avi.placement import Placement

WHERE = ("tx", "dtau", "branch", "same_level")


def place(**settings) -> dict:
    """Arguments of edit_prompt from those of a Placement, a `config`, and others, which stay."""
    placement = Placement(**{name: settings.pop(name) for name in WHERE if name in settings})
    method = {"method": settings.pop("config")} if "config" in settings else {}
    return {"placement": placement, **method, **settings}
