"""Signed distance functions in the picture plane, and a canvas that paints them.

The plane has its origin in the middle of the picture, x to the right and y down, both from -1 to 1. A distance is
negative inside a shape. Every argument is a tensor that broadcasts to shape (N, H, W): coordinates have that shape,
parameters are numbers or have shape (N, 1, 1). Formulas are the textbook ones; those marked as approximate are exact on
the boundary, which is all that painting needs.
"""

import torch
from torch import Tensor


def grid(n: int, size: int, *, device="cpu", dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """Coordinates (x, y) of the pixel centres of n pictures, each of shape (n, size, size), a view without copies."""
    axis = (torch.arange(size, device=device, dtype=dtype) + 0.5) * (2 / size) - 1
    return axis.view(1, 1, -1).expand(n, size, size), axis.view(1, -1, 1).expand(n, size, size)


def rotate(x: Tensor, y: Tensor, angle) -> tuple[Tensor, Tensor]:
    """Coordinates in a frame turned clockwise (on the screen) by angle, in radians."""
    c, s = torch.cos(torch.as_tensor(angle)), torch.sin(torch.as_tensor(angle))
    return c * x + s * y, c * y - s * x


def circle(x, y, r) -> Tensor:
    """Disc of radius r about the origin."""
    return torch.sqrt(x * x + y * y + 1e-12) - r


def ellipse(x, y, a, b) -> Tensor:
    """Ellipse with half-axes a and b about the origin (approximate)."""
    u, v = x / a, y / b
    k0 = torch.sqrt(u * u + v * v + 1e-12)
    k1 = torch.sqrt((u / a) ** 2 + (v / b) ** 2 + 1e-12)
    return k0 * (k0 - 1) / k1


def box(x, y, a, b, r=0.0) -> Tensor:
    """Rectangle with half-sides a and b about the origin, corners rounded by r."""
    u, v = x.abs() - a + r, y.abs() - b + r
    outside = torch.sqrt(u.clamp_min(0) ** 2 + v.clamp_min(0) ** 2 + 1e-12)
    return outside + torch.maximum(u, v).clamp_max(0) - r


def segment(x, y, x0, y0, x1, y1, r) -> Tensor:
    """Line from (x0, y0) to (x1, y1) with round ends, r to each side."""
    dx, dy = torch.as_tensor(x1 - x0), torch.as_tensor(y1 - y0)
    u, v = x - x0, y - y0
    along = ((u * dx + v * dy) / (dx * dx + dy * dy + 1e-12)).clamp(0, 1)
    return torch.sqrt((u - along * dx) ** 2 + (v - along * dy) ** 2 + 1e-12) - r


def taper(x, y, x0, y0, x1, y1, r0, r1) -> Tensor:
    """Line from (x0, y0) to (x1, y1) with round ends, r0 to each side at its start and r1 at its end (approximate)."""
    dx, dy = torch.as_tensor(x1 - x0), torch.as_tensor(y1 - y0)
    u, v = x - x0, y - y0
    along = ((u * dx + v * dy) / (dx * dx + dy * dy + 1e-12)).clamp(0, 1)
    return torch.sqrt((u - along * dx) ** 2 + (v - along * dy) ** 2 + 1e-12) - (r0 + (r1 - r0) * along)


def arc(x, y, w, sag, r) -> Tensor:
    """Stroke along the parabola y = sag (1 - (x/w)²), |x| <= w, with round ends, r to each side (approximate)."""
    inside = torch.maximum(torch.minimum(x, torch.as_tensor(w)), -torch.as_tensor(w))
    u = inside / w
    slope = 2 * sag * u / w
    across = (y - sag * (1 - u * u)) / torch.sqrt(1 + slope * slope)
    return torch.sqrt(across * across + (x - inside) ** 2 + 1e-12) - r


def triangle(x, y, x0, y0, x1, y1, x2, y2) -> Tensor:
    """Triangle with its corners in clockwise order on the screen (exact inside and along the sides)."""

    def edge(ax, ay, bx, by):
        ex, ey = torch.as_tensor(bx - ax), torch.as_tensor(by - ay)
        return ((x - ax) * ey - (y - ay) * ex) / torch.sqrt(ex * ex + ey * ey + 1e-12)

    sides = edge(x0, y0, x1, y1), edge(x1, y1, x2, y2), edge(x2, y2, x0, y0)
    return torch.maximum(torch.maximum(sides[0], sides[1]), sides[2])


def union(a, b) -> Tensor:
    """Either shape."""
    return torch.minimum(a, b)


def intersect(a, b) -> Tensor:
    """Both shapes."""
    return torch.maximum(a, b)


def subtract(a, b) -> Tensor:
    """The first shape without the second."""
    return torch.maximum(a, -b)


def smooth_union(a, b, k) -> Tensor:
    """Either shape, the seam rounded over a width of about k."""
    h = (k - (a - b).abs()).clamp_min(0)
    return torch.minimum(a, b) - h * h / (4 * k)


def smooth_intersect(a, b, k) -> Tensor:
    """Both shapes, the ridge rounded over a width of about k."""
    return -smooth_union(-a, -b, k)


class Canvas:
    """A batch of pictures that shapes are painted on, back to front; coverage is antialiased over one pixel.

    `ink`, shape (n,), says for each picture how strongly outlined shapes get their contour.
    """

    def __init__(self, n: int, size: int, *, ink: Tensor | None = None, device="cpu", dtype=torch.float32):
        self.x, self.y = grid(n, size, device=device, dtype=dtype)
        self.pixel = 2 / size
        self.rgb = torch.zeros(n, 3, size, size, device=device, dtype=dtype)
        self.ink = None if ink is None or not bool((ink > 0).any()) else ink.to(self.rgb).view(n, 1, 1)
        self.ink_colour = torch.tensor([0.13, 0.11, 0.14], device=device, dtype=dtype).view(1, 3, 1, 1)

    def cover(self, d: Tensor, soft=0.0) -> Tensor:
        """How much of each pixel lies inside the shape, in [0, 1], shape (N, H, W); soft widens the edge."""
        return (0.5 - d / (self.pixel + soft)).clamp(0, 1)

    def blend(self, colour: Tensor, weight: Tensor) -> None:
        """Mix a colour, shape (N or 1, 3) or (N, 3, H, W), in by a weight of shape (N, H, W) in [0, 1]."""
        colour = colour[..., None, None] if colour.ndim == 2 else colour
        self.rgb = torch.lerp(self.rgb, colour.expand_as(self.rgb), weight.unsqueeze(1))

    def paint(self, d: Tensor, colour: Tensor, alpha=1.0, *, soft=0.0, outline: float = 0.0) -> Tensor:
        """Fill a shape given by its distance d (N, H, W); return its coverage, for use as a mask."""
        cover = self.cover(d, soft)
        self.blend(colour, cover * alpha)
        if outline and self.ink is not None:
            width = torch.as_tensor(0.6 * self.pixel).clamp_min(outline)
            edge = self.cover(d.abs() - width) * self.ink
            self.blend(self.ink_colour.flatten(1), edge * alpha)
        return cover

    def shade(self, amount: Tensor) -> None:
        """Multiply brightness by 1 + amount, shape (N, H, W)."""
        self.rgb = self.rgb * (1 + amount).unsqueeze(1)
