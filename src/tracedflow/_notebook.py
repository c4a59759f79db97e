"""What a notebook shows of an object that can be drawn. Knows the hooks of notebooks; the drawing comes from the drawer."""

from __future__ import annotations

from ._factories import made


class Drawn:
    """Something that a notebook shows as a drawing. It never raises: what cannot be drawn is shown as text."""

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        shown: dict[str, str] = made("drawer")(self)
        return shown

    def _repr_html_(self) -> str | None:
        return self._repr_mimebundle_().get("text/html")
